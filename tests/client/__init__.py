"""Tests of the producers: the state machine, the shells, and the real server killed under them."""

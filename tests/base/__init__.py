"""Tests of the package that every other one uses."""

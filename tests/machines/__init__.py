"""Tests of webhookd on its own machine: under a real systemd, and in a container that its Dockerfile builds."""

"""Observing the server: logs, metrics, statistics, the last attempts, stalls of the loop, and sd_notify."""

"""Logs, metrics and other observations of the server."""

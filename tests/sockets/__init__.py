"""Listening sockets and their peers."""

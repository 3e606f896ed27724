"""Listening sockets: how they are bound, how connections are accepted, and who is at the other end of a Unix socket."""

"""End-to-end tests: a real server process, real sockets, real receivers."""

"""A port to be known before anything listens on it, for what is started again, or by another program."""

import random
import socket

# Below the kernel's ephemeral ports, which any connection out may take in the meantime, even one to the port itself.
_RANGE = range(20_000, 32_000)


def free_port() -> int:
    """Return a port of loopback that was free a moment ago."""
    while True:
        port = random.choice(_RANGE)  # noqa: S311 - parallel runs should differ, no more
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port

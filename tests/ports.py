"""Reserve a port before a program listens on it: for restarts, for other programs, and for a closed port."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """Yield a loopback port on which nothing listens, and reserve it.

    The port is bound here with SO_REUSEADDR but doesn't listen. A server that also sets this option, as all of them do,
    can bind it and listen, any number of times; until then, connections are refused. The kernel does not assign the
    port to a program that asks for any free port, or to an outgoing connection.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]

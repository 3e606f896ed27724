"""A port that is known before anything listens on it: for what is started again, for other programs, and for nobody."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def held_port() -> Iterator[int]:
    """Give a port of loopback on which nobody listens, and keep it from everybody else.

    It is bound here with SO_REUSEADDR and doesn't listen: a server that sets the same option, as they all do, can bind
    it and listen, again and again, and connections are refused meanwhile. The kernel gives it to nobody who asks for
    any port, nor to a connection out.
    """
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]

"""Reserve a port before a program listens on it: for restarts, for other programs, and for a closed port."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

EVERYWHERE = ("0.0.0.0", "::1")
_TRIES = 100
_ABSENT = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


@contextmanager
def held_port(*hosts: str) -> Iterator[int]:
    """Yield a port on which nothing listens at these addresses (127.0.0.1), and reserve it there.

    The port is bound here with SO_REUSEADDR but doesn't listen. A server that also sets this option, as all of them do,
    can bind it and listen, any number of times; until then, connections are refused. The kernel does not assign the
    port to a program that asks for any free port, or to an outgoing connection. Addresses that the machine doesn't have
    are left out.
    """
    for _ in range(_TRIES):
        with ExitStack() as holders:
            port = 0
            try:
                for host in hosts or ("127.0.0.1",):
                    port = _hold(holders, host, port) or port
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
                continue  # it is taken at one of the addresses
            yield port
            return
    raise AssertionError("no port is free at all of these addresses")


def _hold(holders: ExitStack, host: str, port: int) -> int | None:
    try:
        holder = holders.enter_context(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET))
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind((host, port))
    except OSError as error:
        if error.errno in _ABSENT:
            return None
        raise
    return int(holder.getsockname()[1])

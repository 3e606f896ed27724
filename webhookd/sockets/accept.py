"""Accepting connections on a listening socket, also when the machine is out of file descriptors or memory."""

import errno
import os
import socket
from collections.abc import Callable
from math import inf

import trio

_OVERLOADED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_OVERLOAD_PAUSE_SECONDS = 0.5
_LOG_PAUSE_SECONDS = 1.0


async def accept(
    bound: socket.socket, take: Callable[[trio.SocketStream], None], log_overload: Callable[[str], None]
) -> None:
    """Pass each new connection to `take`, which must not wait, until canceled.

    If the machine has no resources for another connection, `log_overload` gets the reason and accepting pauses for half
    a second; meanwhile connections wait in the backlog.
    """
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
    while True:
        try:
            stream = await listener.accept()
        except OSError as error:
            if error.errno not in _OVERLOADED:
                raise
            log_overload(os.strerror(error.errno))
            await trio.sleep(_OVERLOAD_PAUSE_SECONDS)
        else:
            take(stream)


class RefusedConnections:
    """Counts refused connections for the log, which gets one line a second at most: clients can't fill it."""

    def __init__(self) -> None:
        self._count = 0
        self._logged_at = -inf

    def count(self) -> int:
        """Count one; return how many were refused since the last log line, or 0 if none is due."""
        self._count += 1
        now = trio.current_time()
        if now - self._logged_at < _LOG_PAUSE_SECONDS:
            return 0
        count, self._count, self._logged_at = self._count, 0, now
        return count

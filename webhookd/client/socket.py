"""Blocking connections to the server's socket, with the standard library alone."""

import socket
import time

from webhookd.base.errors import ErrorCode
from webhookd.client.answers import Lost
from webhookd.client.outbox import Outbox

CHUNK_BYTES = 262_144
_LONGEST_WAIT_SECONDS = 86_400.0
# They refuse the producer and not an event: its user may not use the socket.
FINAL_CODES = frozenset({ErrorCode.FORBIDDEN})


class SocketLink:
    """At most one connection to the socket at a time, made when it is needed."""

    final_codes = FINAL_CODES

    def __init__(self, path: str) -> None:
        self._path = path
        self._socket: socket.socket | None = None

    def close(self) -> None:
        """Close the connection; the next step makes another."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None

    def step(self, outbox: Outbox, *, wait: bool) -> bool:
        """Send all unsent events, then read results, and with `wait` wait for some; return whether there were any.

        Raises Lost if the connection fails.
        """
        connection = self._connected(outbox)
        connection.settimeout(seconds_left(outbox))
        try:
            while lines := outbox.take_unsent(CHUNK_BYTES):
                connection.sendall(lines)
        except OSError as error:
            # A server that refuses the connection sends the reason before it closes: read it.
            _receive(connection, outbox, 0.0)
            raise Lost(f"the connection was lost: {error.strerror or error}") from error
        return _receive(connection, outbox, seconds_left(outbox) if wait else 0.0)

    def _connected(self, outbox: Outbox) -> socket.socket:
        if self._socket is not None:
            return self._socket
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(seconds_left(outbox))
        try:
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            raise Lost(f"can't connect: {error.strerror or error}") from error
        self._socket = connection
        return connection


def _receive(connection: socket.socket, outbox: Outbox, seconds: float) -> bool:
    connection.settimeout(seconds)
    try:
        chunk = connection.recv(CHUNK_BYTES)
    except BlockingIOError:
        return False
    except OSError as error:
        raise Lost(f"no answer: {error.strerror or error}") from error
    if not chunk:
        raise Lost("the server closed the connection")
    outbox.receive(chunk, time.monotonic())
    return True


def seconds_left(outbox: Outbox) -> float:
    """Return how long a call may block: until the first event's deadline, and never 0, which would mean not to wait."""
    return min(max(outbox.oldest_deadline() - time.monotonic(), 0.001), _LONGEST_WAIT_SECONDS)

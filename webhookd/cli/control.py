"""The admin API of a running server over its control socket, which needs no API key."""

import errno
import http.client
import socket
from pathlib import Path

from webhookd.base.errors import CommandError
from webhookd.cli.api import TIMEOUT_SECONDS, Api


class Control(Api):
    """The admin API of the server that listens on a control socket."""

    def __init__(self, path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> None:
        super().__init__(str(path))
        self._path = path
        self._timeout_seconds = timeout_seconds

    def is_served(self) -> bool:
        """Whether a server listens there; CommandError if this user may not connect."""
        try:
            connect(self._path, self._timeout_seconds).close()
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EPERM}:
                raise CommandError(f"{self._path} is only for the server's own user and root") from error
            raise CommandError(f"can't connect to {self._path}: {error.strerror or error}") from error
        return True

    def open(self) -> http.client.HTTPConnection:
        """Return a connection to the socket."""
        return _Connection(self._path, self._timeout_seconds)


def connect(path: Path, timeout_seconds: float = TIMEOUT_SECONDS) -> socket.socket:
    """Connect to a Unix socket; OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_seconds)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_seconds: float) -> None:
        super().__init__("localhost")
        self._path = path
        self._timeout_seconds = timeout_seconds

    def connect(self) -> None:
        self.sock = connect(self._path, self._timeout_seconds)

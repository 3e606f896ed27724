"""Talking to a running server over its control socket, which needs no API key."""

import errno
import http.client
import json
import socket
from pathlib import Path
from typing import TypeVar

import msgspec

from webhookd.errors import CommandError

T = TypeVar("T")

_TIMEOUT_SECONDS = 30.0


class Control:
    """The admin API of the server that listens on a control socket.

    Answers are decoded to the type asked for. What the server refuses is a CommandError with its reason.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def is_served(self) -> bool:
        """Whether a server listens there; CommandError where it is another user's."""
        try:
            connect(self._path).close()
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            return False
        except OSError as error:
            if error.errno in {errno.EACCES, errno.EPERM}:
                raise CommandError(f"{self._path} is for the server's own user and root alone") from error
            raise CommandError(f"can't connect to {self._path}: {error.strerror or error}") from error
        return True

    def get(self, target: str, answer: type[T]) -> T:
        """Read something."""
        return self._ask("GET", target, None, answer)

    def post(self, target: str, body: object, answer: type[T]) -> T:
        """Make something."""
        return self._ask("POST", target, body, answer)

    def delete(self, target: str, answer: type[T]) -> T:
        """Remove something."""
        return self._ask("DELETE", target, None, answer)

    def _ask(self, method: str, target: str, body: object, answer: type[T]) -> T:
        connection = _Connection(self._path)
        headers = {"Accept": "application/json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, target, None if body is None else json.dumps(body).encode(), headers)
            response = connection.getresponse()
            text = response.read()
        except (OSError, http.client.HTTPException) as error:
            raise CommandError(f"the server at {self._path} can't be asked: {error!r}") from error
        finally:
            connection.close()
        if response.status >= 400:
            raise CommandError(_reason(response.status, text))
        try:
            return msgspec.json.decode(text, type=answer)
        except msgspec.DecodeError as error:
            raise CommandError(f"the server at {self._path} gave an answer that makes no sense: {error}") from error


def connect(path: Path) -> socket.socket:
    """Return a connection to a Unix socket; OSError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(_TIMEOUT_SECONDS)
    try:
        connection.connect(str(path))
    except BaseException:
        connection.close()
        raise
    return connection


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = path

    def connect(self) -> None:
        self.sock = connect(self._path)


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""
    title: str = ""


def _reason(status: int, text: bytes) -> str:
    try:
        problem = msgspec.json.decode(text, type=_Problem)
    except msgspec.DecodeError:
        problem = _Problem()
    return problem.detail or problem.title or f"the server answered {status}"

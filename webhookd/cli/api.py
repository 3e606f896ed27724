"""The admin API as commands ask it: over HTTP to a URL with a key, or (see `control`) over a Unix socket without one.

Answers are decoded to the type asked for. What the server refuses is a Refused with its reason and, where there is
something to be done about it, what; a server that isn't there is an Unreachable.
"""

import http.client
import json
import math
import ssl
import time
from abc import ABC, abstractmethod
from typing import TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from webhookd.base.errors import CommandError, ErrorCode
from webhookd.base.retry_after import read_retry_after

T = TypeVar("T")

TIMEOUT_SECONDS = 30.0
_MOST_ANSWER_BYTES = 67_108_864
_NO_ANSWER = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_NO_URL = "is no URL of a server: write one such as https://webhooks.example.com"
_REMEDIES = {
    ErrorCode.UNAUTHORIZED: "give a key that is in force with --key or WEBHOOKD_API_KEY; `webhookd keys create`, run "
    "on the server's machine, makes one",
    ErrorCode.FORBIDDEN: "another key may: `webhookd keys list`, run on the server's machine, shows their roles",
    ErrorCode.JOURNAL_FULL: "make room on the server's disk, or raise journal.max_bytes",
    ErrorCode.SHUTTING_DOWN: "try again when the server has started",
}


class Unreachable(CommandError):  # noqa: N818 - it says what is so
    """No server answers there, or not any more; it may be starting."""


class Refused(CommandError):  # noqa: N818 - it says what is so
    """The server's answer is a refusal; `code` is its stable code, empty where it gave none."""

    def __init__(self, message: str, *, status: int, code: str, retry_after_seconds: int | None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class Api(ABC):
    """A server's admin API; `place` is what errors call it, `prefix` the path that it is below."""

    def __init__(self, place: str, *, key: str | None = None, prefix: str = "") -> None:
        self._place = place
        self._prefix = prefix
        self._headers = {"Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    def get(self, target: str, answer: type[T]) -> T:
        """Read something."""
        return self._ask("GET", target, None, answer)

    def post(self, target: str, body: object, answer: type[T]) -> T:
        """Make something."""
        return self._ask("POST", target, body, answer)

    def patch(self, target: str, body: object, answer: type[T]) -> T:
        """Change something."""
        return self._ask("PATCH", target, body, answer)

    def delete(self, target: str, answer: type[T]) -> T:
        """Remove something."""
        return self._ask("DELETE", target, None, answer)

    @abstractmethod
    def open(self) -> http.client.HTTPConnection:
        """Return what a request goes over; it connects by itself."""

    def _ask(self, method: str, target: str, body: object, answer: type[T]) -> T:
        connection = self.open()
        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(
                method, self._prefix + target, None if body is None else json.dumps(body).encode(), headers
            )
            response = connection.getresponse()
            text = response.read(_MOST_ANSWER_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"the server at {self._place} can't be asked: {_reason(error)}") from error
        finally:
            connection.close()
        if len(text) > _MOST_ANSWER_BYTES:
            raise CommandError(f"the server at {self._place} gave an answer of more than {_MOST_ANSWER_BYTES} bytes")
        if response.status >= 400:
            raise _refused(response, text)
        try:
            return msgspec.json.decode(text, type=answer)
        except _NO_ANSWER as error:
            raise CommandError(
                f"the server at {self._place} gave an answer that isn't this API's: is it a webhookd of this version?"
            ) from error


class Remote(Api):
    """The API of a server elsewhere, over HTTP or HTTPS; CommandError for a URL that leads to none."""

    def __init__(self, url: str, key: str | None) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise CommandError(f"{url} {_NO_URL}") from error
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.query or parts.fragment:
            raise CommandError(f"{url} {_NO_URL}")
        super().__init__(url, key=key, prefix=parts.path.rstrip("/"))
        self._is_https = parts.scheme == "https"
        self._host = parts.hostname
        self._port = port

    def open(self) -> http.client.HTTPConnection:
        """Return a connection to its host."""
        if not self._is_https:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_SECONDS, context=context)


def target(path: str, **query: object) -> str:
    """Return a path with those parameters that have a value."""
    given = {name: str(value) for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def part(text: str) -> str:
    """Return a text as one part of a path."""
    return quote(text, safe="")


class _Field(msgspec.Struct, frozen=True):
    pointer: str = ""
    detail: str = ""


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""
    title: str = ""
    code: str = ""
    errors: tuple[_Field, ...] = ()


def _refused(response: http.client.HTTPResponse, text: bytes) -> Refused:
    try:
        problem = msgspec.json.decode(text, type=_Problem)
    except _NO_ANSWER:
        problem = _Problem()
    message = problem.detail or problem.title or f"the server answered {response.status}"
    # The detail speaks of the first field; whoever gave several wrong ones wants to hear of all.
    message += "".join(f"; {field.pointer}: {field.detail}" for field in problem.errors[1:])
    if problem.code in _REMEDIES:
        message += f". What to do: {_REMEDIES[ErrorCode[problem.code]]}"
    values, dates = response.headers.get_all("retry-after", []), response.headers.get_all("date", [])
    wait = read_retry_after(values, dates, time.time())
    seconds = None if wait is None else math.ceil(wait)
    return Refused(message, status=response.status, code=problem.code, retry_after_seconds=seconds)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate doesn't hold: {error.verify_message}"
    if isinstance(error, http.client.HTTPException):
        is_gone = isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead)
        return "it closed the connection before its answer was whole" if is_gone else "what it answers is no HTTP"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__

"""The commands' client of the admin API: over HTTP with a key, or (see `control`) over a Unix socket without one.

Answers are decoded to the requested type. A refusal is a Refused, with the reason and, for some codes, a remedy. A
server that doesn't answer is an Unreachable.
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
_NO_URL = "is not the URL of a server: use one such as https://webhooks.example.com"
_REMEDIES = {
    ErrorCode.UNAUTHORIZED: "give a valid key with --key or WEBHOOKD_API_KEY; `webhookd keys create`, run on the "
    "server's machine, creates one",
    ErrorCode.FORBIDDEN: "use a key with another role: `webhookd keys list`, run on the server's machine, shows them",
    ErrorCode.JOURNAL_FULL: "free space on the server's disk, or raise journal.max_bytes",
    ErrorCode.JOURNAL_UNREACHABLE: "see whether the PostgreSQL of journal.url runs and can be reached from the server",
    ErrorCode.KEYS_OUTDATED: "see whether the PostgreSQL of journal.url can be reached from the server, or use another "
    "node",
    ErrorCode.SHUTTING_DOWN: "try again when the server has started",
}


class Unreachable(CommandError):  # noqa: N818 - it describes the state
    """The server doesn't answer; it may be starting."""


class Refused(CommandError):  # noqa: N818 - it describes the answer
    """The server refuses a request; `code` is the stable error code, or empty if there is none.

    `reasons` are those of a server that isn't ready.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        code: str,
        retry_after_seconds: int | None,
        reasons: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.retry_after_seconds = retry_after_seconds
        self.reasons = reasons


class Api(ABC):
    """A server's admin API; `place` names it in errors, `prefix` is the path under which it is served."""

    def __init__(self, place: str, *, key: str | None = None, prefix: str = "") -> None:
        self._place = place
        self._prefix = prefix
        self._headers = {"Accept": "application/json"}
        if key is not None:
            self._headers["Authorization"] = f"Bearer {key}"

    def get(self, target: str, answer: type[T]) -> T:
        """Send a GET request; CommandError."""
        return self._ask("GET", target, None, answer)

    def post(self, target: str, body: object, answer: type[T]) -> T:
        """Send a POST request; CommandError."""
        return self._ask("POST", target, body, answer)

    def patch(self, target: str, body: object, answer: type[T]) -> T:
        """Send a PATCH request; CommandError."""
        return self._ask("PATCH", target, body, answer)

    def delete(self, target: str, answer: type[T]) -> T:
        """Send a DELETE request; CommandError."""
        return self._ask("DELETE", target, None, answer)

    @abstractmethod
    def open(self) -> http.client.HTTPConnection:
        """Return a connection for one request; it connects when the request is sent."""

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
            raise Unreachable(f"no answer from the server at {self._place}: {_reason(error)}") from error
        finally:
            connection.close()
        if len(text) > _MOST_ANSWER_BYTES:
            raise CommandError(f"the answer of the server at {self._place} has more than {_MOST_ANSWER_BYTES} bytes")
        if response.status >= 400:
            raise _refused(response, text)
        try:
            return msgspec.json.decode(text, type=answer)
        except _NO_ANSWER as error:
            raise CommandError(
                f"the answer of the server at {self._place} is not this API's: is it a webhookd of this version?"
            ) from error


class Remote(Api):
    """The API of a remote server, over HTTP or HTTPS; CommandError for a URL that can't be one."""

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
        """Return a connection to the host."""
        if not self._is_https:
            return http.client.HTTPConnection(self._host, self._port, timeout=TIMEOUT_SECONDS)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(self._host, self._port, timeout=TIMEOUT_SECONDS, context=context)


def target(path: str, **query: object) -> str:
    """Return a path with the query parameters that are not None."""
    given = {name: str(value) for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def part(text: str) -> str:
    """Return a text escaped as one segment of a path."""
    return quote(text, safe="")


class _Field(msgspec.Struct, frozen=True):
    pointer: str = ""
    detail: str = ""


class _Problem(msgspec.Struct, frozen=True):
    detail: str = ""
    title: str = ""
    code: str = ""
    errors: tuple[_Field, ...] = ()
    reasons: tuple[str, ...] = ()


def _refused(response: http.client.HTTPResponse, text: bytes) -> Refused:
    try:
        problem = msgspec.json.decode(text, type=_Problem)
    except _NO_ANSWER:
        problem = _Problem()
    said = problem.detail or problem.title or "; ".join(problem.reasons)
    message = said or f"the server answered {response.status}"
    # The detail is about the first field; add the others.
    message += "".join(f"; {field.pointer}: {field.detail}" for field in problem.errors[1:])
    if problem.code in _REMEDIES:
        message += f". Remedy: {_REMEDIES[ErrorCode[problem.code]]}"
    values, dates = response.headers.get_all("retry-after", []), response.headers.get_all("date", [])
    wait = read_retry_after(values, dates, time.time())
    seconds = None if wait is None else math.ceil(wait)
    return Refused(
        message, status=response.status, code=problem.code, retry_after_seconds=seconds, reasons=problem.reasons
    )


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid: {error.verify_message}"
    if isinstance(error, http.client.HTTPException):
        is_gone = isinstance(error, http.client.RemoteDisconnected | http.client.IncompleteRead)
        return "it closed the connection before its answer was complete" if is_gone else "its answer is not HTTP"
    strerror = error.strerror if isinstance(error, OSError) else None
    return strerror or str(error) or type(error).__name__

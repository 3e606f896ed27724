"""Reads requests: bodies with a limit, a deadline and back-pressure; JSON and query parameters as Structs.

Anything wrong in a request is a `Rejected` that says where, and never a server error.
"""

import re
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from typing import TypeVar, cast
from urllib.parse import unquote_to_bytes

import msgspec
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGIReceiveEvent, ASGISendCallable, Scope
from quart import Request, request
from werkzeug.exceptions import RequestTimeout
from werkzeug.local import LocalProxy

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import invalid
from webhookd.base.validation import accepted_form, complaints, name_hint, shortened, step, type_info

T = TypeVar("T")
Application = Callable[[Scope, ASGIReceiveCallable, ASGISendCallable], Coroutine[object, object, None]]
"""An ASGI application."""

JSON = "application/json"
NDJSON = "application/x-ndjson"
MAX_JSON_BYTES = 1_048_576

_BODY = "webhookd.body"  # in a request's scope
_MOST_WAITING_BYTES = 262_144
_MOST_QUERY_BYTES = 8192
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class BodyTimeout(RequestTimeout):
    """A body that didn't arrive in time: 408 with our own description."""


class Body:
    """The body of one request as it arrives, and whether the request may have changed something.

    Beyond a bound, input that nobody takes is left in the network.
    """

    def __init__(self) -> None:
        self.whole: bytes | None = None  # after `read_body`
        self.may_have_changed = False  # set just before a change is submitted
        self._waiting = bytearray()
        self._is_complete = False
        self._moved = trio.Event()

    async def feed(self, data: bytes) -> None:
        """Add input to the body and wait until there is room for more."""
        self._waiting += data
        self._move()
        while len(self._waiting) > _MOST_WAITING_BYTES:
            await self._moved.wait()

    def end(self) -> None:
        """Note that the body is complete."""
        self._is_complete = True
        self._move()

    async def take(self) -> bytes:
        """Wait for input and return all that wasn't taken yet; b"" at the end of the body."""
        await trio.lowlevel.checkpoint()
        while not self._waiting and not self._is_complete:
            await self._moved.wait()
        taken = bytes(self._waiting)
        self._waiting.clear()
        self._move()
        return taken

    def _move(self) -> None:
        moved, self._moved = self._moved, trio.Event()
        moved.set()


def with_bodies(app: Application) -> Application:
    """Return the application behind a gate that keeps the bodies of requests for `chunks` and `read_body`.

    Quart reads a body into memory as fast as it arrives, and its interface for that changes between releases, so to
    Quart every request has an empty body. When the client leaves, the gate cancels the request. Quart would do the
    same, but some of its releases also raise an error, which the server then logs as a crash.
    """

    async def gate(scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        body = Body()
        has_begun = False
        serving = trio.CancelScope()

        async def receive_rest() -> ASGIReceiveEvent:
            nonlocal has_begun
            if not has_begun:
                has_begun = True
                return {"type": "http.request", "body": b"", "more_body": False}
            while True:
                message = await receive()
                if message["type"] != "http.request":
                    serving.cancel()
                    await trio.sleep_forever()
                await body.feed(message.get("body", b""))
                if not message.get("more_body", False):
                    body.end()

        with serving:
            await app(cast("Scope", {**scope, _BODY: body}), receive_rest, send)

    return gate


async def chunks(request: Request, timeout_seconds: float) -> AsyncGenerator[bytes, None]:
    """Yield the body as it arrives; BodyTimeout (408) if no line of it ends for `timeout_seconds`.

    Only the time in which the caller waits for input counts.
    """
    body = body_of(request)
    left = timeout_seconds
    while True:
        asked_at = trio.current_time()
        with trio.move_on_after(left) as waiting:
            chunk = await body.take()
        if waiting.cancelled_caught:
            raise BodyTimeout(f"no line of the body ended for {timeout_seconds:g} s")
        if not chunk:
            return
        left = timeout_seconds if b"\n" in chunk else left - (trio.current_time() - asked_at)
        yield chunk


async def read_body(request: Request, *, max_bytes: int, timeout_seconds: float) -> bytes:
    """Return the whole body; a second call returns it again.

    Raises Rejected PAYLOAD_TOO_LARGE beyond the limit, BodyTimeout (408) after the deadline.
    """
    too_large = Rejected(ErrorCode.PAYLOAD_TOO_LARGE, f"the body is too large; at most {max_bytes} bytes are accepted")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    body = body_of(request)
    if body.whole is not None:
        if len(body.whole) > max_bytes:
            raise too_large
        return body.whole
    collected = bytearray()
    with trio.move_on_after(timeout_seconds) as reading:
        while chunk := await body.take():
            collected += chunk
            if len(collected) > max_bytes:
                raise too_large
    if reading.cancelled_caught:
        raise BodyTimeout(f"the body was not complete after {timeout_seconds:g} s")
    body.whole = bytes(collected)
    return body.whole


def media_type(request: Request) -> str:
    """Return the media type of a request in lower case, without parameters; Rejected for a charset but UTF-8."""
    kind, _, parameters = request.headers.get("Content-Type", "").partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.IGNORECASE)
    if charset is not None and charset[1].lower() not in {"utf-8", "utf8"}:
        raise Rejected(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "JSON is always UTF-8 (RFC 8259); leave the charset out")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise Rejected(
            ErrorCode.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not accepted; leave Content-Encoding out"
        )
    return kind.strip().lower()


def expect_media_type(request: Request, *accepted: str) -> str:
    """Return the media type of a request; Rejected UNSUPPORTED_MEDIA_TYPE unless it is one of `accepted`."""
    kind = media_type(request)
    if kind not in accepted:
        raise Rejected(ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"send the body as {' or '.join(accepted)}")
    return kind


def convert(document: object, kind: type[T]) -> T:
    """Check a decoded document; Rejected VALIDATION_ERROR with JSON pointers."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        raise invalid(complaints(document, kind)) from error


def decode_query(query_string: bytes, kind: type[T]) -> T:
    """Decode query parameters; Rejected VALIDATION_ERROR for one that is unknown or given twice."""
    if len(query_string) > _MOST_QUERY_BYTES:
        raise Rejected(
            ErrorCode.VALIDATION_ERROR, f"the query is too long; at most {_MOST_QUERY_BYTES} bytes are accepted"
        )
    found: dict[str, str] = {}
    for pair in query_string.split(b"&"):
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition(b"=")
        name, value = _unquote(raw_name, "the query"), _unquote(raw_value, "the query")
        if name in found:
            raise _bad_parameter(name, "is repeated: remove one of the two")
        found[name] = value
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        raise _bad_query(found, kind) from error


def _bad_query(found: Mapping[str, str], kind: type[T]) -> Rejected:
    known = {field.encode_name: field.type for field in msgspec.structs.fields(cast("type[msgspec.Struct]", kind))}
    for name, value in found.items():
        if name not in known:
            return _bad_parameter(name, f"is not known here; {name_hint(name, list(known))}")
        try:
            msgspec.convert(value, known[name], strict=False)
        except msgspec.ValidationError:
            return _bad_parameter(name, f"takes {accepted_form(type_info(known[name]))}")
    missing = next((name for name in known if name not in found), "")
    return _bad_parameter(missing, "is missing")


def _bad_parameter(name: str, what: str) -> Rejected:
    detail = f"the query parameter {shortened(name)} {what}"
    return Rejected(ErrorCode.VALIDATION_ERROR, detail, errors=((step(name), what),))


def current_request() -> Request:
    """Return the request itself, not Quart's proxy: a stream is read after the context of its request has ended."""
    proxy = cast("LocalProxy[Request]", request)
    return proxy._get_current_object()  # noqa: SLF001 - Werkzeug's documented interface, underscore or not


def check_path(raw_path: bytes) -> None:
    """Raise Rejected VALIDATION_ERROR for a path that isn't percent-encoded UTF-8 without control characters.

    NOT_FOUND for a path that begins with two slashes: the router would ignore one of them, but a proxy that checks
    whether a path begins with /api/ would not.
    """
    if raw_path.startswith(b"//"):
        raise Rejected(ErrorCode.NOT_FOUND, "there is nothing at this path")
    _unquote(raw_path, "the path", plus=False)


def body_of(request: Request) -> Body:
    """Return a request's body, and with it whether the request may have changed something."""
    return cast("Mapping[str, Body]", request.scope)[_BODY]


def _unquote(raw: bytes, where: str, *, plus: bool = True) -> str:
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ") if plus else raw).decode()
    except UnicodeDecodeError as error:
        raise Rejected(ErrorCode.VALIDATION_ERROR, f"{where} isn't percent-encoded UTF-8") from error
    if _CONTROLS.search(text):
        raise Rejected(ErrorCode.VALIDATION_ERROR, f"{where} holds a control character")
    return text

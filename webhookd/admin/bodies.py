"""Reading what a client sends: bodies with a limit, a deadline and back-pressure, JSON and query parameters as Structs.

Whatever is wrong with it is a `Rejected` that says where; nothing here ends as a server error.
"""

import re
from collections.abc import AsyncGenerator
from typing import TypeVar, cast
from urllib.parse import unquote_to_bytes

import msgspec
import trio
from hypercorn.typing import ASGIReceiveCallable
from quart.wrappers import Request
from quart_trio.asgi import TrioASGIHTTPConnection
from quart_trio.wrappers import TrioRequest
from quart_trio.wrappers.request import TrioBody
from werkzeug.exceptions import RequestTimeout

from webhookd.envelope import check_json_text, decode_json, locate
from webhookd.errors import ErrorCode, Rejected

T = TypeVar("T")

JSON = "application/json"
NDJSON = "application/x-ndjson"
MAX_JSON_BYTES = 1_048_576

_MOST_WAITING_BYTES = 262_144
_MOST_QUERY_BYTES = 8192
_CONTROLS = re.compile(r"[\x00-\x1f\x7f]")


class Body(TrioBody):
    """A request's body that holds its sender back while nobody reads it."""

    def __init__(self, expected_content_length: int | None, max_content_length: int | None) -> None:
        super().__init__(expected_content_length, max_content_length)
        self._taken = trio.Event()

    async def feed(self, data: bytes) -> None:
        """Add to the body; returns when there is room for more."""
        self.append(data)
        while len(self._data) > _MOST_WAITING_BYTES:
            self._taken = trio.Event()
            await self._taken.wait()

    async def __anext__(self) -> bytes:
        data = await super().__anext__()
        self._taken.set()
        return data


class BoundedRequest(TrioRequest):
    """A request with such a body; `asks_for_a_change` is set in the step before the change is handed over."""

    body_class = Body
    body: Body
    whole_body: bytes | None = None  # once it was read
    asks_for_a_change = False


class BoundedConnection(TrioASGIHTTPConnection):
    """Feeds the body as it is read, so that an upload waits in the network and not in memory."""

    async def handle_messages(  # type: ignore[override]  # quart-trio's signature, which differs from Quart's
        self, nursery: trio.Nursery, request: Request, receive: ASGIReceiveCallable
    ) -> None:
        """Take the client's messages until it leaves, which ends its request."""
        body = cast("Body", request.body)
        while True:
            message = await receive()
            if message["type"] == "http.request":
                await body.feed(message.get("body", b""))
                if not message.get("more_body", False):
                    body.set_complete()
            elif message["type"] == "http.disconnect":
                nursery.cancel_scope.cancel()
                return


async def chunks(request: Request, timeout_seconds: float) -> AsyncGenerator[bytes, None]:
    """Yield the body as it comes; RequestTimeout (408) where no line of it ends for so long.

    The time in which nobody asks for more doesn't count.
    """
    body = aiter(request.body)
    left = timeout_seconds
    while True:
        asked_at = trio.current_time()
        with trio.move_on_after(left) as waiting:
            try:
                chunk = await anext(body)
            except StopAsyncIteration:
                return
        if waiting.cancelled_caught:
            raise RequestTimeout(f"no line of the body ended for {timeout_seconds:g} s")
        left = timeout_seconds if b"\n" in chunk else left - (trio.current_time() - asked_at)
        yield chunk


async def read_body(request: Request, *, max_bytes: int, timeout_seconds: float) -> bytes:
    """Return the whole body, a second time as well.

    Rejected PAYLOAD_TOO_LARGE past the limit, RequestTimeout (408) past the deadline.
    """
    too_large = Rejected(ErrorCode.PAYLOAD_TOO_LARGE, f"the body is too large; at most {max_bytes} bytes are taken")
    if (request.content_length or 0) > max_bytes:
        raise too_large
    bounded = cast("BoundedRequest", request)
    if bounded.whole_body is not None:
        if len(bounded.whole_body) > max_bytes:
            raise too_large
        return bounded.whole_body
    collected = bytearray()
    with trio.move_on_after(timeout_seconds) as reading:
        async for chunk in request.body:
            collected += chunk
            if len(collected) > max_bytes:
                raise too_large
    if reading.cancelled_caught:
        raise RequestTimeout(f"the body was not complete after {timeout_seconds:g} s")
    bounded.whole_body = bytes(collected)
    return bounded.whole_body


def asks_for_a_change(request: Request) -> bool:
    """Whether a request has come so far that it may have changed something."""
    return cast("BoundedRequest", request).asks_for_a_change


def note_change(request: Request) -> None:
    """Note that a request is about to change something."""
    cast("BoundedRequest", request).asks_for_a_change = True


def media_type(request: Request) -> str:
    """Return the request's media type, lower-case, without parameters; a charset other than UTF-8 is refused."""
    kind, _, parameters = request.headers.get("Content-Type", "").partition(";")
    charset = re.search(r"charset\s*=\s*\"?([^\s\";]+)", parameters, re.IGNORECASE)
    if charset is not None and charset[1].lower() not in {"utf-8", "utf8"}:
        raise Rejected(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "JSON is always UTF-8 (RFC 8259); leave the charset out")
    encoding = request.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in {"", "identity"}:
        raise Rejected(ErrorCode.UNSUPPORTED_MEDIA_TYPE, "compressed bodies are not taken; leave Content-Encoding out")
    return kind.strip().lower()


def expect_media_type(request: Request, *accepted: str) -> str:
    """Return the request's media type, which must be one of `accepted`."""
    kind = media_type(request)
    if kind not in accepted:
        raise Rejected(ErrorCode.UNSUPPORTED_MEDIA_TYPE, f"send the body as {' or '.join(accepted)}")
    return kind


def decode_body(text: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON body; Rejected MALFORMED_JSON or VALIDATION_ERROR with JSON pointers."""
    check_json_text(text)
    return decode_json(text, decoder)


def convert(document: object, kind: type[T]) -> T:
    """Check a decoded document; Rejected VALIDATION_ERROR with JSON pointers."""
    try:
        return msgspec.convert(document, kind)
    except msgspec.ValidationError as error:
        pointer, accepted = locate(error)
        detail = f"{pointer or 'the body'}: {accepted}"
        raise Rejected(ErrorCode.VALIDATION_ERROR, detail, errors=((pointer, accepted),)) from error


def decode_query(query_string: bytes, kind: type[T]) -> T:
    """Decode query parameters, each at most once and none that isn't known; Rejected VALIDATION_ERROR otherwise."""
    if len(query_string) > _MOST_QUERY_BYTES:
        raise Rejected(
            ErrorCode.VALIDATION_ERROR, f"the query is too long; at most {_MOST_QUERY_BYTES} bytes are taken"
        )
    found: dict[str, str] = {}
    for pair in query_string.split(b"&"):
        if not pair:
            continue
        raw_name, _, raw_value = pair.partition(b"=")
        name, value = _unquote(raw_name, "the query"), _unquote(raw_value, "the query")
        if name in found:
            raise Rejected(ErrorCode.VALIDATION_ERROR, f"the query parameter {name!r} is given twice")
        found[name] = value
    try:
        return msgspec.convert(found, kind, strict=False)
    except msgspec.ValidationError as error:
        pointer, accepted = locate(error)
        name = pointer.removeprefix("/")
        where = f"the query parameter {name}: " if name else "the query: "
        raise Rejected(
            ErrorCode.VALIDATION_ERROR, where + accepted.replace("Object", "It"), errors=((pointer, accepted),)
        ) from error


def check_path(raw_path: bytes) -> None:
    """Raise Rejected VALIDATION_ERROR for a path that isn't percent-encoded UTF-8 without control characters."""
    _unquote(raw_path, "the path", plus=False)


def _unquote(raw: bytes, where: str, *, plus: bool = True) -> str:
    try:
        text = unquote_to_bytes(raw.replace(b"+", b" ") if plus else raw).decode()
    except UnicodeDecodeError as error:
        raise Rejected(ErrorCode.VALIDATION_ERROR, f"{where} isn't percent-encoded UTF-8") from error
    if _CONTROLS.search(text):
        raise Rejected(ErrorCode.VALIDATION_ERROR, f"{where} holds a control character")
    return text

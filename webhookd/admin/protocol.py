"""HTTP/1.1 over one connection: Hypercorn's protocol, restricted to requests that every HTTP server reads alike.

An upgrade is ignored (RFC 9110 section 7.8). A request that the protocol doesn't serve gets a problem document, and the
connection is closed after it. An answered request takes no more of its body.
"""

import re
from collections.abc import Callable
from dataclasses import replace
from http import HTTPStatus

import h11
import msgspec
import trio
from hypercorn.events import Closed, RawData
from hypercorn.protocol.events import Event as StreamEvent
from hypercorn.protocol.events import Request, Response
from hypercorn.protocol.h11 import STREAM_ID, H11Protocol
from hypercorn.protocol.http_stream import ASGIHTTPState, HTTPStream
from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent

from webhookd.admin.framing import StrictConnection
from webhookd.admin.problems import MEDIA_TYPE, REQUEST_ID_HEADER, problem_of_status

_VERSIONS = (b"1.0", b"1.1")
_FORBIDDEN_HERE = frozenset({b"upgrade", b"http2-settings"})
# RFC 3986 section 3.2.2, with labels of DNS: Werkzeug fails on one that is empty or longer.
_HOST = re.compile(
    rb"(\[[0-9A-Fa-f:]{2,39}([0-9]{1,3}(\.[0-9]{1,3}){3})?\]|"
    rb"[A-Za-z0-9_~!$&'()*+;=%-]{1,63}(\.[A-Za-z0-9_~!$&'()*+;=%-]{1,63})*\.?)(:[0-9]{0,5})?"
)

_H11_SAYS = {
    HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: "the head of the request is too large",
    HTTPStatus.NOT_IMPLEMENTED: "the only supported transfer coding is chunked (RFC 9112 section 6.1)",
}

NewRequestId = Callable[[], str]


class _Unserved(Exception):  # noqa: N818 - a refusal, not an error of the server
    """A request that is refused before it reaches the application."""

    def __init__(self, status: HTTPStatus, detail: str) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail


class HttpProtocol(H11Protocol):
    """HTTP/1.1 only."""

    new_request_id: NewRequestId
    connection: StrictConnection
    _is_head = False
    _has_refused = False

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]  # the base's arguments, unchanged
        self.connection = StrictConnection()

    @property
    def is_answering(self) -> bool:
        """Whether a request that has arrived completely is being answered."""
        return self.stream is not None and self.connection.their_state in {h11.DONE, h11.MUST_CLOSE, h11.CLOSED}

    @property
    def has_begun_to_answer(self) -> bool:
        """Whether the application has begun to answer and hasn't finished."""
        untouched = {h11.IDLE, h11.SEND_RESPONSE, h11.ERROR}
        return self.stream is not None and not self._has_refused and self.connection.our_state not in untouched

    async def stream_send(self, event: StreamEvent) -> None:
        """Send a part of an answer; say `connection: close` where no further request can be read."""
        # After an error that doesn't wait for the body, the connection can't take another request: tell the client.
        is_early = isinstance(event, Response) and event.status_code >= 400 and not self.is_answering
        if isinstance(event, Response) and (is_early or self.context.terminated.is_set()):
            event = replace(event, headers=[*event.headers, (b"connection", b"close")])
        await super().stream_send(event)

    async def _handle_events(self) -> None:
        try:
            await super()._handle_events()
        except _Unserved as unserved:
            await self._refuse(unserved.status, unserved.detail)
            await self.send(Closed())

    async def _check_protocol(self, event: h11.Request) -> None:
        self._is_head = event.method == b"HEAD"
        if event.http_version not in _VERSIONS:
            raise _Unserved(HTTPStatus.HTTP_VERSION_NOT_SUPPORTED, "only HTTP/1.1 is supported")
        if event.method == b"CONNECT":
            raise _Unserved(HTTPStatus.METHOD_NOT_ALLOWED, "this server is not a proxy")
        authority, path = _split_target(event.target)
        if path is None or b"#" in event.target:
            raise _Unserved(HTTPStatus.BAD_REQUEST, "the request target must be a path that starts with /")
        # h11 ensures exactly one for HTTP/1.1, and at most one for HTTP/1.0.
        host = dict(event.headers).get(b"host")
        if host is not None and not _HOST.fullmatch(host):
            raise _Unserved(HTTPStatus.BAD_REQUEST, "the Host header takes a host and a port (RFC 9110 7.2)")
        if authority is not None and host is not None and authority.lower() != host.lower():
            raise _Unserved(HTTPStatus.BAD_REQUEST, "the request target and the Host header name different servers")

    async def _create_stream(self, request: h11.Request) -> None:
        stream = _Stream(
            self.app,
            self.config,
            self.context,
            self.task_group,
            self.ssl,
            self.client,
            self.server,
            self.stream_send,
            STREAM_ID,
        )
        stream.new_request_id = self.new_request_id
        self.stream = stream
        await stream.handle(
            Request(
                stream_id=STREAM_ID,
                headers=[(name, value) for name, value in request.headers if name not in _FORBIDDEN_HERE],
                http_version=request.http_version.decode(),
                method=request.method.decode("ascii").upper(),
                raw_path=_split_target(request.target)[1] or b"/",
                state=self.connection_state,
            )
        )
        self.keep_alive_requests += 1

    async def _send_error_response(self, status_code: int) -> None:
        fault = self.connection.fault
        if fault is not None:
            await self._refuse(fault.status, fault.detail)
            return
        # The statuses are h11's.
        status = HTTPStatus(status_code)
        await self._refuse(status, _H11_SAYS.get(status, "this is not an HTTP/1.1 request"))

    async def _refuse(self, status: HTTPStatus, detail: str) -> None:
        headers, body = refusal(status, detail, self.new_request_id())
        # In the middle of another answer, a broken request can no longer be refused.
        if self.connection.our_state not in {h11.IDLE, h11.SEND_RESPONSE}:
            return
        headers += self.config.response_headers("h11")
        self._has_refused = True
        # In IDLE there is no request: the method of the last one doesn't matter.
        is_head = self._is_head and self.connection.our_state is h11.SEND_RESPONSE
        # In one step, so that an answer of the application can't start in between.
        answer = self.connection.send(h11.Response(status_code=status.value, headers=headers))
        if not is_head:
            answer += self.connection.send(h11.Data(data=body))
        answer += self.connection.send(h11.EndOfMessage())
        await self.send(RawData(answer))


class _Stream(HTTPStream):
    """One request; once it is answered it takes no more input, so that no sender of input waits for it."""

    new_request_id: NewRequestId

    def __init__(self, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]  # the positional arguments of the base, unchanged
        self._is_over = False
        self._feeding: set[trio.CancelScope] = set()

    async def handle(self, event: object) -> None:
        await super().handle(event)  # type: ignore[arg-type]  # the base's union of events, unchanged
        if isinstance(event, Request):
            put = self.app_put

            async def feed(message: ASGIReceiveEvent) -> None:
                if not self._is_over:
                    with trio.CancelScope() as feeding:
                        self._feeding.add(feeding)
                        try:
                            await put(message)
                        finally:
                            self._feeding.discard(feeding)

            self.app_put = feed

    async def app_send(self, message: ASGISendEvent | None) -> None:
        if message is None:
            self._finish()
        await super().app_send(message)

    async def _send_closed(self) -> None:
        self._finish()
        await super()._send_closed()

    def _finish(self) -> None:
        self._is_over = True
        for feeding in self._feeding:
            feeding.cancel()

    async def _send_error_response(self, status_code: int) -> None:
        status = HTTPStatus(status_code)
        headers, body = refusal(status, "the request failed; the log has more under this id", self.new_request_id())
        await self.app_send({"type": "http.response.start", "status": status_code, "headers": headers})
        await self.app_send({"type": "http.response.body", "body": body, "more_body": False})
        self.state = ASGIHTTPState.CLOSED


def refusal(status: HTTPStatus, detail: str, request_id: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Return the headers and the body of an error after which the connection is closed."""
    body = msgspec.json.encode(problem_of_status(status, detail, request_id))
    headers = [
        (b"content-type", MEDIA_TYPE.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        (REQUEST_ID_HEADER.encode(), request_id.encode()),
    ]
    if status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append((b"allow", b"GET, POST, PUT, PATCH, DELETE"))
    return headers, body


def _split_target(target: bytes) -> tuple[bytes | None, bytes | None]:
    """Return the authority of a request target in absolute form, else None, and its path with the query (RFC 9112 3.2).

    The path is None for any form but absolute and origin form.
    """
    if target.startswith(b"/"):
        return None, target
    scheme, found, rest = target.partition(b"://")
    if not found or scheme.lower() not in {b"http", b"https"}:
        return None, None
    authority_end = min((at for at in (rest.find(b"/"), rest.find(b"?")) if at >= 0), default=len(rest))
    path = rest[authority_end:]
    return rest[:authority_end], path if path.startswith(b"/") else b"/" + path

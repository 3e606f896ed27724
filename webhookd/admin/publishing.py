"""Publishing over HTTP: one event as JSON, or a stream of lines.

An event is passed to the router in one synchronous step, so a client that leaves loses only the answer. The lines of a
stream that have arrived are submitted and committed together, and their results are sent before more is read. An
invalid line is refused by itself. A stream may outlive its key or token, so each line checks whether it is in force.

All single events of an organization wait in one flow of the journal, and so do all streams of its keys and tokens: an
organization delays only itself, however many requests it sends. Each stream of a caller without an organization has a
flow of its own, since its order is kept and its events may be of any organization.
"""

from collections.abc import AsyncGenerator, Hashable, Iterable
from contextlib import aclosing
from http import HTTPStatus
from math import inf

import msgspec
import trio
from quart import Request, Response

from webhookd.admin.auth import Caller
from webhookd.admin.bodies import JSON, NDJSON, BodyTimeout, chunks, expect_media_type, read_body
from webhookd.admin.operations import Answer, Call, NoBody
from webhookd.admin.schemas import NoQuery, RefusalReason, RefusedLine, Submitted, SubmittedLine
from webhookd.admin.services import Services
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import decode_event, in_trace
from webhookd.base.line_splitter import Line, LineSplitter, Oversized
from webhookd.base.models import NewEvent, PublishResult
from webhookd.journal import Ticket

_MOST_SUBMITTED = 1024  # lines of one stream in one commit
_FAIR_LINES = 64  # after so many lines, other tasks get a turn
_FINAL = frozenset({ErrorCode.SHUTTING_DOWN, ErrorCode.UNAUTHORIZED, ErrorCode.KEYS_OUTDATED, ErrorCode.QUOTA_EXCEEDED})

_encoder = msgspec.json.Encoder()


class _Stopping(Exception):  # noqa: N818 - the end of a stream, not an error
    """The stream ends early: the server stops, or the caller's key or quota ends. Submitted lines are answered."""


async def publish_events(call: Call[NoQuery, NoBody]) -> Answer[Submitted] | Response:
    """Publish one event, or a stream of events as lines; the answer comes when they are on disk."""
    services = call.services
    limit = services.config.ingest.max_event_bytes
    timeout_seconds = services.config.server.request_timeout_seconds
    try:
        if expect_media_type(call.request, JSON, NDJSON) == NDJSON:
            stream = Response(_results(services, call.caller, call.request), HTTPStatus.OK, content_type=NDJSON)
            stream.timeout = None
            return stream
        text = await read_body(call.request, max_bytes=limit, timeout_seconds=timeout_seconds)
        new = in_trace(_decode(text, limit, call.caller), _traceparent(call.request))
        flow = ("posts", new.organization_id)
        await services.router.room(flow)
        call.begin_change()
        result = await services.router.publish(new, flow).wait()
    except Rejected as refused:
        services.measures.refuse(refused.code.value)
        raise
    value = Submitted(id=result.id, deliveries=result.deliveries, duplicate=result.duplicate)
    return Answer(value=value, status=HTTPStatus.ACCEPTED)


def _decode(text: bytes, limit: int, caller: Caller) -> NewEvent:
    new = decode_event(text, max_bytes=limit)
    organization_id = caller.stamp(new.organization_id)
    if organization_id == new.organization_id:
        return new
    return msgspec.structs.replace(new, organization_id=organization_id)


def _traceparent(request: Request) -> str | None:
    """Return the header; None without it, and if it is repeated."""
    given = request.headers.getlist("traceparent")
    return given[0] if len(given) == 1 else None


class _Stream:
    """Submits the lines of one request, and checks for each whether it may be submitted."""

    def __init__(self, services: Services, caller: Caller, traceparent: str | None) -> None:
        bound_to = caller.organization_id
        quotas = services.config.organizations
        self._services = services
        self._caller = caller
        self._traceparent = traceparent
        self._max_bytes = services.config.ingest.max_event_bytes
        self._flow: Hashable = object() if bound_to is None else ("streams", bound_to)
        self._lines = 0
        self._most_lines = inf if bound_to is None else quotas.max_events_per_request

    @property
    def has_room(self) -> bool:
        """Whether the next line can be submitted without waiting for the previous ones."""
        return self._services.store.has_room(self._flow)

    async def submit(self, line: Line) -> Ticket[PublishResult]:
        """Submit a line; Rejected if it isn't accepted."""
        services = self._services
        self._lines += 1
        if self._lines > self._most_lines:
            raise Rejected(
                ErrorCode.QUOTA_EXCEEDED,
                f"an organization may send {self._most_lines} events in one request "
                "(organizations.max_events_per_request); send this one and those after it in another",
            )
        if line is Oversized.LINE:
            raise Rejected(
                ErrorCode.PAYLOAD_TOO_LARGE, f"the line is too long; at most {self._max_bytes} bytes are accepted"
            )
        new = in_trace(_decode(line, self._max_bytes, self._caller), self._traceparent)
        await services.router.room(self._flow)
        if services.keys.caller_now(self._caller, services.clock.now()) is None:
            raise Rejected(ErrorCode.UNAUTHORIZED, "the API key or token of this stream is no longer in force")
        return services.router.publish(new, self._flow)


async def _results(services: Services, caller: Caller, request: Request) -> AsyncGenerator[bytes, None]:
    lines = LineSplitter(services.config.ingest.max_event_bytes)
    stream = _Stream(services, caller, _traceparent(request))
    try:
        async with aclosing(chunks(request, services.config.server.request_timeout_seconds)) as body:
            async for chunk in body:
                async with aclosing(_submit_all(services, stream, lines.feed(chunk))) as results:
                    async for result in results:
                        yield result
        if (last := lines.finish()) is not None:  # over HTTP, the end of the body ends the line
            async with aclosing(_submit_all(services, stream, [last])) as results:
                async for result in results:
                    yield result
    except BodyTimeout as timeout:
        yield _refused_line(
            services, ErrorCode.REQUEST_TIMEOUT, timeout.description or "the client sent nothing for too long"
        )
    except _Stopping:
        return


async def _submit_all(services: Services, stream: _Stream, lines: Iterable[Line]) -> AsyncGenerator[bytes, None]:
    submitted: list[Ticket[PublishResult] | bytes] = []
    is_stopping = False
    for line in lines:
        try:
            outcome: Ticket[PublishResult] | bytes = await stream.submit(line)
        except Rejected as refused:
            outcome = _refused_line(services, refused.code, refused.detail)
            is_stopping = refused.code in _FINAL
        submitted.append(outcome)
        if is_stopping:
            break
        if len(submitted) % _FAIR_LINES == 0:
            await trio.lowlevel.checkpoint()
        if len(submitted) == _MOST_SUBMITTED or not stream.has_room:
            yield await _collect(services, submitted)
            submitted.clear()
    if submitted:
        yield await _collect(services, submitted)
    if is_stopping:
        raise _Stopping


async def _collect(services: Services, submitted: list[Ticket[PublishResult] | bytes]) -> bytes:
    results = bytearray()
    for outcome in submitted:
        results += outcome if isinstance(outcome, bytes) else await _result_line(services, outcome)
    return bytes(results)


async def _result_line(services: Services, ticket: Ticket[PublishResult]) -> bytes:
    try:
        result = await ticket.wait()
    except Rejected as refused:
        return _refused_line(services, refused.code, refused.detail)
    line = SubmittedLine(id=result.id, deliveries=result.deliveries, duplicate=result.duplicate)
    return _encoder.encode(line) + b"\n"


def _refused_line(services: Services, code: ErrorCode, message: str) -> bytes:
    services.measures.refuse(code.value)
    return _encoder.encode(RefusedLine(error=RefusalReason(code=code.value, message=message))) + b"\n"

"""One producer's connection: three tasks that read, collect and send, each of which waits when the next one is full.

The reader turns each line into an outcome: a ticket, or the result line of a refusal. The collector waits for the
outcomes in the order of their lines and writes result lines to a buffer. The sender sends the contents of the buffer in
one call, so that results of one commit leave together. Both queues are bounded: if a client doesn't read its results,
no more of its lines are read. A result line has `"ok":true` only if its ticket has confirmed that the event is on disk.
Closing a connection doesn't cancel its events.
"""

from collections import deque
from collections.abc import Callable, Hashable
from typing import Protocol

import msgspec
import trio
from msgspec.structs import asdict

from webhookd.base.errors import ErrorCode, Rejected, WebhookdError
from webhookd.base.event_format import decode_event
from webhookd.base.line_splitter import Line, LineSplitter, Oversized
from webhookd.base.models import NewEvent, PublishResult
from webhookd.base.stages import reached
from webhookd.observe.logs import get_logger

_CHUNK_BYTES = 65_536
_MOST_OUTCOMES = 4096  # unanswered lines of one connection, which a client may send before it reads a result
_FAIR_LINES = 128  # after so many lines of one chunk other tasks run
_MOST_UNSENT_BYTES = 262_144
_SEND_BYTES = 65_536  # what the client must accept within one write timeout
_NOT_ACCEPTED = "the server is stopping; the event was not accepted"


class EventTicket(Protocol):
    """A submitted event that is being written to disk."""

    async def wait(self) -> PublishResult:
        """Return once the event is on disk, or raise Rejected; cancelling the wait has no effect on the event.

        A ticket that is done should return without a checkpoint, so that results that are ready together leave
        together.
        """
        ...


class Publisher(Protocol):
    """The part of the router that the socket uses."""

    async def room(self, flow: Hashable) -> None:
        """Wait until a flow can take one more event; Rejected JOURNAL_FULL or SHUTTING_DOWN if it can't."""
        ...

    def publish(self, new: NewEvent, flow: Hashable) -> EventTicket:
        """Submit one event, after those of the same flow, without waiting; Rejected if it isn't accepted."""
        ...


_log = get_logger("ingest")
_encoder = msgspec.json.Encoder()


def encode_refusal(code: ErrorCode, message: str) -> bytes:
    """Return the result line of a refusal."""
    return _encoder.encode({"error": {"code": code.value, "message": message}, "ok": False}) + b"\n"


class ProducerConnection:
    """One connection from its first byte to its close."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        publisher: Publisher,
        *,
        max_event_bytes: int,
        write_timeout_seconds: float,
        refused: Callable[[str], None],
    ) -> None:
        self._stream = stream
        self._publisher = publisher
        self._max_event_bytes = max_event_bytes
        self._write_timeout_seconds = write_timeout_seconds
        self._refused = refused
        self._flow = object()  # its events keep their order, and don't wait for those of other connections
        self._splitter = LineSplitter(max_event_bytes)
        self._intake = trio.CancelScope()
        self._lines: deque[Line] = deque()
        self._outcomes: deque[EventTicket | bytes] = deque()
        self._unsent = bytearray()
        self._has_read_all = False
        self._has_collected_all = False
        self._reader = trio.lowlevel.ParkingLot()
        self._collector = trio.lowlevel.ParkingLot()
        self._sender = trio.lowlevel.ParkingLot()

    async def run(self) -> None:
        """Serve until the client ends or fails, and close; never raises for an error of the client or of an event."""
        try:
            async with self._stream, trio.open_nursery() as nursery:
                nursery.start_soon(self._read)
                nursery.start_soon(self._collect)
                nursery.start_soon(self._send)
        except* trio.TooSlowError:
            _log.warning("ingest.client_does_not_read", deadline_seconds=self._write_timeout_seconds)
        except* trio.BrokenResourceError as gone:
            _log.debug("ingest.client_gone", error=str(gone.exceptions[0]))
        except* WebhookdError as failed:
            # The journal has failed. Whether submitted events are on disk is not known, so no result is sent.
            _log.error("ingest.connection_failed", error=str(failed.exceptions[0]))
        except* Exception:  # noqa: BLE001 - a task's root; the traceback is logged
            _log.exception("ingest.connection_crashed")

    def stop_taking(self) -> None:
        """Read no more lines; those that were read are answered, and then the connection closes."""
        self._intake.cancel()

    async def _read(self) -> None:
        with self._intake:
            # A producer may be idle for any time, so this wait has no deadline.
            while chunk := await self._stream.receive_some(_CHUNK_BYTES):
                self._lines.extend(self._splitter.feed(bytes(chunk)))
                while self._lines:
                    if len(self._lines) % _FAIR_LINES == 0:
                        await trio.lowlevel.checkpoint()
                    while len(self._outcomes) >= _MOST_OUTCOMES:
                        await self._reader.park()
                    outcome = await self._submit(self._lines[0])
                    self._lines.popleft()
                    self._put(outcome)
            self._put_unfinished_line()
        for _ in self._lines:
            self._put(self._refusal_line(ErrorCode.SHUTTING_DOWN, _NOT_ACCEPTED))
        self._has_read_all = True
        self._collector.unpark()

    async def _submit(self, line: Line) -> EventTicket | bytes:
        if line is Oversized.LINE:
            return self._too_large()
        try:
            new = decode_event(line, max_bytes=self._max_event_bytes)
            await self._publisher.room(self._flow)
            return self._publisher.publish(new, self._flow)
        except Rejected as refused:
            return self._refusal_line(refused.code, refused.detail)

    def _put_unfinished_line(self) -> None:
        # It may be incomplete, even if it is valid JSON: never guess.
        match self._splitter.finish():
            case None:
                return
            case Oversized.LINE:
                self._put(self._too_large())
            case _:
                detail = "the last line has no newline at its end, so it may be cut off; the event was not accepted"
                self._put(self._refusal_line(ErrorCode.MALFORMED_JSON, detail))

    def _too_large(self) -> bytes:
        detail = f"the line is too long; at most {self._max_event_bytes} bytes are accepted"
        return self._refusal_line(ErrorCode.PAYLOAD_TOO_LARGE, detail)

    def _put(self, outcome: EventTicket | bytes) -> None:
        self._outcomes.append(outcome)
        if self._collector:
            self._collector.unpark()

    async def _collect(self) -> None:
        while True:
            while not self._outcomes or len(self._unsent) >= _MOST_UNSENT_BYTES:
                if self._has_read_all and not self._outcomes:
                    self._has_collected_all = True
                    self._sender.unpark()
                    return
                await self._collector.park()
            outcome = self._outcomes.popleft()
            if self._reader and len(self._outcomes) <= _MOST_OUTCOMES // 2:
                self._reader.unpark()
            line = outcome if isinstance(outcome, bytes) else await self._result_line(outcome)
            self._unsent += line
            if self._sender:
                self._sender.unpark()

    async def _send(self) -> None:
        while True:
            while not self._unsent:
                if self._has_collected_all:
                    return
                await self._sender.park()
            ready, self._unsent = memoryview(self._unsent), bytearray()
            self._collector.unpark()
            for start in range(0, len(ready), _SEND_BYTES):
                with trio.fail_after(self._write_timeout_seconds):
                    await self._stream.send_all(ready[start : start + _SEND_BYTES])
            reached("event.acknowledged")

    async def _result_line(self, ticket: EventTicket) -> bytes:
        try:
            result = await ticket.wait()
        except Rejected as refused:
            return self._refusal_line(refused.code, refused.detail)
        return _encoder.encode({**asdict(result), "ok": True}) + b"\n"

    def _refusal_line(self, code: ErrorCode, detail: str) -> bytes:
        # Encoded at once: a Rejected that waits in the queue would keep its line in memory, by its traceback.
        self._refused(code.value)
        return encode_refusal(code, detail)

"""For producers: submit events through the local socket, blocking, with nothing but the standard library on the wire.

Every event has an id before it is first sent, so sending it again is safe: the server answers the first result with
`duplicate` true. A connection that is lost, or a server that restarts, is therefore bridged by reconnecting and
sending again what was not answered, until no answer has come for the client's timeout.
"""

import json
import os
import select
import socket
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from webhookd.errors import ErrorCode, Rejected, WebhookdError
from webhookd.ids import IdFactory, Prefix
from webhookd.models import PublishResult

_CHUNK_BYTES = 262_144
_MOST_UNANSWERED = 1024  # well under what the server takes from one connection before it stops reading
_FIRST_PAUSE_SECONDS = 0.05
_LONGEST_PAUSE_SECONDS = 1.0
# Said of the connection or the moment, not of an event: sending again on a new connection may help.
_TRY_AGAIN = frozenset({ErrorCode.SHUTTING_DOWN, ErrorCode.RATE_LIMITED})


class ServerUnavailable(WebhookdError):  # noqa: N818 - it says what is so
    """No answer came in time. What was sent may have been accepted: submit it again with the same id."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event to submit; `data` is a JSON object, or its bytes, which then reach the receivers as they are."""

    type: str
    data: Mapping[str, object] | bytes
    id: str | None = None
    timestamp: str | None = None
    organization_id: str | None = None
    ordering_key: str | None = None
    traceparent: str | None = None


class _Lost(Exception):  # noqa: N818 - internal: the connection is of no more use, and why
    pass


class Client:
    """A connection to the server's socket, made when it is needed; for one thread, one call at a time.

    `timeout` is how long, in seconds, to go on without any answer before ServerUnavailable.
    """

    def __init__(self, path: str | os.PathLike[str], timeout: float = 30.0) -> None:
        self._path = os.fspath(path)
        self._timeout = timeout
        self._socket: socket.socket | None = None
        self._received = b""
        self._ids = IdFactory(time.time)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next call would open it again."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._received = b""

    def send(
        self,
        type: str,  # noqa: A002 - the event's own field
        data: Mapping[str, object] | bytes,
        id: str | None = None,  # noqa: A002 - the event's own field
        *,
        timestamp: str | None = None,
        organization_id: str | None = None,
        ordering_key: str | None = None,
        traceparent: str | None = None,
    ) -> PublishResult:
        """Submit one event and return its result, once it is on the server's disk.

        Raises Rejected, with its code, where the server refuses it; ServerUnavailable where no answer comes in time;
        ValueError for what has no JSON form.
        """
        event = Event(
            type=type,
            data=data,
            id=id,
            timestamp=timestamp,
            organization_id=organization_id,
            ordering_key=ordering_key,
            traceparent=traceparent,
        )
        (result,) = self.send_many([event])
        if isinstance(result, Rejected):
            raise result
        return result

    def send_many(self, events: Iterable[Event], window: int = 256) -> Iterator[PublishResult | Rejected]:
        """Submit events without waiting for each; yield, in their order, each one's result or its refusal.

        Each event is sent as soon as `events` gives it; at most `window` (1 to 1024) are unanswered at a time, and 1
        means that the next is asked for only after the last was answered. Results are yielded when the next event has
        been given. Raises as `send` does where the connection itself is refused or lost for too long.
        """
        if not 1 <= window <= _MOST_UNANSWERED:
            raise ValueError(f"window must be 1 to {_MOST_UNANSWERED}")
        unanswered: deque[bytes] = deque()
        try:
            for event in events:
                line = self._encode(event)
                unanswered.append(line)
                yield from self._exchange(unanswered, line, most=window - 1)
            while unanswered:
                yield from self._exchange(unanswered, b"", most=len(unanswered) - 1)
        finally:
            if unanswered:
                # Their results are still to come, and would be taken for those of other events.
                self.close()

    def _exchange(self, unanswered: deque[bytes], line: bytes, *, most: int) -> list[PublishResult | Rejected]:
        """Send `line`, then take results: those that are there, and more until at most `most` are awaited.

        Returns with what it has where the connection is lost, so that no result is lost with it.
        """
        results: list[PublishResult | Rejected] = []
        deadline = time.monotonic() + self._timeout
        pause = _FIRST_PAUSE_SECONDS
        while True:
            try:
                self._send_on_live_connection(unanswered, line, deadline)
                line = b""
                while self._take(unanswered, results, deadline, wait=len(unanswered) > most):
                    deadline = time.monotonic() + self._timeout
            except _Lost as lost:
                self.close()
                if results:
                    return results
                if time.monotonic() + pause >= deadline:
                    raise ServerUnavailable(f"{self._path}: {lost}") from lost
                select.select([], [], [], pause)
                pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)
            else:
                return results

    def _send_on_live_connection(self, unanswered: deque[bytes], line: bytes, deadline: float) -> None:
        if self._socket is None:
            self._connect()
            line = b"".join(unanswered)
        if line:
            self._transmit(line, deadline)

    def _connect(self) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self._timeout)
        try:
            connection.connect(self._path)
        except OSError as error:
            connection.close()
            raise _Lost(f"can't connect: {error.strerror or error}") from error
        self._socket = connection

    def _transmit(self, data: bytes, deadline: float) -> None:
        assert self._socket is not None  # noqa: S101 - `_exchange` has connected
        try:
            self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
            self._socket.sendall(data)
        except OSError as error:
            # A server that refuses says why before it closes, and that is still to be read.
            if not self._has_refusal():
                raise _Lost(f"the connection was lost: {error.strerror or error}") from error

    def _has_refusal(self) -> bool:
        assert self._socket is not None  # noqa: S101 - `_transmit` has one
        try:
            self._socket.settimeout(0.0)
            self._received += self._socket.recv(_CHUNK_BYTES)
        except OSError:
            # Nothing there, or a reset: then the caller's own error is the one to tell.
            return False
        return b"\n" in self._received

    def _take(
        self, unanswered: deque[bytes], results: list[PublishResult | Rejected], deadline: float, *, wait: bool
    ) -> bool:
        """Take the results that are there, at least one if `wait`; return whether there were any."""
        assert self._socket is not None  # noqa: S101 - `_exchange` has connected
        if b"\n" not in self._received:
            try:
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001) if wait else 0.0)
                chunk = self._socket.recv(_CHUNK_BYTES)
            except BlockingIOError:
                return False
            except OSError as error:
                raise _Lost(f"no answer: {error.strerror or error}") from error
            if not chunk:
                raise _Lost("the server closed the connection")
            self._received += chunk
        *lines, self._received = self._received.split(b"\n")
        for line in lines:
            result = _decode(line)
            if isinstance(result, Rejected):
                if result.code in _TRY_AGAIN:
                    raise _Lost(result.detail)
                if result.code is ErrorCode.FORBIDDEN:
                    raise result
            if not unanswered:
                raise _Lost("the server sent a result that nobody waits for")
            unanswered.popleft()
            results.append(result)
        return True

    def _encode(self, event: Event) -> bytes:
        fields = {
            "type": event.type,
            "id": event.id or self._ids.new(Prefix.EVENT),
            "timestamp": event.timestamp,
            "organizationId": event.organization_id,
            "orderingKey": event.ordering_key,
            "traceparent": event.traceparent,
        }
        head = _to_json({name: value for name, value in fields.items() if value is not None})
        data = event.data if isinstance(event.data, bytes) else _to_json(event.data)
        if b"\n" in data:
            raise ValueError("data given as bytes must not hold a newline: it ends the event's line")
        return head[:-1] + b',"data":' + data + b"}\n"


def _to_json(value: Mapping[str, object]) -> bytes:
    return json.dumps(dict(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _decode(line: bytes) -> PublishResult | Rejected:
    try:
        answer = json.loads(line)
        if answer["ok"]:
            return PublishResult(id=answer["id"], deliveries=answer["deliveries"], duplicate=answer["duplicate"])
        code, message = str(answer["error"]["code"]), str(answer["error"]["message"])
    except (ValueError, KeyError, TypeError) as error:
        raise _Lost(f"not a result: {line[:80]!r}") from error
    if code not in ErrorCode.__members__:
        return Rejected(ErrorCode.INTERNAL, f"{code}: {message}")
    return Rejected(ErrorCode(code), message)

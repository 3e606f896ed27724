"""The asynchronous client, for trio and asyncio; it is written once, with anyio.

One task of the client owns the connection and is the only one that waits for the network. Callers put their events into
the outbox and wait for the results. So events that many tasks send at the same time leave together: pipelined on the
socket, in one request over HTTP. Cancelling a caller doesn't withdraw its event.
"""

import os
import ssl
import time
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Generic, Self, TypeVar, Unpack

import anyio
import httpx
from anyio.abc import ByteStream, TaskGroup

from webhookd.base.errors import Rejected
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import PublishResult
from webhookd.client import http, socket
from webhookd.client.answers import Lost
from webhookd.client.events import Event, EventFields
from webhookd.client.outbox import MOST_UNANSWERED, Outbox, Submission

T = TypeVar("T")

_CLOSE_SECONDS = 1.0


class _Bell:
    """Wakes the task that waits for it; if it was rung before, the next wait returns at once."""

    def __init__(self) -> None:
        self._event = anyio.Event()

    def ring(self) -> None:
        self._event.set()

    async def wait(self) -> None:
        await self._event.wait()
        self._event = anyio.Event()


class _SocketWire:
    final_codes = socket.FINAL_CODES

    def __init__(self, path: str) -> None:
        self._path = path

    async def talk(self, outbox: Outbox, work: _Bell) -> None:
        try:
            stream = await anyio.connect_unix(self._path)
        except OSError as error:
            raise Lost(f"can't connect: {error.strerror or error}") from error
        lost: Lost | None = None
        async with stream, anyio.create_task_group() as tasks:
            tasks.start_soon(self._write, stream, outbox, work)
            try:
                while True:
                    outbox.receive(await stream.receive(socket.CHUNK_BYTES), anyio.current_time())
            except anyio.EndOfStream:
                lost = Lost("the server closed the connection")
            except (OSError, anyio.BrokenResourceError) as error:
                lost = Lost(f"the connection was lost: {error.__cause__ or error}")
            except Lost as error:
                lost = error
            tasks.cancel_scope.cancel()
        if lost is not None:
            raise lost

    async def _write(self, stream: ByteStream, outbox: Outbox, work: _Bell) -> None:
        try:
            while True:
                while lines := outbox.take_unsent(socket.CHUNK_BYTES):
                    await stream.send(lines)
                await work.wait()
        except (OSError, anyio.BrokenResourceError):
            # What the server sent before it closed is still to be read; the reader then finds the end.
            return

    async def close(self) -> None:
        pass


class _HttpWire:
    final_codes = http.FINAL_CODES

    def __init__(self, url: str, key: str | None, ssl_context: ssl.SSLContext | None) -> None:
        self._address = http.address(url)
        # No timeout here: each event has its own deadline, and its caller cancels the request.
        self._client = httpx.AsyncClient(
            headers=http.headers(key),
            verify=http.tls(url, ssl_context),
            timeout=None,  # noqa: S113 - as above
        )
        self._batches = http.EventBatches()

    async def talk(self, outbox: Outbox, work: _Bell) -> None:  # noqa: ARG002 - later events are sent in the next request
        while lines := self._batches.take(outbox):
            request = self._client.build_request("POST", self._address, content=lines)
            request.stream = _Body([lines])
            try:
                async with aclosing(await self._client.send(request, stream=True)) as response:
                    if response.status_code != httpx.codes.OK:
                        await response.aread()
                        raise self._batches.refused(outbox, response)
                    await _read(response, outbox)
            except httpx.HTTPError as error:
                raise Lost(http.error_text(error)) from error
            outbox.end_answer()

    async def close(self) -> None:
        await self._client.aclose()


class _InTurn(Generic[T]):
    """An iterable as an asynchronous one; not a generator, which would have to be closed."""

    def __init__(self, items: Iterable[T]) -> None:
        self._items = iter(items)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        try:
            return next(self._items)
        except StopIteration:
            raise StopAsyncIteration from None


class _Body(_InTurn[bytes], httpx.AsyncByteStream):
    """A request's body. httpx's own is a generator, which stays open if the connection is lost while it is sent."""


async def _read(response: httpx.Response, outbox: Outbox) -> None:
    lost: Lost | None = None
    with anyio.CancelScope() as reading:
        async for chunk in response.aiter_raw():
            try:
                outbox.receive(chunk, anyio.current_time())
            except Lost as error:
                # Leaving the loop here would leave httpx's iterators open until garbage collection.
                lost = error
                reading.cancel()
    if lost is not None:
        raise lost


class AsyncClient:
    """A producer for the server at `target`: the path of its socket, or the URL of its API and a `key`.

    Use it as `async with AsyncClient(…) as client`, with any number of tasks of that loop. A key needs the role
    `ingest` or `admin`. After `timeout` seconds without any answer a call raises ServerUnavailable.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        timeout: float = 30.0,
        *,
        key: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        where = os.fspath(target)
        self._wire: _SocketWire | _HttpWire = (
            _HttpWire(where, key, ssl_context) if where.startswith(("http://", "https://")) else _SocketWire(where)
        )
        ids = IdFactory(time.time)
        self._outbox = Outbox(where, timeout, lambda: ids.new(Prefix.EVENT), self._wire.final_codes)
        self._group: TaskGroup | None = None

    async def __aenter__(self) -> Self:
        self._work = _Bell()
        self._door = anyio.Lock()
        self._room = _Bell()
        self._connection = anyio.CancelScope()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(self._run)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        assert self._group is not None  # noqa: S101 - `__aenter__` has made it
        self._group.cancel_scope.cancel()
        # The caller's own error is raised unchanged, not in a group of this nursery.
        passed_on = (None, None, None) if isinstance(error, Exception) else (kind, error, traceback)
        try:
            handled = await self._group.__aexit__(*passed_on)  # noqa: ASYNC102 - everything it waits for was canceled
        finally:
            self._group = None
            self._outbox.close()
            with anyio.move_on_after(_CLOSE_SECONDS, shield=True):
                await self._wire.close()
        return handled and not isinstance(error, Exception)

    async def send(
        self,
        type: str,  # noqa: A002 - the event's own field
        data: Mapping[str, object] | bytes,
        id: str | None = None,  # noqa: A002 - the event's own field
        **fields: Unpack[EventFields],
    ) -> PublishResult:
        """Submit one event and return its result, once it is on the server's disk; `fields` as in `Event`.

        Raises Rejected, with its code, if the server refuses it; ServerUnavailable if no answer arrives in time;
        ValueError for data that JSON can't represent. If this call is cancelled, the event may have been submitted.
        """
        event = Event(type=type, data=data, id=id, **fields)
        result = await self._wait(*await self._put(event))
        if isinstance(result, Rejected):
            raise result
        return result

    async def send_many(
        self, events: Iterable[Event] | AsyncIterable[Event], window: int = 256
    ) -> AsyncIterator[PublishResult | Rejected]:
        """Submit events without waiting for each; yield their results or refusals in the order of the events.

        Each event is queued as soon as `events` yields it, and results are yielded after the next event. At most
        `window` (1 to 1024) events are unanswered at a time. Raises as `send` does if the producer itself is refused or
        the server doesn't answer in time: the event named in the error, and those after it, have no result yet.
        """
        if not 1 <= window <= MOST_UNANSWERED:
            raise ValueError(f"window must be 1 to {MOST_UNANSWERED}")
        waiting: deque[tuple[Submission, anyio.Event]] = deque()
        try:
            async for event in events if isinstance(events, AsyncIterable) else _InTurn(events):
                waiting.append(await self._put(event))
                while waiting and (waiting[0][0].is_done or len(waiting) >= window):
                    yield await self._wait(*waiting.popleft())
            while waiting:
                yield await self._wait(*waiting.popleft())
        finally:
            for submission, _ in waiting:
                self._give_up(submission)

    async def _put(self, event: Event) -> tuple[Submission, anyio.Event]:
        """Queue an event when there is room; return it, and what is set when it is done."""
        if self._group is None:
            raise RuntimeError("use the client as `async with AsyncClient(…) as client`")
        submission = self._outbox.submission(event, anyio.current_time())
        done = anyio.Event()

        def notify() -> None:
            done.set()
            self._room.ring()

        submission.notify = notify
        while (seconds := self._seconds_left(submission)) > 0:
            with anyio.move_on_after(seconds):
                async with self._door:  # first come, first served
                    while self._outbox.is_over(MOST_UNANSWERED - 1):
                        await self._room.wait()
                    self._outbox.put(submission)
                    self._work.ring()
                    return submission, done
        raise self._outbox.unavailable(submission)

    async def _wait(self, submission: Submission, done: anyio.Event) -> PublishResult | Rejected:
        try:
            while not submission.is_done:
                seconds = self._seconds_left(submission)
                if seconds <= 0 or self._group is None:
                    # Other events on this connection get no answer either; they are sent again on the next one.
                    self._connection.cancel()
                    raise self._outbox.unavailable(submission)
                with anyio.move_on_after(seconds):
                    await done.wait()
        finally:
            if not submission.is_done:
                self._give_up(submission)
        return submission.value()

    def _seconds_left(self, submission: Submission) -> float:
        return self._outbox.deadline(submission) - anyio.current_time()

    def _give_up(self, submission: Submission) -> None:
        self._outbox.give_up(submission)
        self._room.ring()

    async def _run(self) -> None:
        """Connect while there are events to send, and again when the connection is lost."""
        while True:
            while not len(self._outbox):
                await self._work.wait()
            await anyio.sleep(max(self._outbox.try_at - anyio.current_time(), 0.0))
            lost = Lost("timed out")
            with anyio.CancelScope() as self._connection:
                try:
                    await self._wire.talk(self._outbox, self._work)
                    continue
                except Lost as error:
                    lost = error
            self._outbox.lose(lost, anyio.current_time())
            self._room.ring()

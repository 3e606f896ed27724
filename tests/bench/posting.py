"""Generate events over HTTP, one a request: as fast as they arrive at the receiver, or in an open loop at a fixed rate.

The open loop is that of tests.bench.generator: latency counts from an event's planned time, and a generator that could
not keep to its plan makes the run void.
"""

import gc
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import httptools
import trio

from tests.bench.generator import ANSWER_SECONDS, Played
from tests.bench.server import POLL_SECONDS, BrokenCaseError

MOST_CONNECTIONS = 256  # of an open loop
LOOK_SECONDS = 2.0
_CHUNK_BYTES = 65_536
_SHOWN_BYTES = 300

Address = tuple[str, int]


class _ClosedError(Exception):
    """The server closed the connection before the first byte of an answer."""


class _Answer:
    """An answer that is being read."""

    def __init__(self) -> None:
        self.body = bytearray()
        self.is_complete = False
        self.keeps_connection = False
        self._parser = httptools.HttpResponseParser(self)

    def feed(self, data: bytes) -> None:
        """Parse data."""
        self._parser.feed_data(data)

    def status(self) -> int:
        """Return the status code."""
        return int(self._parser.get_status_code())

    def on_body(self, data: bytes) -> None:
        """Keep a part of the body."""
        self.body += data

    def on_message_complete(self) -> None:
        """Note the end; the parser forgets after it whether the connection is kept."""
        self.is_complete = True
        self.keeps_connection = self._parser.should_keep_alive()


class Connection:
    """A kept connection that posts one request at a time, and is opened again if the server has closed it."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._stream: trio.SocketStream | None = None

    async def post(self, request: bytes) -> bytes:
        """Return the body of the answer; BrokenCaseError if it isn't a 2xx or doesn't come."""
        was_open = self._stream is not None
        try:
            with trio.fail_after(ANSWER_SECONDS):
                try:
                    return await self._exchange(request)
                except _ClosedError:
                    if not was_open:
                        raise
                # A server may close an idle connection at any time: the request was not read.
                return await self._exchange(request)
        except trio.TooSlowError as error:
            raise BrokenCaseError(f"no answer for {ANSWER_SECONDS:g} s") from error
        except _ClosedError as error:
            raise BrokenCaseError("the server closed a new connection without an answer") from error

    def close(self) -> None:
        """Close the connection."""
        if self._stream is not None:
            self._stream.socket.close()
            self._stream = None

    async def _exchange(self, request: bytes) -> bytes:
        if self._stream is None:
            try:
                self._stream = await trio.open_tcp_stream(*self._address)
            except OSError as error:
                raise BrokenCaseError(f"can't connect to {self._address[0]}:{self._address[1]}: {error}") from error
        answer = _Answer()
        has_begun = False
        try:
            await self._stream.send_all(request)
            while not answer.is_complete:
                data = await self._stream.receive_some(_CHUNK_BYTES)
                if not data:
                    break
                has_begun = True
                answer.feed(data)
        except trio.BrokenResourceError:
            pass  # as if it had been closed
        if not answer.is_complete:
            self.close()
            if has_begun:
                raise BrokenCaseError("the server closed the connection within an answer")
            raise _ClosedError
        if not answer.keeps_connection:
            self.close()
        if answer.status() // 100 != 2:
            text = bytes(answer.body[:_SHOWN_BYTES]).decode(errors="replace")
            raise BrokenCaseError(f"an event was answered with {answer.status()}: {text}")
        return bytes(answer.body)


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How events are posted that may run ahead of their deliveries."""

    connections: int
    ahead: int  # deliveries that are accepted and have not arrived
    deliveries_an_event: int
    patience_seconds: float  # without an arrival, after which the rest counts as lost


@dataclass(frozen=True, slots=True)
class Arrived:
    """How many deliveries have arrived, and the seconds from the first event to the last of them."""

    deliveries: int
    seconds: float


def post_ahead(
    address: Address, requests: Sequence[bytes], pace: Pace, count: Callable[[], int], look: Callable[[], object]
) -> Arrived:
    """Post all requests, each as soon as few enough deliveries are ahead of their arrival, and wait for the last.

    `count` returns the number of requests at the receiver so far. `look` is called in a thread, at once and then every
    two seconds.
    """
    with _one_error():
        return trio.run(_post_ahead, address, requests, pace, count, look)


class _Arrivals:
    """Counts the arrivals, about every 10 ms, and lets those go on who wait for them."""

    def __init__(self, count: Callable[[], int], patience_seconds: float) -> None:
        self.number = 0
        self.at = time.monotonic()
        self.has_stalled = False
        self._count = count
        self._before = count()
        self._patience_seconds = patience_seconds
        self._changed = trio.Event()

    async def run(self, expected: int) -> None:
        """Return when all have arrived, or none arrives any more."""
        while self.number < expected and not self.has_stalled:
            await trio.sleep(POLL_SECONDS)
            if (number := self._count() - self._before) > self.number:
                self.number, self.at = number, time.monotonic()
            self.has_stalled = time.monotonic() - self.at > self._patience_seconds
            self._changed.set()
            self._changed = trio.Event()

    async def until(self, least: int) -> bool:
        """Wait until `least` have arrived; return False if none arrives any more."""
        while self.number < least and not self.has_stalled:
            await self._changed.wait()
        return not self.has_stalled


async def _post_ahead(
    address: Address, requests: Sequence[bytes], pace: Pace, count: Callable[[], int], look: Callable[[], object]
) -> Arrived:
    began = time.monotonic()
    arrivals = _Arrivals(count, pace.patience_seconds)
    numbered = enumerate(requests, 1)
    async with trio.open_nursery() as looking:
        looking.start_soon(_look, look)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(arrivals.run, len(requests) * pace.deliveries_an_event)
            for _ in range(pace.connections):
                nursery.start_soon(_post_in_turn, address, numbered, pace, arrivals)
        looking.cancel_scope.cancel()
    return Arrived(arrivals.number, arrivals.at - began)


async def _look(look: Callable[[], object]) -> None:
    while True:
        await trio.to_thread.run_sync(look)
        await trio.sleep(LOOK_SECONDS)


async def _post_in_turn(
    address: Address, numbered: Iterator[tuple[int, bytes]], pace: Pace, arrivals: _Arrivals
) -> None:
    connection = Connection(address)
    try:
        for number, request in numbered:
            if not await arrivals.until(number * pace.deliveries_an_event - pace.ahead):
                break
            await connection.post(request)
    finally:
        connection.close()


def play_posts(address: Address, requests: Sequence[bytes], per_second: float) -> tuple[Played, Sequence[bytes]]:
    """Post each request at its planned time; return the times and the bodies of the answers."""
    # The time of a garbage collection would count as the server's.
    gc.disable()
    try:
        with _one_error():
            return trio.run(_play, address, requests, per_second)
    finally:
        gc.enable()


async def _play(address: Address, requests: Sequence[bytes], per_second: float) -> tuple[Played, Sequence[bytes]]:
    sent, answered, bodies = [0.0] * len(requests), [0.0] * len(requests), [b""] * len(requests)
    begin = time.monotonic() + 0.05
    planned = [begin + number / per_second for number in range(len(requests))]
    connections: list[Connection] = []
    idle: list[Connection] = []
    # An event that finds no connection was sent late, which voids the run if it happens to many.
    limit = trio.CapacityLimiter(MOST_CONNECTIONS)

    async def post(number: int) -> None:
        async with limit:
            if not idle:
                idle.append(Connection(address))
                connections.append(idle[-1])
            connection = idle.pop()
            sent[number] = time.monotonic()
            bodies[number] = await connection.post(requests[number])
            answered[number] = time.monotonic()
            idle.append(connection)

    try:
        async with trio.open_nursery() as nursery:
            for number, moment in enumerate(planned):
                await trio.sleep(max(moment - time.monotonic(), 0))
                nursery.start_soon(post, number)
    finally:
        for connection in connections:
            connection.close()
    return Played(planned, sent, answered), bodies


@contextmanager
def _one_error() -> Iterator[None]:
    """Raise the first error of a nursery without its group."""
    try:
        yield
    except ExceptionGroup as group:
        error: Exception = group
        while isinstance(error, ExceptionGroup):
            error = error.exceptions[0]
        raise error from group  # noqa: ASYNC123 - the group is its cause

"""Generate events: pipelined as fast as they are acknowledged, or in an open loop at a fixed rate.

In an open loop each event has a planned time that does not depend on earlier events, and latency counts from that time,
so that a stall of the server does not slow down the measurement. If the generator could not keep to its plan, the run
measured the generator: it is void.
"""

import gc
import json
import select
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.bench.server import BrokenCaseError

DATA_BYTES = 1024
DATA = json.dumps({"pad": "x" * (DATA_BYTES - 10)}, separators=(",", ":"))
EVENT_TYPE = "user.created"
WINDOW = 1000  # events without a result yet
LATE_SECONDS = 0.005
MOST_LATE = 0.01  # as a share of all events
ANSWER_SECONDS = 30.0

_CHUNK_BYTES = 262_144
_ACCEPTED = b'"ok":true}'


def event_line(*, organization: str | None = None, event_id: str | None = None) -> bytes:
    """Return the line of an event with 1,024 bytes of data."""
    head: dict[str, str] = {"type": EVENT_TYPE}
    if event_id is not None:
        head["id"] = event_id
    if organization is not None:
        head["organizationId"] = organization
    return f'{json.dumps(head)[:-1]},"data":{DATA}}}\n'.encode()


class Producer:
    """A connection to the ingest socket that sends up to `WINDOW` events ahead of their results."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unanswered = 0
        self._partial = b""

    def send(self, lines: Sequence[bytes]) -> None:
        """Send the lines, and read results until no more than `WINDOW` are missing."""
        self._connection.sendall(b"".join(lines))
        self._unanswered += len(lines)
        self._await(WINDOW)

    def finish(self) -> None:
        """Read the results of all lines."""
        self._await(0)

    def _await(self, most: int) -> None:
        while self._unanswered > most:
            results, self._partial = _take_results(self._connection, self._partial)
            self._unanswered -= len(results)


@contextmanager
def producer(path: Path) -> Iterator[Producer]:
    """Connect a producer; BrokenCaseError if an event is refused."""
    with _connected(path) as connection:
        yield Producer(connection)


@dataclass(frozen=True, slots=True)
class Played:
    """A finished open loop: for each event the planned time, the time of sending and the time of its result."""

    planned: Sequence[float]
    sent: Sequence[float]
    answered: Sequence[float]

    def void(self) -> str:
        """Return why the run is void, if the generator fell behind its plan, else an empty text."""
        late = sum(sent - planned > LATE_SECONDS for planned, sent in zip(self.planned, self.sent, strict=True))
        if late <= MOST_LATE * len(self.planned):
            return ""
        return (
            f"the generator sent {late} of {len(self.planned)} events more than {LATE_SECONDS * 1000:g} ms after their "
            "time"
        )

    def answer_seconds(self) -> list[float]:
        """Return for each event the seconds from its planned time to its result."""
        return [answered - planned for planned, answered in zip(self.planned, self.answered, strict=True)]


def play(path: Path, lines: Iterable[bytes], per_second: float) -> Played:
    """Send each line at its planned time over one connection, and read the results meanwhile."""
    planned: list[float] = []
    sent: list[float] = []
    # The time of a garbage collection would count as the server's.
    gc.disable()
    try:
        with _connected(path) as connection:
            # A server that doesn't read must not delay the next events.
            connection.setblocking(False)
            exchange = _Exchange(connection)
            begin = time.monotonic() + 0.05
            for number, line in enumerate(lines):
                planned.append(begin + number / per_second)
                exchange.until(planned[-1])
                sent.append(time.monotonic())
                exchange.put(line)
            deadline = time.monotonic() + ANSWER_SECONDS
            while (missing := len(planned) - len(exchange.answered)) and time.monotonic() < deadline:
                exchange.until(time.monotonic() + 0.05)
    finally:
        gc.enable()
    if missing:
        raise BrokenCaseError(f"{missing} events were never answered")
    return Played(planned, sent, exchange.answered)


class _Exchange:
    """Both directions of a connection; bytes that the socket doesn't accept are kept and delay no later event."""

    def __init__(self, connection: socket.socket) -> None:
        self.answered: list[float] = []
        self._connection = connection
        self._unsent = bytearray()
        self._partial = b""

    def put(self, line: bytes) -> None:
        """Send a line now, or during the next `until`."""
        self._unsent += line
        self._send_some()

    def until(self, moment: float) -> None:
        """Send and receive until that moment."""
        while True:
            wait = max(moment - time.monotonic(), 0)
            writers = [self._connection] if self._unsent else []
            readable, writable, _ = select.select([self._connection], writers, [], wait)
            if readable:
                results, self._partial = _take_results(self._connection, self._partial)
                self.answered += [time.monotonic()] * len(results)
            if writable:
                self._send_some()
            if wait == 0:
                return

    def _send_some(self) -> None:
        with suppress(BlockingIOError):
            del self._unsent[: self._connection.send(self._unsent)]


@contextmanager
def _connected(path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(ANSWER_SECONDS)
        connection.connect(str(path))
        yield connection


def _take_results(connection: socket.socket, partial: bytes) -> tuple[list[bytes], bytes]:
    """Wait for data; return the complete result lines, and the beginning of the next one."""
    try:
        chunk = connection.recv(_CHUNK_BYTES)
    except TimeoutError as error:
        raise BrokenCaseError(f"no result for {ANSWER_SECONDS:g} s") from error
    if not chunk:
        raise BrokenCaseError("the server closed the ingest connection")
    *results, partial = (partial + chunk).split(b"\n")
    for result in results:
        if not result.endswith(_ACCEPTED):
            raise BrokenCaseError(f"an event was refused: {result.decode(errors='replace')}")
    return results, partial

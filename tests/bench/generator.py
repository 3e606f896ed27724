"""Where the events come from: pipelined as fast as they are acknowledged, or in an open loop at a fixed rate.

In an open loop each event has its planned time, whatever became of those before it, and latency counts from there: a
server that stalls can't slow down what measures it. A generator that couldn't keep to its own plan has measured itself:
such a run is void.
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
WINDOW = 1000  # how many events may wait for their results
LATE_SECONDS = 0.005
MOST_LATE = 0.01  # of all events
ANSWER_SECONDS = 30.0

_CHUNK_BYTES = 262_144
_ACCEPTED = b'"ok":true}'


def event_line(*, organization: str | None = None, event_id: str | None = None) -> bytes:
    """Return an event with 1,024 bytes of data as a line."""
    head: dict[str, str] = {"type": EVENT_TYPE}
    if event_id is not None:
        head["id"] = event_id
    if organization is not None:
        head["organizationId"] = organization
    return f'{json.dumps(head)[:-1]},"data":{DATA}}}\n'.encode()


class Producer:
    """A connection to the ingest socket that sends ahead of the results, up to a window."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._unanswered = 0
        self._partial = b""

    def send(self, lines: Sequence[bytes]) -> None:
        """Send the lines, and take results until no more than the window are missing."""
        self._connection.sendall(b"".join(lines))
        self._unanswered += len(lines)
        self._await(WINDOW)

    def finish(self) -> None:
        """Return once every line has its result."""
        self._await(0)

    def _await(self, most: int) -> None:
        while self._unanswered > most:
            results, self._partial = _take_results(self._connection, self._partial)
            self._unanswered -= len(results)


@contextmanager
def producer(path: Path) -> Iterator[Producer]:
    """Connect a producer; every event that it sent must have been accepted."""
    with _connected(path) as connection:
        yield Producer(connection)


@dataclass(frozen=True, slots=True)
class Played:
    """An open loop that has run: the planned time of each event, when it was sent and when its result came."""

    planned: Sequence[float]
    sent: Sequence[float]
    answered: Sequence[float]

    def void(self) -> str:
        """Return why the run means nothing, if the generator fell behind its plan."""
        late = sum(sent - planned > LATE_SECONDS for planned, sent in zip(self.planned, self.sent, strict=True))
        if late <= MOST_LATE * len(self.planned):
            return ""
        return (
            f"the generator sent {late} of {len(self.planned)} events more than {LATE_SECONDS * 1000:g} ms after their "
            "time"
        )

    def answer_seconds(self) -> list[float]:
        """Return from each event's planned time to its result."""
        return [answered - planned for planned, answered in zip(self.planned, self.answered, strict=True)]


def play(path: Path, lines: Iterable[bytes], per_second: float) -> Played:
    """Send each line at its planned time over one connection, taking results meanwhile."""
    planned: list[float] = []
    sent: list[float] = []
    # A collection in the middle would be counted as the server's.
    gc.disable()
    try:
        with _connected(path) as connection:
            # A server that doesn't read must not hold up the plan.
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
    """Both directions of a connection; what the socket doesn't take is kept, and delays nothing that is planned."""

    def __init__(self, connection: socket.socket) -> None:
        self.answered: list[float] = []
        self._connection = connection
        self._unsent = bytearray()
        self._partial = b""

    def put(self, line: bytes) -> None:
        """Send a line, at the latest during `until`."""
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
    """Return the result lines that are there, at least a part of one, and the unfinished one."""
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

"""The yardsticks, which are measured before and after each figure on the same machine.

Y posts the same request in a bare loop: no disk, no signature, no order. D writes the same rows with bare SQLite. N
answers HTTP behind the same guard with an empty handler.
"""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import apsw
import httptools
import trio

from tests.bench.generator import DATA, EVENT_TYPE
from tests.bench.server import BrokenCaseError
from webhookd.base.ids import IdFactory, Prefix
from webhookd.journal.sqlite.database import open_writer

CONNECTIONS = 50
ROWS_A_COMMIT = 100
COMMITS = 100

SENT_HEADERS = {
    "content-type": "application/json",
    "user-agent": "webhookd/0.1.0",
    "webhook-id": "evt_01JHMVZ3X5N7Q9S1T3V5W7Y9A1",
    "webhook-timestamp": "1736937000",
    "webhook-signature": "v1," + "a" * 44,
    "x-webhook-signature": "t=1736937000,v1=" + "a" * 64,
    "x-webhook-event": EVENT_TYPE,
    "x-webhook-delivery": "dlv_01JHMVZ3X5N7Q9S1T3V5W7Y9A1",
    "x-webhook-attempt": "1",
    "x-webhook-sequence": "4711",
}
SENT_BODY = (
    f'{{"id":"evt_01JHMVZ3X5N7Q9S1T3V5W7Y9A1","type":"{EVENT_TYPE}","timestamp":"2025-01-15T10:30:00.000Z",'
    f'"data":{DATA}}}'
).encode()


@dataclass(frozen=True, slots=True)
class Posted:
    """The requests a second of a bare loop, and its own CPU time for each."""

    per_second: float
    cpu_microseconds: float


def posted_request(path: str, headers: dict[str, str], body: bytes) -> bytes:
    """Return the bytes of a POST."""
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\n{head}content-length: {len(body)}\r\n\r\n".encode() + body


def bare_posts(port: int, count: int) -> Posted:
    """Measure Y against a receiver."""
    return post_loop(port, posted_request("/", SENT_HEADERS, SENT_BODY), count, CONNECTIONS)


def post_loop(port: int, request: bytes, count: int, connections: int) -> Posted:
    """Repeat a request on kept connections; each waits for its answer, which must be a 2xx."""
    began, cpu = time.perf_counter(), time.process_time()
    trio.run(_post_all, port, request, count // connections, connections)
    seconds = time.perf_counter() - began
    done = count // connections * connections
    return Posted(done / seconds, (time.process_time() - cpu) / done * 1e6)


async def _post_all(port: int, request: bytes, count: int, connections: int) -> None:
    async with trio.open_nursery() as nursery:
        for _ in range(connections):
            nursery.start_soon(_post, port, request, count)


class _Answer:
    """Notes when an answer is complete."""

    is_complete = False

    def on_message_complete(self) -> None:
        self.is_complete = True


async def _post(port: int, request: bytes, count: int) -> None:
    async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
        for _ in range(count):
            answer = _Answer()
            parser = httptools.HttpResponseParser(answer)
            await stream.send_all(request)
            while not answer.is_complete:
                data = await stream.receive_some(16_384)
                if not data:
                    raise BrokenCaseError("a receiver closed a kept connection")
                parser.feed_data(data)
            if parser.get_status_code() // 100 != 2:
                raise BrokenCaseError(f"a receiver answered {parser.get_status_code()}")


def bare_rows(*, deliveries_each: int = 0) -> float:
    """Measure D: events a second, with `deliveries_each` rows of deliveries for each, and 100 events a commit."""
    with TemporaryDirectory(prefix="webhookd-bench-rows-") as directory:
        path = Path(directory) / "rows.db"
        # The tables and indexes are the journal's own.
        open_writer(path, now=time.time()).close()
        connection = apsw.Connection(str(path))
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        ids = IdFactory(time.time)
        batches = [_rows(ids, number, deliveries_each) for number in range(COMMITS)]
        began = time.perf_counter()
        for events, deliveries in batches:
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(_EVENT, events)
            if deliveries:
                connection.executemany(_DELIVERY, deliveries)
            connection.execute("COMMIT")
        seconds = time.perf_counter() - began
        connection.close()
    return COMMITS * ROWS_A_COMMIT / seconds


_EVENT = "INSERT INTO events (pk, id, type, timestamp, accepted_at, deliveries, body) VALUES (?, ?, ?, ?, ?, ?, ?)"
_DELIVERY = (
    "INSERT INTO deliveries (pk, id, endpoint_pk, event_pk, event_type, sequence, status, trigger, attempts, refusals,"
    " backoff_step, next_attempt_at, created_at, expires_at)"
    " VALUES (?, ?, ?, ?, ?, ?, 'pending', 'auto', 0, 0, 0, ?, ?, ?)"
)


def _rows(
    ids: IdFactory, batch: int, deliveries_each: int
) -> tuple[Sequence[Sequence[float | str | bytes | None]], Sequence[Sequence[float | str | bytes | None]]]:
    now = time.time()
    first = batch * ROWS_A_COMMIT + 1
    pks = range(first, first + ROWS_A_COMMIT)
    events = [(pk, ids.new(Prefix.EVENT), EVENT_TYPE, now, now, deliveries_each, SENT_BODY) for pk in pks]
    deliveries = [
        (None, ids.new(Prefix.DELIVERY), endpoint_pk, pk, EVENT_TYPE, pk, now, now, now + 259_200)
        for pk in pks
        for endpoint_pk in range(1, deliveries_each + 1)
    ]
    return events, deliveries


@contextmanager
def empty_app() -> Iterator[int]:
    """Run the application of N in a process of its own; yield its port."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.bench.empty_app"], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        try:
            yield int(process.stdout.readline())
        finally:
            process.kill()

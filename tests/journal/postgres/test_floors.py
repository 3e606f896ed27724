"""Reads of a queue behind tens of thousands of deliveries that have ended, while an old transaction is open.

As long as that one may see them, nothing of them is vacuumed. What a read costs is counted in pages.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from peewee import PostgresqlDatabase

from tests.dispatch.lane_machine import policy
from tests.journal.harness import VAULT
from tests.journal.test_both_engines import new_webhook
from tests.postgres_server import PostgresServer
from tests.samples import AT
from webhookd.base.models import Endpoint, Ordering
from webhookd.dispatch.lane import Lane
from webhookd.journal import NO_FLOORS, Window
from webhookd.journal.queries import endpoints, expiry, windows
from webhookd.journal.queries.dialect import Parameters, PsycopgCursor, statements
from webhookd.journal.queries.schema import count_edition

ENDED = 24_000
MOST_PAGES = 100  # of all statements of one read
NOW = AT + ENDED + 100

# A sixth of them each: fresh, backing off and due, backing off, parked and due, parked, and retried by hand. What is
# left at the end is the last of each kind in the order in which it is read.
QUEUE = """
INSERT INTO deliveries (id, endpoint_pk, event_pk, event_type, sequence, status, trigger, attempts, refusals,
    backoff_step, next_attempt_at, created_at, expires_at)
SELECT 'dlv_' || n, 1, n, 'user.created', n, CASE WHEN n % 6 IN (3, 4) THEN 'parked' ELSE 'pending' END,
    CASE n % 6 WHEN 5 THEN 'manual' ELSE 'auto' END, 0, 0, (n % 6 BETWEEN 1 AND 4)::int,
    :at + n + CASE WHEN n % 6 IN (2, 4) THEN :ended + 200 ELSE 0 END, :at, :at + n + 1e6
FROM generate_series(1, :ended + 12) AS n
"""
END = "UPDATE deliveries SET status = 'succeeded', next_attempt_at = NULL WHERE sequence <= ?"


class CountingConnection:
    """A connection of psycopg that has each query explained before it is run, and counts the pages that it reads."""

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self.pages = 0

    def execute(self, query: str, params: Parameters) -> PsycopgCursor:
        explained = self._connection.execute(f"EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) {query}", params).fetchone()[0]
        [found] = json.loads(explained) if isinstance(explained, str) else explained
        self.pages += found["Plan"]["Shared Hit Blocks"] + found["Plan"]["Shared Read Blocks"]
        cursor: PsycopgCursor = self._connection.execute(query, params)
        return cursor


class Counting(PostgresqlDatabase):
    """A database whose `counted` is the number of pages that queries have read since it was asked last."""

    _counting: CountingConnection | None = None

    def connection(self) -> Any:
        if self._counting is None:
            self._counting = CountingConnection(super().connection())  # type: ignore[no-untyped-call]  # peewee's stubs
        return self._counting

    def counted(self) -> int:
        if self._counting is None:
            return 0
        pages, self._counting.pages = self._counting.pages, 0
        return pages


@pytest.fixture(scope="module")
def queue(postgres_server: PostgresServer, journal_template: str) -> Iterator[Counting]:
    """A queue of which only the end is left, and an old transaction that could still see the rest."""
    with postgres_server.database(journal_template) as name:
        url = postgres_server.url(name)
        old, plain = (PostgresqlDatabase(url, prefer_psycopg3=True, thread_safe=False) for _ in range(2))
        database = Counting(url, prefer_psycopg3=True, thread_safe=False)
        with plain.connection_context(), old.connection_context(), database.connection_context():
            assert endpoints.insert(plain, VAULT, new_webhook(1)).pk == 1
            statements(plain).execute(QUEUE, {"at": AT, "ended": ENDED})
            statements(plain).execute("UPDATE sequences SET last = ?", [ENDED + 12])
            statements(plain).execute("ANALYZE")
            with old.atomic():
                statements(old).execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                [(seen,)] = statements(old).execute("SELECT count(*) FROM deliveries WHERE status = 'pending'")
                statements(plain).execute(END, [ENDED])
                statements(plain).execute("VACUUM ANALYZE deliveries")
                yield database
                assert list(statements(old).execute("SELECT count(*) FROM deliveries WHERE status = 'pending'")) == [
                    (seen,)
                ]


def read(database: Counting, lane: Lane) -> tuple[Window, int]:
    """Read a lane's window, as its actor does; return it, and how many pages that took."""
    with database.atomic():
        window = windows.read(database, lane.begin_refill(NOW))
    lane.load(window)
    return window, database.counted()


def lane_of(database: Counting, ordering: Ordering) -> Lane:
    endpoint: Endpoint = endpoints.by_pk(database, 1)[0]
    lane = Lane(endpoint, policy(ordering, 4, "none"), NOW)
    lane.begin(NOW)
    database.counted()
    return lane


@pytest.mark.parametrize("ordering", Ordering)
def test_a_window_reads_few_pages_behind_many_that_have_ended(queue: Counting, ordering: Ordering) -> None:
    """From its second read on a lane gets the same window from a few pages, until the queue's edition changes."""
    lane = lane_of(queue, ordering)
    first, without_floors = read(queue, lane)
    assert first.pending
    assert first.parked
    assert without_floors > 10 * MOST_PAGES
    for _ in range(2):
        window, pages = read(queue, lane)
        assert window == first
        assert pages < MOST_PAGES
    count_edition(queue, 1)
    queue.counted()
    window, pages = read(queue, lane)
    assert (window.pending, window.parked) == (first.pending, first.parked)
    assert pages > 10 * MOST_PAGES
    lane.reload_all()  # as after a change of the webhook
    assert read(queue, lane)[1] > 10 * MOST_PAGES


@pytest.mark.parametrize("ordering", Ordering)
def test_each_floor_bounds_what_is_read(queue: Counting, ordering: Ordering) -> None:
    """Each of the floors saves pages, so that none of them could be left out."""
    lane = lane_of(queue, ordering)
    first, _ = read(queue, lane)
    read_by = {
        Ordering.STRICT: ("fresh", "backing_off", "due_at", "later_at"),
        Ordering.KEY: ("fresh", "backing_off", "due_at", "later_at"),
        Ordering.NONE: ("fresh", "due_at", "later_at"),
    }
    for name in read_by[ordering]:
        lane.queue._floors = type(first.floors)(
            **{
                each: getattr(NO_FLOORS if each == name else first.floors, each)
                for each in first.floors.__struct_fields__
            }
        )
        window, pages = read(queue, lane)
        assert window == first
        assert pages > 2 * MOST_PAGES, name


def test_a_sweep_reads_few_pages_behind_many_that_have_ended(queue: Counting) -> None:
    """The next expiry, and what has expired, are found from the floor on."""
    first = AT + ENDED + 1e6
    for now in (NOW, first - 1):  # before what has ended would expire, and after it
        assert expiry.expired(queue, now, floor=first).next_expiry_at == first + 1
        assert queue.counted() < MOST_PAGES
        assert expiry.expired(queue, now).next_expiry_at == first + 1
        assert queue.counted() > 2 * MOST_PAGES
    assert [each.sequence for each in expiry.expired(queue, first + 3, floor=first + 2).deliveries] == [
        ENDED + 2,
        ENDED + 3,
    ]

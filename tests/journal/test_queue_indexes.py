"""The indexes of the queue: what a window and a commit cost with a long queue, and the upgrade that made them small."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import apsw
import msgspec
import pytest
from peewee import Database

from tests import samples
from tests.journal.harness import CLOCK, add_endpoint, event, publish, running
from tests.journal.old import ask, make_old, version_of
from tests.journal.store_calls import retry, rows, submitted, window
from tests.open_file import writing_database
from webhookd.base.models import Endpoint, Ordering, QueuedDelivery
from webhookd.journal import WindowRequest
from webhookd.journal.queries import expiry, windows
from webhookd.journal.sqlite.database import open_writer
from webhookd.journal.sqlite.migrations import CURRENT_VERSION

QUEUED = """
INSERT INTO deliveries (id, endpoint_pk, event_pk, event_type, sequence, status, trigger, attempts, refusals,
    backoff_step, next_attempt_at, created_at, expires_at)
WITH RECURSIVE counting (n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM counting LIMIT :count)
SELECT printf('dlv_%d_%d', :endpoint, :first + n), :endpoint + n % :endpoints, 1, 'user.created',
    :first + n / :endpoints, :status, 'auto', :step, 0, :step, :due, :now, :expires
FROM counting
"""
ENDPOINTS = 20
MIBIBYTES = 1024 * 1024


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def queue(database: Any, /, count: int, **fields: object) -> None:
    """Queue deliveries of one event, all alike but for their sequence, which goes on from `first`.

    They are for so many `endpoints` in turn, of which `endpoint` is the first.
    """
    database.connection().execute(QUEUED, alike() | {"count": count} | fields)


def alike() -> dict[str, Any]:
    """Return the values of fresh deliveries that expire in a day, all at the same time."""
    now = CLOCK.now()
    same = {"first": 1, "endpoints": 1, "status": "pending", "step": 0}
    return same | {"now": now, "due": now, "expires": now + 86_400}


def steps_of(database: Database, query: Callable[[], object]) -> int:
    """Return about how many instructions of SQLite's virtual machine a query takes."""
    counted = 0

    def count() -> bool:
        nonlocal counted
        counted += 10
        return False

    connection: Any = database.connection()  # type: ignore[no-untyped-call]  # peewee's stubs
    connection.set_progress_handler(count, 10)
    try:
        query()
    finally:
        connection.set_progress_handler(None)
    return counted


def requested(endpoint: Endpoint, ordering: Ordering, now: float) -> WindowRequest:
    return WindowRequest(
        endpoint_pk=endpoint.pk,
        ordering=ordering,
        limit=50,
        now=now,
        blocked_keys=frozenset(),
        in_flight=frozenset(),
    )


@pytest.mark.parametrize(
    ("ordering", "waiting"),
    [
        (Ordering.NONE, {"step": 1, "due": 9e9}),
        (Ordering.NONE, {"step": 1, "due": 0.0}),
        (Ordering.NONE, {"expires": 1.0}),
        (Ordering.STRICT, {"step": 1, "due": 9e9}),
        (Ordering.STRICT, {"expires": 1.0}),
        (Ordering.KEY, {"expires": 1.0}),
    ],
    ids=["none-waiting", "none-due", "none-expired", "strict-waiting", "strict-expired", "key-expired"],
)
async def test_a_window_costs_its_own_rows(path: Path, ordering: Ordering, waiting: dict[str, object]) -> None:
    """However many deliveries back off or have expired, a window reads no more rows than it may hold of each."""
    steps: list[int] = []
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        request = requested(endpoint, ordering, CLOCK.now())
        for first, count in ((1, 500), (501, 30_000)):
            await journal.transactions.write(queue, count, endpoint=endpoint.pk, first=first, **waiting)
            steps.append(
                await journal.transactions.read(
                    lambda database: steps_of(database, lambda: windows.read(database, request))
                )
            )
    assert steps[1] < 1.2 * steps[0] + 100, steps


async def test_a_fresh_delivery_is_found_behind_any_number_of_waiting_ones(path: Path) -> None:
    """Without order a delivery is sent although thousands before it back off."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        await journal.transactions.write(queue, 5_000, endpoint=endpoint.pk, step=1, due=CLOCK.now() + 900)
        await journal.transactions.write(queue, 3, endpoint=endpoint.pk, first=5_001)
        found = await window(journal, endpoint, ordering=Ordering.NONE)
        assert ([each.sequence for each in found.pending], found.complete) == ([5_001, 5_002, 5_003], True)
        assert found.next_attempt_at is not None


async def test_a_work_of_the_length_of_a_queue_would_be_seen(path: Path) -> None:
    """A query that reads the whole queue takes many more steps, so that the tests above can fail."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        await journal.transactions.write(queue, 5_000, endpoint=endpoint.pk)

        def read(database: Database) -> int:
            query = "SELECT count(*) FROM deliveries WHERE status = 'pending' AND expires_at > 1"
            execute: Any = database.execute_sql
            return steps_of(database, lambda: execute(query).fetchall())

        assert await journal.transactions.read(read) > 20_000


async def test_what_has_expired_is_found_by_index(path: Path) -> None:
    """The expired deliveries of all endpoints, and the next expiry, are read from one index, in its order."""
    values = {"now": 1.0, "expires_at": 0.0, "pk": 0, "limit": 10, "later_than": 1.0}

    def explain(database: Any) -> list[str]:
        execute = database.connection().execute
        statements = (expiry.EXPIRED, expiry.NEXT)
        return [str(row[3]) for sql in statements for row in execute(f"EXPLAIN QUERY PLAN {sql.sqlite}", values)]

    async with running(path) as journal:
        found = await journal.transactions.read(explain)
    assert [("deliveries_expiry (" in line, "TEMP" in line) for line in found] == [(True, False)] * 2, found


async def test_expired_deliveries_are_read_in_parts(path: Path) -> None:
    """Each part begins after the last delivery of the part before, even if many expire at the same time."""
    async with running(path) as journal:
        one, other = await add_endpoint(journal), await add_endpoint(journal)
        now = CLOCK.now()
        await journal.transactions.write(queue, 5, endpoint=other.pk, expires=now - 1)
        await journal.transactions.write(queue, 4, endpoint=one.pk, first=6, expires=now - 1)
        await journal.transactions.write(queue, 2, endpoint=one.pk, first=10, expires=now - 2, status="parked")
        await journal.transactions.write(queue, 2, endpoint=one.pk, first=12, expires=now + 30)
        found: list[int] = []
        last: QueuedDelivery | None = None
        while True:
            part = await journal.deliveries.expired(now, after=last, limit=3)
            found += [each.sequence for each in part.deliveries]
            assert part.next_expiry_at == now + 30
            if part.complete:
                break
            last = part.deliveries[-1]
        assert found == [10, 11, 1, 2, 3, 4, 5, 6, 7, 8, 9]


async def test_a_success_writes_one_page_of_the_queue(path: Path) -> None:
    """Under a long backlog a success writes one page of its endpoint's queue, and few that are for all."""
    async with running(path) as journal:
        subjects = [await add_endpoint(journal) for _ in range(ENDPOINTS)]
        await journal.transactions.write(queue, 1_000 * ENDPOINTS, endpoint=subjects[0].pk, endpoints=ENDPOINTS)
        await publish(journal, event("e")).wait()
        heads = [(await window(journal, endpoint)).pending[0] for endpoint in subjects]
        connection: Any = writing_database(journal).connection()
        before = connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0]
        success = samples.attempt_record()
        for ticket in [submitted(journal, msgspec.structs.replace(success, delivery=head)) for head in heads]:
            await ticket.wait()
        written = connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)[0] - before
    assert ENDPOINTS < written < ENDPOINTS + 15


async def test_the_last_expiry_of_a_queue_is_known(path: Path) -> None:
    """It only grows, with each way in which deliveries are queued, so that a longer age than allowed is noticed."""

    async def last_expiry() -> float:
        def read(database: Any) -> float:
            [(at,)] = database.execute_sql("SELECT last_expires_at FROM sequences")
            return float(at)

        return await journal.transactions.read(read)

    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        await publish(journal, event("e0"), endpoint, max_age_seconds=100).wait()
        first = (await rows(journal, endpoint))[0]
        assert await last_expiry() == first.expires_at
        await publish(journal, event("e1"), endpoint, max_age_seconds=10).wait()
        assert await last_expiry() == first.expires_at
        retried = await retry(journal, first, CLOCK.now())
        assert await last_expiry() == retried.expires_at > first.expires_at
        moved = journal.webhooks.move_times(1000.0, lambda _: None)
        await moved.wait()
        assert await last_expiry() == pytest.approx(retried.expires_at + 1000, abs=0.01)


def make_backlog(path: Path) -> None:
    """Make a journal of the version before with a queue of every kind of delivery."""
    make_old(path, 6)
    ask(path, "DELETE FROM deliveries")
    now = CLOCK.now()
    values = alike() | {"endpoint": 1, "due": now - 60, "expires": now + 600}
    connection = apsw.Connection(str(path))
    parts: tuple[dict[str, Any], ...] = (
        {"first": 1, "count": 3, "step": 2, "due": now + 60},
        {"first": 4, "count": 2, "step": 1, "due": now - 10},
        {"first": 6, "count": 4},
        {"first": 10, "count": 2, "status": "parked", "due": now - 5, "expires": now + 900},
        {"first": 12, "count": 2, "expires": now - 1},
    )
    for part in parts:
        connection.execute(QUEUED, values | part)
    connection.execute("UPDATE sequences SET last = 13")
    connection.close()


async def test_a_backlog_goes_on_after_the_upgrade(path: Path) -> None:
    """After an upgrade from the version before, each window has what it had, and what has expired is found."""
    make_backlog(path)
    async with running(path) as journal:
        [endpoint] = await journal.webhooks.all()

        async def sequences(ordering: Ordering) -> list[list[int]]:
            found = await window(journal, endpoint, ordering=ordering)
            return [[each.sequence for each in part] for part in (found.pending, found.parked, found.expired)]

        assert await sequences(Ordering.STRICT) == [[*range(1, 10)], [10, 11], [12, 13]]
        assert await sequences(Ordering.KEY) == [[*range(4, 10)], [10, 11], [12, 13]]
        assert await sequences(Ordering.NONE) == [[*range(6, 10), 4, 5], [10, 11], [12, 13]]
        expired = await journal.deliveries.expired(CLOCK.now())
        assert [each.sequence for each in expired.deliveries] == [12, 13]
        assert (await journal.deliveries.backlog(), len(await rows(journal, endpoint))) == ([endpoint.pk], 13)
        assert (await journal.take_census()).pending == 11
    [(last_expires_at,)] = ask(path, "SELECT last_expires_at FROM sequences")
    assert ask(path, "SELECT max(expires_at) FROM deliveries WHERE status = 'parked'") == [(last_expires_at,)]


@pytest.mark.slow
def test_the_upgrade_of_a_long_backlog_is_bounded_in_memory(path: Path) -> None:
    """The new indexes are sorted in files next to the journal, however many deliveries are queued."""
    make_old(path, 6)
    connection = apsw.Connection(str(path))
    connection.execute(QUEUED, alike() | {"endpoint": 1, "count": 500_000, "step": 1})
    connection.close()
    apsw.memory_high_water(True)
    open_writer(path, now=CLOCK.now()).close()
    assert apsw.memory_high_water() < 20 * MIBIBYTES
    assert version_of(path) == CURRENT_VERSION
    assert [file.name for file in path.parent.iterdir() if "before" not in file.name] == [path.name]

"""The partitions of bodies and attempts: made ahead by any node, and never missing to a publisher."""

from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from threading import Barrier

import pytest
import trio
import trio.lowlevel
from msgspec.structs import replace

from tests.journal.harness import CLOCK, IDS, add_endpoint, event, publish
from tests.journal.postgres.connections import connected, rows, value
from tests.journal.postgres.days import both, days, tables_of
from tests.journal.store_calls import record
from tests.patience import until
from tests.postgres_server import PostgresServer
from webhookd.base.database_url import parse
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal import Server, Store, open_store
from webhookd.journal.errors import MustRepeatError, NoPartitionError
from webhookd.journal.postgres import partitions
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase
from webhookd.journal.postgres.partitions import (
    DAY_SECONDS,
    DAYS_AHEAD,
    attached,
    covered_until,
    day_of,
    days_ahead,
    make_ahead,
    make_days,
)

NOW = 20_000.5 * DAY_SECONDS
MAKERS = 4
END_WAITING = """
SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = %s
AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
"""


@pytest.fixture
def database(journal_database: str) -> Iterator[PostgresDatabase]:
    with connected(journal_database) as opened:
        yield opened


def test_a_week_is_made_ahead(database: PostgresDatabase) -> None:
    """Today and the next seven days have partitions; a day later one more is made."""
    assert days_ahead(make_ahead(database, NOW), NOW) == DAYS_AHEAD
    assert days(database) == both(*range(20_000, 20_008))
    make_ahead(database, NOW)
    assert days(database) == both(*range(20_000, 20_008))
    make_ahead(database, NOW + DAY_SECONDS)
    assert days(database) == both(*range(20_000, 20_009))


def test_how_many_days_are_ahead(database: PostgresDatabase) -> None:
    """The days after today count up to the first one that lacks a partition; without one for today it is -1."""

    def ahead(at: float) -> int:
        return days_ahead(covered_until(attached(database), at), at)

    assert ahead(NOW) == -1
    make_days(database, [20_000, 20_001, 20_002, 20_004])
    assert (ahead(NOW), ahead(NOW + DAY_SECONDS), ahead(NOW + 3 * DAY_SECONDS)) == (2, 1, -1)
    rows(database, f"DROP TABLE {min(both(20_001))}")
    assert ahead(NOW) == 0


def test_processes_that_make_them_at_once_make_each_once(journal_database: str, database: PostgresDatabase) -> None:
    """Of several makers each finds all partitions there in the end, and none fails."""
    barrier = Barrier(MAKERS)

    def make(_number: int) -> float:
        with connected(journal_database) as own:
            barrier.wait()
            return make_ahead(own, NOW)

    with ThreadPoolExecutor(MAKERS) as pool:
        assert set(pool.map(make, range(MAKERS))) == {20_008.0 * DAY_SECONDS}
    assert days(database) == both(*range(20_000, 20_008))


@asynccontextmanager
async def running(url: str) -> AsyncIterator[Store]:
    async with open_store(Server(url=parse(url)), clock=CLOCK, ids=IDS) as store, trio.open_nursery() as nursery:
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


async def test_a_backup_holds_up_no_publisher_while_days_are_made(journal_database: str) -> None:
    """As `CREATE TABLE … PARTITION OF` would, which waits for the backup, and every publisher behind it."""
    with connected(journal_database, ConnectionRole.READER) as backup, connected(journal_database) as maker:
        async with running(journal_database) as store:
            endpoint = await add_endpoint(store)
            with backup.atomic():
                rows(backup, "SET idle_in_transaction_session_timeout = 0")
                rows(backup, "LOCK TABLE events, bodies, kept_bodies, deliveries, attempts IN ACCESS SHARE MODE")
                make_days(maker, [50_000])
                assert {each.begins_at for each in attached(maker)} >= {50_000.0 * DAY_SECONDS}
                await publish(store, event("first"), endpoint).wait()
                ahead = replace(event("ahead"), accepted_at=CLOCK.now() + 20 * DAY_SECONDS)
                await publish(store, ahead, endpoint).wait()
                rows(maker, "SET lock_timeout = '100ms'")
                with pytest.raises(MustRepeatError, match="lock timeout"):
                    rows(maker, "CREATE TABLE bodies_x PARTITION OF bodies FOR VALUES FROM (1) TO (2)")
            assert (await store.events.get("first", None)).body == event("first").body


async def test_an_event_makes_the_partition_that_it_lacks(journal_database: str, database: PostgresDatabase) -> None:
    """After days in which none was made, or a jump of the clock, the event is stored, and found."""
    async with running(journal_database) as store:
        endpoint = await add_endpoint(store)
        later = [CLOCK.now() + number * DAY_SECONDS for number in (20, 22, 20)]
        tickets = [
            publish(store, replace(event(f"e{number}"), accepted_at=at), endpoint) for number, at in enumerate(later)
        ]
        assert [(await ticket.wait()).deliveries for ticket in tickets] == [1, 1, 1]
        assert (await store.events.get("e1", None)).accepted_at == later[1]
        await record(store, endpoint)
        assert {day_of(each.begins_at) for each in attached(database)} >= {day_of(at) for at in later}
        assert value(database, "SELECT count(*) FROM attempts") == 1
    assert value(database, "SELECT count(*) FROM kept_bodies") == 0


async def test_what_is_older_than_all_partitions_is_kept(journal_database: str, database: PostgresDatabase) -> None:
    """An event and an attempt of a day that was dropped are stored, found and listed; the day isn't made again."""
    async with running(journal_database) as store:
        endpoint = await add_endpoint(store)
        old = replace(event("old"), accepted_at=NOW)
        tickets = [publish(store, each, endpoint, max_age_seconds=1e10) for each in (old, event("new"))]
        assert [(await ticket.wait()).deliveries for ticket in tickets] == [1, 1]
        await record(store, endpoint)
        detail = await store.deliveries.get(value(database, "SELECT id FROM deliveries ORDER BY pk LIMIT 1"), None)
        assert (detail.message.body, [each.number for each in detail.attempts]) == (old.body, [1])
        await publish(store, replace(old, id="older", accepted_at=NOW - DAY_SECONDS), endpoint).wait()
    assert value(database, "SELECT count(*) FROM kept_bodies") == 2
    assert value(database, "SELECT count(*) FROM kept_attempts") == 1
    assert min(each.begins_at for each in attached(database)) > NOW


async def test_an_event_is_refused_if_its_partition_cannot_be_made(
    postgres_server: PostgresServer, journal_database: str
) -> None:
    """A user who may no longer make tables gets a clear refusal, to send the event again; others are stored."""
    with postgres_server.administer(parse(journal_database).database) as administrator:
        async with running(journal_database) as store:
            endpoint = await add_endpoint(store)
            administrator.execute("ALTER SCHEMA public OWNER TO postgres")
            administrator.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
            ahead = replace(event("ahead"), accepted_at=CLOCK.now() + 20 * DAY_SECONDS)
            tickets = [publish(store, each, endpoint) for each in (event("one"), ahead, event("two"))]
            assert (await tickets[0].wait()).deliveries == 1
            with pytest.raises(Rejected, match=r"no partition bodies_.*: permission denied for schema") as refused:
                await tickets[1].wait()
            assert refused.value.code is ErrorCode.JOURNAL_UNREACHABLE
            assert (await tickets[2].wait()).deliveries == 1


async def test_a_partition_is_made_although_the_connection_was_lost_meanwhile(
    postgres_server: PostgresServer, journal_database: str
) -> None:
    """The next try makes the missing partition, and stores the event."""
    name = parse(journal_database).database
    with postgres_server.administer(name) as administrator:
        async with running(journal_database) as store:
            endpoint = await add_endpoint(store)
            administrator.execute("SELECT pg_advisory_lock(%s)", (partitions._LOCK,))
            ahead = replace(event("ahead"), accepted_at=CLOCK.now() + 20 * DAY_SECONDS)
            ticket = publish(store, ahead, endpoint)
            await until(lambda: administrator.execute(END_WAITING, (partitions._LOCK,)).fetchall())
            administrator.execute("SELECT pg_advisory_unlock(%s)", (partitions._LOCK,))
            assert (await ticket.wait()).deliveries == 1
            assert (await store.events.get("ahead", None)).body == ahead.body


async def test_a_running_node_makes_them(journal_database: str, database: PostgresDatabase) -> None:
    """A node looks at once and then every hour, and knows how many days are ahead."""
    daily = tables_of(journal_database)
    first = daily.days_ahead
    async with trio.open_nursery() as nursery:
        nursery.start_soon(daily.run)
        await until(lambda: daily.days_ahead is not None)
        nursery.cancel_scope.cancel()
    assert (first, daily.days_ahead) == (None, DAYS_AHEAD)
    assert len(attached(database)) == 2 * (DAYS_AHEAD + 1)


def test_a_row_without_a_partition_names_its_place(database: PostgresDatabase) -> None:
    """The error has the table and the time, whatever the server's language is."""
    with pytest.raises(NoPartitionError) as missing:
        rows(database, "INSERT INTO bodies VALUES (1, 1234567.125, '')")
    assert (missing.value.table, missing.value.at) == ("bodies", 1234567.125)

"""Retention on PostgreSQL: a day is dropped once all of it is old, and loses nothing that is still needed."""

import sys
from collections.abc import Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any, get_args

import msgspec
import pytest
import trio

from tests.forked import Process
from tests.journal.harness import IDS
from tests.journal.postgres import days
from tests.journal.postgres.connections import connected, rows, value
from tests.journal.postgres.days import AT, DAY, LATER, both, retain
from tests.journal.postgres.nodes import Open
from tests.patience import until
from webhookd.base.errors import Rejected
from webhookd.base.models import DeliveryStatus, Ordering, ReplayKind
from webhookd.base.stages import PartitionStage
from webhookd.journal import EndpointChanges, QueuedAs, Selection
from webhookd.journal.postgres import old_days, recent_attempts
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase
from webhookd.journal.postgres.partitions import DAY_SECONDS, attached, day_of, make_days
from webhookd.journal.queries import deliveries, events, replays
from webhookd.journal.queries.schema import DeliveryTable

NEXT_DAY = AT + DAY_SECONDS
AGAIN: dict[str, Any] = {"force": False, "now": LATER, "max_age_seconds": 60.0, "ordering": Ordering.STRICT}


@pytest.fixture
def database(journal_database: str) -> Iterator[PostgresDatabase]:
    with connected(journal_database) as opened:
        days.fill(opened)
        yield opened


@pytest.fixture
def reader(journal_database: str) -> Iterator[PostgresDatabase]:
    with connected(journal_database, ConnectionRole.READER) as opened:
        rows(opened, "SET idle_in_transaction_session_timeout = 0")
        yield opened


def body(database: PostgresDatabase, event_id: str) -> bytes:
    with database.atomic():
        return events.get(database, event_id, None).body


def numbers(database: PostgresDatabase, pk: int = 1) -> list[int]:
    """Return the numbers of the attempts of a delivery, as the API shows them."""
    with database.atomic():
        found = deliveries.get(database, value(database, "SELECT id FROM deliveries WHERE pk = %s", pk), None)
    return [attempt.number for attempt in found.attempts]


def kept(database: PostgresDatabase) -> tuple[int, int]:
    """Return how many bodies and attempts are in no partition."""
    return tuple(rows(database, "SELECT (SELECT count(*) FROM kept_bodies), (SELECT count(*) FROM kept_attempts)")[0])


def end_all(database: PostgresDatabase) -> None:
    DeliveryTable.update(status="failed").execute(database)


async def test_a_day_is_dropped_when_all_of_it_is_old(journal_database: str, database: PostgresDatabase) -> None:
    """Events are deleted to the hour; the tables of their day go once its end is as old, and those of the next stay."""
    days.add(database, "old")
    days.add(database, "next", at=NEXT_DAY)
    await retain(journal_database, AT + 10)
    with pytest.raises(Rejected, match="no event old"):
        body(database, "old")
    assert value(database, "SELECT count(*) FROM attempts WHERE created_at = %s", AT) == 1
    assert days.days(database) == both(DAY, DAY + 1)
    await retain(journal_database, (DAY + 1) * DAY_SECONDS + old_days.MARGIN_SECONDS - 1)
    assert days.days(database) == both(DAY, DAY + 1)
    await retain(journal_database, (DAY + 1) * DAY_SECONDS + old_days.MARGIN_SECONDS)
    assert days.tables(database) == both(DAY + 1)
    assert (body(database, "next"), numbers(database, 2)) == (b"next", [1])
    assert kept(database) == (0, 0)


async def test_what_is_pending_stays_when_its_day_is_dropped(
    journal_database: str, database: PostgresDatabase, reader: PostgresDatabase
) -> None:
    """An event with a pending delivery keeps its body and its attempts, and is deleted once the delivery has ended."""
    days.add(database, "ended")
    days.add(database, "queued", status="pending", attempts=150)
    shown = numbers(database, 2)
    await retain(journal_database)
    assert days.tables(database) == set()
    assert (body(database, "queued"), events.message(database, 2).body) == (b"queued", b"queued")
    assert numbers(database, 2) == shown == list(range(51, 151))
    with reader.atomic():
        recent = [attempt.number for _, attempt in recent_attempts.after(reader, None).attempts]
    assert recent == list(range(1, 151))
    assert kept(database) == (1, 150)
    end_all(database)
    await retain(journal_database)
    assert kept(database) == (0, 0)
    assert value(database, "SELECT count(*) FROM events") == 0


def retry(database: PostgresDatabase) -> None:
    deliveries.retry(database, 1, **AGAIN)


def queue_again(kind: ReplayKind, database: PostgresDatabase) -> None:
    wanted = Selection(
        endpoint_pk=1, kind=kind, since=0, until=LATER, events=(), subscribed=("*",), organization_id=None
    )
    queued_as = QueuedAs(at=LATER, max_age_seconds=60, status=DeliveryStatus.PENDING)
    row = replays.start(database, wanted, replays.match(database, wanted), "rpl_1", LATER)
    replays.step(database, row.id, wanted, queued_as, IDS)


QUEUED_AGAIN = [retry, partial(queue_again, ReplayKind.RECOVER), partial(queue_again, ReplayKind.REPLAY)]


@pytest.mark.parametrize("again", QUEUED_AGAIN, ids=["retry", "recover", "replay"])
async def test_what_is_queued_again_just_before_is_delivered(
    journal_database: str, database: PostgresDatabase, again: partial[None]
) -> None:
    """A retry, a recover or a replay of an old event keeps its body, and the attempts that it had."""
    days.add(database, "old", status="failed")
    with database.atomic():
        again(database)
    await retain(journal_database)
    assert days.tables(database) == set()
    assert (events.message(database, 1).body, numbers(database)) == (b"old", [1])


@pytest.mark.parametrize("again", QUEUED_AGAIN, ids=["retry", "recover", "replay"])
async def test_what_was_dropped_is_not_queued_again(
    journal_database: str, database: PostgresDatabase, again: partial[None]
) -> None:
    """After the day was dropped a retry finds nothing, and neither does a replay."""
    days.add(database, "old", status="failed")
    await retain(journal_database)
    refused = pytest.raises(Rejected, match="deleted by retention") if again is retry else nullcontext()
    with refused, database.atomic():
        again(database)
    assert value(database, "SELECT count(*) FROM deliveries") == 0


async def test_attempts_of_a_replay_go_with_its_event(journal_database: str, database: PostgresDatabase) -> None:
    """They are on a later day than the event, which isn't dropped yet."""
    days.add(database, "old", status="failed")
    DeliveryTable.update(created_at=NEXT_DAY).execute(database)
    rows(database, "DELETE FROM attempts")
    days.add_attempt(database, 1, 1, created_at=NEXT_DAY)
    await retain(journal_database, AT + 10)
    assert value(database, "SELECT count(*) FROM attempts") == 0


async def test_what_is_pending_is_delivered_after_its_day_was_dropped(open_nodes: Open, empty_database: str) -> None:
    """A webhook that holds its deliveries is enabled at a node that has nothing of them in memory."""
    async with open_nodes() as nodes:
        first = await nodes.start()
        endpoint = await first.endpoint(is_active=False)
        await first.publish("held", data={"number": 17})
        day = both(day_of(first.clock.now()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(first.journal.retention.run, 30, lambda: first.clock.now() + 41 * DAY_SECONDS))
            with connected(empty_database) as database:
                await until(lambda: not day & days.tables(database))
            nursery.cancel_scope.cancel()
        await nodes.stop(first)
        second = await nodes.start()
        assert nodes.sender.sent == []
        await second.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await until(lambda: nodes.have_sent(endpoint.url, 1))
        assert msgspec.json.decode(nodes.sender.sent[0].body)["data"] == {"number": 17}
        # The day is there no more, and nothing was lost for want of it.
        await second.publish("next")
        await until(lambda: nodes.have_sent(endpoint.url, 2))


async def test_a_delivery_may_be_of_the_day_before_its_event(journal_database: str, database: PostgresDatabase) -> None:
    """A node whose clock is behind has replayed an event just after midnight: the attempts are in the older day."""
    midnight = float((DAY + 1) * DAY_SECONDS)
    days.add(database, "event", status="pending", at=midnight + 0.5, attempts=0)
    DeliveryTable.update(created_at=midnight - 0.5).execute(database)
    days.add_attempt(database, 1, 1, created_at=midnight - 0.5)
    await retain(journal_database, midnight)
    assert numbers(database) == [1]
    await retain(journal_database, midnight + old_days.MARGIN_SECONDS)
    assert days.tables(database) == both(DAY + 1)
    assert numbers(database) == [1]


# Interruptions


@pytest.mark.parametrize("stage", get_args(PartitionStage))
async def test_a_killed_leader_leaves_what_the_next_one_ends(
    journal_database: str, database: PostgresDatabase, stage: str
) -> None:
    """After a kill between two steps the next run drops the days, and what is pending has its body all the time."""
    days.add(database, "ended")
    days.add(database, "queued", status="pending", attempts=3)
    with Process([sys.executable, "-m", days.__name__, journal_database, str(LATER), stage]) as process:
        assert process.wait() == -9
    assert days.tables(database) != set()
    assert numbers(database, 2) == [1, 2, 3]
    assert body(database, "queued") == b"queued"
    await retain(journal_database)
    assert days.tables(database) == set()
    assert (body(database, "queued"), numbers(database, 2)) == (b"queued", [1, 2, 3])


async def test_a_backup_holds_up_the_drop_and_nothing_else(
    journal_database: str, database: PostgresDatabase, reader: PostgresDatabase
) -> None:
    """While a backup reads, days are half detached, and events and attempts are stored; then the days are dropped."""
    days.add(database, "queued", status="pending")
    rows(reader, "BEGIN")
    for name in ("bodies", "attempts", *days.tables(database)):
        rows(reader, f"LOCK TABLE {name} IN ACCESS SHARE MODE")
    await retain(journal_database)
    assert days.days(database, leaving=True) == both(DAY)
    rows(database, "SET lock_timeout = '100ms'")
    make_days(database, [DAY + 40])
    days.add(database, "new", at=AT + 40 * DAY_SECONDS)
    assert (body(database, "queued"), numbers(database, 1)) == (b"queued", [1])
    # What an open transaction has added to it.
    days.add_attempt(database, 1, 2, table="attempts_20241004")
    rows(reader, "COMMIT")
    await retain(journal_database)
    assert days.tables(database) == both(DAY + 40)
    assert numbers(database, 1) == [1, 2]


async def test_what_is_added_to_a_day_that_leaves_is_moved(journal_database: str, database: PostgresDatabase) -> None:
    """An attempt that was recorded after the others were moved is moved after the day was detached."""
    days.add(database, "queued", status="pending")
    made: list[int] = []

    def record() -> None:
        # Before the transactions that delete events (two) and move bodies (one) and attempts (one): in the fourth gap.
        if value(database, "SELECT count(*) FROM kept_attempts") and not made:
            made.append(1)
            days.add_attempt(database, 1, 2)

    await retain(journal_database, between=[record] * 20)
    assert made
    assert days.tables(database) == set()
    assert numbers(database, 1) == [1, 2]


async def test_a_query_finds_what_was_where_it_began(
    journal_database: str, database: PostgresDatabase, reader: PostgresDatabase
) -> None:
    """A day isn't detached while a query runs that began before what is pending was moved."""
    days.add(database, "queued", status="pending")
    rows(reader, "BEGIN")
    assert value(reader, "SELECT count(*) FROM events") == 1
    await retain(journal_database)
    assert days.days(database) == both(DAY, DAY + 1)
    assert events.message(reader, 1).body == b"queued"
    rows(reader, "COMMIT")
    await retain(journal_database)
    assert days.tables(database) == set()


def test_a_partition_that_is_attached_is_not_dropped(database: PostgresDatabase) -> None:
    """One that has the name of what was detached is another one."""
    [own] = [each for each in attached(database) if each.name == min(both(DAY))]
    assert not old_days.drop(database, own)
    assert days.days(database) == both(DAY, DAY + 1)
    assert old_days.detach(database, own)
    assert [old_days.drop(database, own) for _ in range(2)] == [True, True]
    assert old_days.detach(database, own)

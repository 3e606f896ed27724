"""A node whose database is killed, stopped or lost in the middle of its work."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest
import trio
import trio.testing

from tests.journal.harness import CLOCK, IDS, event, publish
from tests.journal.store_calls import add, record, rows, window
from tests.patience import PATIENCE_SECONDS, until
from tests.postgres_server import PostgresServer
from webhookd.base.database_url import parse
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import DeliveryStatus, Endpoint, PublishResult
from webhookd.journal import Server, SlotsLost, SlotsTaken, Store, Ticket, Window, open_store, reader
from webhookd.journal import writer as group_commit
from webhookd.journal.postgres import database
from webhookd.journal.postgres.batch import HotBatch
from webhookd.journal.server import LeaseTimes

QUICK = LeaseTimes().scaled(0.2)
WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
Commit = Callable[[HotBatch, Any, Any], None]


@asynccontextmanager
async def running(url: str) -> AsyncIterator[Store]:
    with trio.fail_after(2 * PATIENCE_SECONDS):
        async with (
            open_store(Server(url=parse(url), times=QUICK), clock=CLOCK, ids=IDS) as store,
            trio.open_nursery() as nursery,
        ):
            await nursery.start(store.run)
            yield store
            nursery.cancel_scope.cancel()


async def stored(store: Store, endpoint: Endpoint) -> list[str]:
    return [row.event_id for row in await rows(store, endpoint)]


async def test_a_killed_database_loses_nothing_acknowledged(own_server: PostgresServer) -> None:
    """What is submitted while it is away is stored once it is back, and nothing is stored twice."""
    with own_server.database() as name:
        async with running(own_server.url(name)) as store:
            endpoint = await add(store)
            for number in range(20):
                await publish(store, event(f"e{number}"), endpoint).wait()
            await trio.to_thread.run_sync(own_server.kill)
            tickets = [publish(store, event(f"e{number}"), endpoint) for number in range(20, 30)]
            await trio.to_thread.run_sync(own_server.start)
            for ticket in tickets:
                assert (await ticket.wait()).deliveries == 1
            assert await stored(store, endpoint) == [f"e{number}" for number in range(30)]
            assert [row.sequence for row in await rows(store, endpoint)] == list(range(1, 31))
            await record(store, endpoint, status=DeliveryStatus.SUCCEEDED, next_attempt_at=None)
            assert (await rows(store, endpoint))[0].status is DeliveryStatus.SUCCEEDED


async def test_events_are_refused_while_the_database_is_out_of_reach(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may be sent again later with the same id; an attempt is kept until it can be recorded."""
    monkeypatch.setattr(group_commit, "PATIENCE_SECONDS", 0.5)
    with own_server.database() as name:
        async with running(own_server.url(name)) as store, trio.open_nursery() as nursery:
            endpoint = await add(store)
            await publish(store, event("first"), endpoint).wait()
            await trio.to_thread.run_sync(own_server.stop)
            with pytest.raises(Rejected) as refused:
                await publish(store, event("second"), endpoint).wait()
            assert (refused.value.code, refused.value.retry_after_seconds) == (ErrorCode.JOURNAL_UNREACHABLE, 5)
            with pytest.raises(Rejected, match="can't be reached"):
                await store.room()
            await trio.to_thread.run_sync(own_server.start)
            await until(lambda: _has_room(store))
            assert (await publish(store, event("second"), endpoint).wait()).deliveries == 1
            assert await stored(store, endpoint) == ["first", "second"]
            nursery.cancel_scope.cancel()


def _has_room(store: Store) -> bool:
    try:
        return store.has_room(None) and store._writer._has_room(None)
    except Rejected:
        return False


async def test_a_node_sends_nothing_once_its_lease_may_have_ended(own_server: PostgresServer) -> None:
    """It gives up its slots by its own clock, and takes them again when the database is back."""
    with own_server.database() as name:
        async with running(own_server.url(name)) as store:
            changes: list[object] = []
            store.feed.follow(SlotsLost, changes.append)
            store.feed.follow(SlotsTaken, changes.append)
            endpoint = await add(store)
            assert store.ownership.may_send()
            assert store.is_reachable
            await trio.to_thread.run_sync(own_server.stop)
            await until(lambda: not store.is_reachable)
            await until(lambda: not store.ownership.may_send())
            await until(lambda: not store.ownership.owns(endpoint.pk))
            await trio.to_thread.run_sync(own_server.start)
            await until(lambda: store.ownership.owns(endpoint.pk) and store.ownership.may_send())
            assert store.is_reachable
            assert [type(change) for change in changes] == [SlotsLost, SlotsTaken]
            fence = store.ownership.fence(endpoint.pk)
            assert fence is not None
            assert fence.generation > 1


async def test_a_query_waits_for_the_database(own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is answered once the database is back, and refused if that takes too long."""
    with own_server.database() as name:
        async with running(own_server.url(name)) as store, trio.open_nursery() as nursery:
            endpoint = await add(store)
            await trio.to_thread.run_sync(own_server.stop)
            found: list[Endpoint] = []

            async def ask() -> None:
                found.append(await store.webhooks.get(endpoint.id))

            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked()
            monkeypatch.setattr(reader, "PATIENCE_SECONDS", 0.5)
            with pytest.raises(Rejected) as refused:
                await store.webhooks.get(endpoint.id)
            assert refused.value.code is ErrorCode.JOURNAL_UNREACHABLE
            assert not found
            await trio.to_thread.run_sync(own_server.start)
            await until(lambda: found)
            assert found == [endpoint]


async def test_an_actor_waits_for_its_queue_however_long(
    own_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While requests are refused, its question is asked again and again: an error would cut off what is in flight."""
    monkeypatch.setattr(reader, "PATIENCE_SECONDS", -1.0)
    with own_server.database() as name:
        async with running(own_server.url(name)) as store, trio.open_nursery() as nursery:
            endpoint = await add(store)
            await publish(store, event("queued"), endpoint).wait()
            await trio.to_thread.run_sync(own_server.stop)
            found: list[Window] = []

            async def ask() -> None:
                found.append(await window(store, endpoint))

            nursery.start_soon(ask)
            for _ in range(3):
                with pytest.raises(Rejected, match="can't be reached"):
                    await store.webhooks.get(endpoint.id)
            assert not found
            await trio.to_thread.run_sync(own_server.start)
            await until(lambda: found)
            assert [delivery.sequence for delivery in found[0].pending] == [1]


def _lose_answer(commit: Commit) -> Commit:
    """Commit, and then lose the connection before anybody knows."""

    def commit_and_lose(batch: HotBatch, connection: Any, begin: Any) -> None:
        commit(batch, connection, begin)
        connection.close()
        raise psycopg.OperationalError("the connection is lost")

    return commit_and_lose


def _lose_commit(_: Commit) -> Commit:
    """Lose the connection in an open transaction, before the commit is sent."""

    def begin_and_lose(batch: HotBatch, connection: Any, begin: Any) -> None:
        connection.execute("BEGIN")
        begin(connection)
        connection.close()
        raise psycopg.OperationalError("the connection is lost")

    return begin_and_lose


@pytest.mark.parametrize("lose", [_lose_answer, _lose_commit])
async def test_a_lost_answer_to_a_commit_is_found_out(
    empty_database: str, monkeypatch: pytest.MonkeyPatch, lose: Callable[[Commit], Commit]
) -> None:
    """Whether it was committed or not, the event is stored once, and its result and deliveries are right."""
    async with running(empty_database) as store:
        endpoint = await add(store)
        await publish(store, event("before"), endpoint).wait()
        usual = HotBatch.commit
        faulty = lose(usual)

        def commit_once(batch: HotBatch, connection: Any, begin: Any) -> None:
            monkeypatch.setattr(HotBatch, "commit", usual)
            faulty(batch, connection, begin)

        monkeypatch.setattr(HotBatch, "commit", commit_once)
        result = await publish(store, event("in doubt"), endpoint).wait()
        assert (result.deliveries, result.duplicate) == (1, False)
        await publish(store, event("after"), endpoint).wait()
        assert await stored(store, endpoint) == ["before", "in doubt", "after"]
        found = await window(store, endpoint)
        assert [delivery.sequence for delivery in found.pending] == [1, 2, 3]
        monkeypatch.setattr(HotBatch, "commit", commit_once)
        await record(store, endpoint, status=DeliveryStatus.SUCCEEDED, next_attempt_at=None)
        first = (await rows(store, endpoint))[0]
        assert (first.status, first.attempts) == (DeliveryStatus.SUCCEEDED, 1)


async def test_an_outcome_is_found_out_although_the_old_session_still_holds_the_writers_row(
    empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking for it takes as long as it takes: an event that is committed isn't reported as failed meanwhile."""
    writers = dict(database._SETTINGS[database.ConnectionRole.WRITER]) | {"lock_timeout": "100ms"}
    monkeypatch.setattr(database, "_SETTINGS", {**database._SETTINGS, database.ConnectionRole.WRITER: writers})
    holder = psycopg.connect(empty_database, application_name="holder")
    watcher = psycopg.connect(empty_database, autocommit=True)
    waited: set[int] = set()

    def hold_until_two_have_waited(ticket: Ticket[PublishResult]) -> None:
        while len(waited) < 2 and not ticket.is_done:
            waited.update(row[0] for row in watcher.execute(WAITING))
        holder.rollback()

    async with running(empty_database) as store:
        endpoint = await add(store)
        usual = HotBatch.commit

        def commit_and_lose(batch: HotBatch, connection: Any, begin: Any) -> None:
            monkeypatch.setattr(HotBatch, "commit", usual)
            usual(batch, connection, begin)
            holder.execute("SELECT FROM writers FOR UPDATE")
            connection.close()
            raise psycopg.OperationalError("the connection is lost")

        monkeypatch.setattr(HotBatch, "commit", commit_and_lose)
        ticket = publish(store, event("in doubt"), endpoint)
        await trio.to_thread.run_sync(hold_until_two_have_waited, ticket)
        result = await ticket.wait()
        assert (result.deliveries, result.duplicate) == (1, False)
    holder.close()
    watcher.close()

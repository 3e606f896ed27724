"""A database that is restored under living nodes: an older copy of its directory is put back while they run."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec
import pytest
import trio
from peewee import Database

from tests.journal.harness import CLOCK, IDS, event, new_endpoint, publish
from tests.journal.postgres.connections import connected, rows
from tests.journal.postgres.nodes import QUICK, Nodes, Open, slots_of
from tests.journal.postgres.test_event_order import add as add_event
from tests.journal.postgres.test_event_order import new_of
from tests.journal.postgres.test_outage import running
from tests.journal.store_calls import MOST, add, submitted, window
from tests.journal.store_calls import rows as deliveries_of
from tests.patience import wait_until
from tests.postgres_server import OWNER, PostgresServer
from tests.samples import attempt_record
from tests.world import OK, World, steady
from webhookd.admin.auth import KeyRing, new_key
from webhookd.base.database_url import parse
from webhookd.base.errors import CommandError
from webhookd.base.models import DeliveryStatus, Role, Target
from webhookd.journal import FencedError, Server, Store, Ticket, open_store
from webhookd.journal.ownership import SLOTS
from webhookd.journal.postgres.engine import PostgresEngine
from webhookd.journal.postgres.incarnations import Incarnation, read_incarnation
from webhookd.journal.postgres.membership import Membership
from webhookd.journal.postgres.migrations import prepare
from webhookd.journal.queries import events
from webhookd.journal.queries.schema import AttemptTable, EventTable

OFTEN_SECONDS = 0.02
SOON, NEVER = 0.05, 86_400.0
IS_SETTLED = "SELECT noticed_at + make_interval(secs => %s) < clock_timestamp() FROM incarnations"


def incarnation(server: PostgresServer) -> Incarnation:
    with connected(server.url()) as database:
        return read_incarnation(database)


def keep(server: PostgresServer) -> None:
    """Copy the server's directory, for `put_back`; the server is stopped meanwhile."""
    server.stop()
    subprocess.run(["cp", "-a", server.data, server.directory / "kept"], check=True)
    server.start()


def put_back(server: PostgresServer) -> None:
    """Restore the copy of the directory, as an operator does who doesn't stop the nodes."""
    bring_back(server)
    server.start()


def bring_back(server: PostgresServer) -> None:
    """Stop a server, and put the copy in the place of its directory."""
    server.stop()
    subprocess.run(["rm", "-r", server.data], check=True)
    (server.directory / "kept").rename(server.data)


def promote(server: PostgresServer) -> None:
    """Start a stopped server as a standby that is promoted: on a new timeline."""
    server.settings |= {"restore_command": "false"}
    (server.data / "recovery.signal").touch()
    server.start()
    with server.administer() as administrator:
        wait_until(lambda: administrator.execute("SELECT pg_is_in_recovery()").fetchone() == (False,))


def node_of(world: World) -> str:
    ownership = world.journal.ownership
    assert isinstance(ownership, Membership)
    return ownership.node


@asynccontextmanager
async def beginning_anew(nodes: Nodes) -> AsyncIterator[None]:
    """Wait until each node has another id than before the block, and all slots are driven again."""
    before = {node_of(each) for each in nodes.all}
    yield
    while {node_of(each) for each in nodes.all} & before or sum(len(slots_of(each)) for each in nodes.all) < SLOTS:
        await trio.sleep(OFTEN_SECONDS)


@asynccontextmanager
async def command(url: str) -> AsyncIterator[Store]:
    """Open the journal as a command does, which is no node: what it makes is delivered by others."""
    async with (
        open_store(Server(url=parse(url), takes_part=False), clock=CLOCK, ids=IDS) as store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


def event_pks(database: Database) -> dict[str, int]:
    return dict(EventTable.select(EventTable.id, EventTable.pk).tuples().execute(database))


def test_another_past_is_another_incarnation(postgres_server: PostgresServer, own_server: PostgresServer) -> None:
    """So is each start of a server: nobody can tell that its directory is not an older one."""
    before = incarnation(own_server)
    assert incarnation(own_server) == before
    own_server.kill()
    own_server.start()
    restarted = incarnation(own_server)
    assert restarted.started_at > before.started_at
    assert (restarted.system_identifier, restarted.timeline) == (before.system_identifier, before.timeline)
    own_server.stop()
    promote(own_server)
    after = incarnation(own_server)
    assert after.system_identifier == before.system_identifier
    assert after.timeline > before.timeline
    assert incarnation(postgres_server).system_identifier != before.system_identifier


def test_a_database_that_is_made_again_is_another_incarnation(
    postgres_server: PostgresServer, empty_database: str
) -> None:
    """A database that was dropped and created again has the same name, and is on the same server."""
    with connected(empty_database) as database:
        before = read_incarnation(database)
    name = parse(empty_database).database
    with postgres_server.administer() as administrator:
        administrator.execute(f"DROP DATABASE {name}".encode())
        administrator.execute(f"CREATE DATABASE {name} OWNER {OWNER}".encode())
    with connected(empty_database) as database:
        after = read_incarnation(database)
        assert read_incarnation(database) == after
    assert after != before
    assert (after.timeline, after.started_at) == (before.timeline, before.started_at)


def test_the_feed_begins_an_era_after_a_failover(own_server: PostgresServer, own_database: str) -> None:
    """A standby that lacks the last commits gives out their numbers again; a cursor behind them skips no new event."""
    with connected(own_database) as database:
        prepare(database, now=0.0)
        add_event(database, "kept")
    keep(own_server)
    with connected(own_database) as database:
        for number in range(5):
            add_event(database, f"lost {number}")
        cursor = events.page(database, None, limit=5, cursor=None, after=None).next_cursor
    bring_back(own_server)
    promote(own_server)
    with connected(own_database) as database:
        prepare(database, now=0.0)
        add_event(database, "new")
        assert new_of(database, cursor) == ["new"]
        assert new_of(database, None) == ["kept", "new"]


async def test_what_was_known_by_a_number_is_not_used_after_a_restore(
    own_server: PostgresServer, own_database: str, open_own_nodes: Open
) -> None:
    """Another event and other deliveries get the numbers of lost ones: each receiver gets what was published for it.

    The node was started after the copy was made, which knows nothing of it.
    """
    async with open_own_nodes() as nodes:
        nodes.config = steady(retry_delays=(SOON, NEVER), breaker_threshold=5)
        one = await nodes.start()
        ours, theirs = [await one.endpoint(url=f"https://{name}.example/") for name in ("ours", "theirs")]
        await nodes.stop(one)
        await trio.to_thread.run_sync(keep, own_server)
        node = await nodes.start()
        while len(slots_of(node)) < SLOTS:
            await trio.sleep(OFTEN_SECONDS)
        nodes.sender.script = lambda sent: 500 if sent.event == "lost" else OK
        async with command(own_database) as store:
            await publish(store, event("lost"), ours).wait()
        while len(nodes.sender.events(ours.url)) < 2:  # at the second attempt the body was read, and is kept
            await trio.sleep(OFTEN_SECONDS)
        lost = (await node.journal.transactions.read(event_pks))["lost"]
        async with beginning_anew(nodes):
            await trio.to_thread.run_sync(put_back, own_server)
        async with command(own_database) as store:
            await publish(store, event("found"), theirs, ours).wait()
        while not nodes.sender.events(theirs.url) or len(nodes.sender.events(ours.url)) < 3:
            await trio.sleep(OFTEN_SECONDS)
        assert await node.journal.transactions.read(event_pks) == {"found": lost}
        assert nodes.sender.events(theirs.url) == ["found"]
        assert nodes.sender.events(ours.url) == ["lost", "lost", "found"]
        assert (await node.publish("later")).deliveries == 2, "its writer goes on"


@pytest.mark.slow
async def test_settings_are_those_of_the_restored_database(
    own_server: PostgresServer, own_database: str, open_own_nodes: Open
) -> None:
    """A webhook and a key that were made with the number of a lost change are known, and what was lost is not."""
    async with open_own_nodes() as nodes:
        node = await nodes.start()
        ring = KeyRing(feed=node.journal.feed)
        kept = await node.endpoint(url="https://kept.example/")
        await trio.to_thread.run_sync(keep, own_server)
        lost = await node.endpoint(url="https://lost.example/")
        row, text = new_key(Role.ADMIN, node.ids, node.clock.now())
        await node.journal.keys.create(row, most=10, entry=None)
        assert ring.identify(text.reveal(), node.clock.now()) is not None
        async with beginning_anew(nodes):
            await trio.to_thread.run_sync(put_back, own_server)
        while {each.id for each in node.router.registry.endpoints()} != {kept.id}:
            await trio.sleep(OFTEN_SECONDS)
        async with command(own_database) as store:
            new = new_endpoint(url="https://found.example/")
            found = await store.webhooks.create(node.vault, new, most=MOST, entry=None)
            other, other_text = new_key(Role.ADMIN, node.ids, node.clock.now())
            await store.keys.create(other, most=10, entry=None)
        assert found.pk == lost.pk
        assert (await node.publish("e")).deliveries == 2
        while len(nodes.sender.sent) < 2:
            await trio.sleep(OFTEN_SECONDS)
        assert {sent.url for sent in nodes.sender.sent} == {kept.url, found.url}
        assert {each.id for each in node.router.registry.endpoints()} == {kept.id, found.id}
        assert ring.identify(text.reveal(), node.clock.now()) is None
        assert ring.identify(other_text.reveal(), node.clock.now()) is not None


@pytest.mark.slow
async def test_all_nodes_begin_anew(own_server: PostgresServer, own_database: str, open_own_nodes: Open) -> None:
    """Each has an id that it never had, and what the copy knows of those before is gone."""
    async with open_own_nodes() as nodes:
        await nodes.two()
        ids: set[str] = set()
        for change in (keep, put_back):
            ids |= {node_of(each) for each in nodes.all}
            async with beginning_anew(nodes):
                await trio.to_thread.run_sync(change, own_server)
            assert not ids & {node_of(each) for each in nodes.all}
            with connected(own_database) as database:
                [(is_settled,)] = rows(database, IS_SETTLED, QUICK.settle)
            assert is_settled, "a slot was taken before every node could know"
            await nodes.shared()
        with connected(own_database) as database:
            found = rows(database, "SELECT id FROM nodes UNION SELECT node FROM slots")
        assert {name for (name,) in found} == {node_of(each) for each in nodes.all}


async def test_a_record_from_before_is_refused(empty_database: str) -> None:
    """The slot may have the same generation again, which was then given out for something else."""
    async with (
        open_store(Server(url=parse(empty_database)), clock=CLOCK, ids=IDS) as store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(store.run)
        endpoint = await add(store)
        await publish(store, event("e"), endpoint).wait()
        [delivery] = (await window(store, endpoint)).pending
        record = msgspec.structs.replace(attempt_record(), delivery=delivery, number=1)
        fence = store.ownership.fence(endpoint.pk)
        assert fence is not None
        before: Ticket[None] = Ticket()
        store.record(record, fence=fence._replace(incarnation=fence.incarnation - 1), landed=before.settle)
        with pytest.raises(FencedError):
            await before.wait()
        now: Ticket[None] = Ticket()
        store.record(record, fence=fence, landed=now.settle)
        await now.wait()
        assert (await deliveries_of(store, endpoint))[0].attempts == 1
        nursery.cancel_scope.cancel()


async def test_a_record_names_its_delivery_by_the_id_too(empty_database: str) -> None:
    """An attempt of a delivery that is lost changes nothing of the one that has its row number now."""
    async with (
        open_store(Server(url=parse(empty_database)), clock=CLOCK, ids=IDS) as store,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(store.run)
        endpoint = await add(store)
        await publish(store, event("e"), endpoint).wait()
        [delivery] = (await window(store, endpoint)).pending
        lost = msgspec.structs.replace(delivery, id="dlv_lost")
        await submitted(store, msgspec.structs.replace(attempt_record(), delivery=lost, number=1)).wait()
        assert (await deliveries_of(store, endpoint))[0].attempts == 0
        count = partial(AttemptTable.select().count)
        assert await store.transactions.read(count) == 0
        nursery.cancel_scope.cancel()


def test_a_user_who_may_not_ask_for_the_incarnation(postgres_server: PostgresServer, empty_database: str) -> None:
    """By default every user may; where that was revoked, the error says what to grant."""
    with postgres_server.administer(parse(empty_database).database) as administrator:
        administrator.execute("REVOKE EXECUTE ON FUNCTION pg_control_system() FROM PUBLIC")
    with connected(empty_database) as database, pytest.raises(CommandError, match="GRANT EXECUTE"):
        read_incarnation(database)


async def test_targets_are_found_again_after_another_change_with_the_number(empty_database: str) -> None:
    """An event whose targets are from before a restore is not stored for them, although no number is higher."""
    async with running(empty_database) as store:
        endpoint = await add(store)
        engine = store._engine
        assert isinstance(engine, PostgresEngine)
        target = Target(endpoint_pk=endpoint.pk, status=DeliveryStatus.PENDING, max_age_seconds=60)
        async with store.holding_changes():
            known = engine._follower.mark
            engine._follower.mark = known._replace(token=b"of a change that is lost")
            ticket = store.publish(event("e"), (), aim=lambda: (target,))
        assert (await ticket.wait()).deliveries == 1
        assert engine.changes_known == known

"""What only one of several nodes does: the leader what is for all, and the owner of a webhook what is for that one."""

from functools import partial
from pathlib import Path

import trio
from peewee import Database

from tests.admin.inprocess import Api, Signer, api_of
from tests.journal.postgres.connections import connected, rows
from tests.journal.postgres.nodes import Open, endpoint_of
from tests.patience import until
from tests.world import World
from webhookd.admin.prometheus import KEPT_SECONDS
from webhookd.base.models import ReplayKind, ReplayStatus
from webhookd.jobs.replay import selection
from webhookd.journal import ReplayRow
from webhookd.journal.operations import ChangeMark
from webhookd.journal.postgres import changes, leases
from webhookd.journal.postgres.changes import Reread
from webhookd.journal.queries.schema import EventTable, ReplayTable
from webhookd.observe.statistics import MINUTE, SERVER, Counts, Key

OFTEN_SECONDS = 0.02
DAY = 86_400.0


async def events_of(node: World) -> int:
    return await node.journal.transactions.read(lambda database: EventTable.select().count(database))


async def prune_often(node: World, scope: trio.CancelScope) -> None:
    """Delete all events as often as this node may."""
    with scope:
        await node.journal.retention.run(30, lambda: node.clock.now() + 31 * DAY, period_seconds=OFTEN_SECONDS)


def number_of(database: Database, process: str) -> int:
    """Return how many transactions of a process's writer were committed."""
    sql = "SELECT number FROM writers WHERE node = %s"
    [(number,)] = database.execute_sql(sql, (process,)).fetchall()  # type: ignore[no-untyped-call]  # peewee's stubs
    return int(number)


async def test_only_the_leader_deletes_what_is_old(open_nodes: Open) -> None:
    """Retention runs at every node, but deletes at the leader alone; once that has left, another one goes on."""
    async with open_nodes() as nodes, trio.open_nursery() as nursery:
        leader, other = await nodes.two()
        transactions = other.journal.transactions
        before = await transactions.read(number_of, transactions.process)
        nursery.start_soon(prune_often, other, trio.CancelScope())
        await leader.publish("old")
        leading = trio.CancelScope()
        nursery.start_soon(prune_often, leader, leading)
        while await events_of(other):
            await trio.sleep(OFTEN_SECONDS)
        assert await transactions.read(number_of, transactions.process) == before
        leading.cancel()
        await nodes.stop(leader)
        await other.publish("older")
        while await events_of(other):
            await trio.sleep(OFTEN_SECONDS)
        nursery.cancel_scope.cancel()


async def test_only_the_leader_prunes_statistics(open_nodes: Open) -> None:
    """Rows that are older than they are kept are deleted by the leader, and by nobody else."""
    async with open_nodes() as nodes:
        leader, other = await nodes.two()
        await other.journal.statistics.put([(Key(MINUTE, 0, SERVER), Counts(events=1))]).wait()
        for node, left in ((other, 1), (leader, 0)):
            assert not await node.journal.statistics.prune(node.clock.now(), 10)
            found, _ = await other.journal.statistics.find(seconds=MINUTE, starts=[0], subjects=[SERVER])
            assert len(found) == left


async def test_only_the_leader_counts_the_backlog(open_nodes: Open, tmp_path: Path) -> None:
    """The metrics of the backlog are at one node, so that their sum is right; they move with the leadership."""
    async with open_nodes() as nodes:
        leader, other = await nodes.two()
        apis: dict[World, Api] = {}
        for node in (leader, other):
            directory = tmp_path / str(len(apis))
            directory.mkdir()
            apis[node] = await api_of(node, directory, Signer())
        async with trio.open_nursery() as nursery:
            for api in apis.values():
                nursery.start_soon(api.services.metrics.run)

            async def counts(node: World) -> bool:
                answer = await apis[node].ask("GET", "/metrics", None)
                return "webhookd_backlog_deliveries" in answer.text

            while not await counts(leader):
                await trio.sleep(KEPT_SECONDS)
            assert not await counts(other)
            nursery.cancel_scope.cancel()
        await nodes.stop(leader)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(apis[other].services.metrics.run)
            while not await counts(other):
                await trio.sleep(KEPT_SECONDS)
            nursery.cancel_scope.cancel()


async def test_a_replay_is_carried_out_by_the_owner(open_nodes: Open) -> None:
    """A replay that is started at another node is noticed by the node that drives the webhook, which queues its events.

    When that node leaves in the middle, the one that takes the webhook over goes on.
    """
    async with open_nodes() as nodes:
        one, other = await nodes.two()
        theirs = await endpoint_of(other, at=one)
        await one.publish("again")
        await until(partial(nodes.have_sent, theirs.url, 1))

        async def start() -> ReplayRow:
            wanted = selection(theirs, ReplayKind.REPLAY, since=0.0, until=one.clock.now() + 1, events=())
            return await one.router.replayer.start(theirs, wanted)

        row = await start()
        await until(partial(nodes.have_sent, theirs.url, 2))
        while (await one.journal.replays.get(theirs.pk, row.id)).status is not ReplayStatus.DONE:
            await trio.sleep(OFTEN_SECONDS)
        await one.journal.transactions.write(set_back, row.id)  # as if it had ended right after the start
        await nodes.stop(other)
        await until(partial(nodes.have_sent, theirs.url, 3))


def set_back(database: Database, replay_id: str) -> None:
    ReplayTable.update({"status": ReplayStatus.RUNNING, "position": 0}).where(ReplayTable.id == replay_id).execute(
        database
    )


def test_traces_of_ended_processes_are_deleted(journal_database: str) -> None:
    """A writer's row goes a day after its process was last a node, and a change a day after it was made."""
    with connected(journal_database) as database:
        rows(database, "INSERT INTO nodes VALUES ('node_a.2', 'a', 1, now() + '7s')")
        for process in ("node_a", "node_b", "node_c"):
            rows(database, "INSERT INTO writers (node, writer, number) VALUES (%s, 'writer', 0)", process)
        rows(database, "UPDATE writers SET alive_at = now() - interval '25 hours' WHERE node <> 'node_c'")
        leases.forget_writers(database, DAY)
        assert rows(database, "SELECT node FROM writers ORDER BY node") == [("node_a",), ("node_c",)]
        assert rows(database, "SELECT 1 FROM writers WHERE alive_at < now() - interval '1 hour'") == []
        for number, hours in ((1, 25), (2, 23)):
            rows(
                database,
                "INSERT INTO changes VALUES (%s, 'key', 'key_a', extract(epoch FROM now()) - 3600 * %s, %s, %s)",
                *(number, hours, token_of(number), token_of(number - 1)),
            )
        rows(database, "UPDATE heads SET number = 2, hash = %s WHERE name = 'changes'", token_of(2))
        changes.forget(database, DAY)
        assert rows(database, "SELECT number FROM changes") == [(2,)]
        found = changes.read(database, mark_of(1), frozenset())
        assert isinstance(found, list)
        assert [each.mark for each in found] == [mark_of(2)]
        assert isinstance(changes.read(database, mark_of(0), frozenset()), Reread)
        changes.forget(database, 0.0)
        assert changes.read(database, mark_of(2), frozenset()) == []
        assert isinstance(changes.read(database, mark_of(1), frozenset()), Reread)


def token_of(number: int) -> bytes:
    return b"token %d" % number


def mark_of(number: int) -> ChangeMark:
    return ChangeMark(number, token_of(number))

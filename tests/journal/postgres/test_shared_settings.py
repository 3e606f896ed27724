"""What all nodes know of settings: the first key, and what is changed while a node starts."""

from functools import partial

import trio
from trio.testing import wait_all_tasks_blocked

from tests.journal.harness import VAULT
from tests.journal.postgres.nodes import Open, slots_of
from tests.journal.postgres.test_incarnations import command
from tests.journal.store_calls import add
from tests.patience import until
from tests.stages import at_stage
from tests.world import World
from webhookd.admin.auth import KeyRing
from webhookd.base.database_url import parse
from webhookd.base.secret import Secret
from webhookd.journal import (
    EndpointChanges,
    Feed,
    KeyRevoked,
    Server,
    Store,
    WebhookChanged,
    WebhookChangedElsewhere,
    open_store,
)
from webhookd.journal.operations import NO_CHANGE, ChangeMark
from webhookd.journal.ownership import SLOTS
from webhookd.journal.postgres.changes import ChangeFollower, Followed
from webhookd.server import ensure_admin_key


async def test_nodes_that_start_at_once_make_one_key(open_nodes: Open) -> None:
    """On an empty database one of them makes the first key, and it is valid at all of them."""
    async with open_nodes() as nodes:
        rings: dict[World, KeyRing] = {}
        for _ in range(3):
            node = await nodes.start()
            rings[node] = KeyRing(feed=node.journal.feed)
        texts: list[Secret[str]] = []

        async def start(node: World) -> None:
            text = await ensure_admin_key(node.journal, node.ids, node.clock)
            if text is not None:
                texts.append(text)

        async with trio.open_nursery() as nursery:
            for node in nodes.all:
                nursery.start_soon(start, node)
        [text] = texts
        for node, ring in rings.items():
            await until(lambda ring=ring, node=node: ring.identify(text.reveal(), node.clock.now()) is not None)  # type: ignore[misc]
            assert len(await node.journal.keys.all()) == 1


async def test_a_command_changes_settings_and_takes_no_slot(open_nodes: Open, empty_database: str) -> None:
    """A process that doesn't take part is no node, and what it changes is known to the nodes."""
    async with open_nodes() as nodes:
        node = await nodes.start()
        await until(lambda: len(slots_of(node)) == SLOTS)
        ring = KeyRing(feed=node.journal.feed)
        server = Server(url=parse(empty_database), takes_part=False)
        async with open_store(server, clock=node.clock, ids=node.ids) as store, trio.open_nursery() as nursery:
            await nursery.start(store.run)
            text = await ensure_admin_key(store, node.ids, node.clock)
            assert text is not None
            await until(lambda: ring.identify(text.reveal(), node.clock.now()) is not None)
            assert not store.ownership.may_send()
            assert not any(store.ownership.owns(slot) for slot in range(SLOTS))
            found = await node.journal.read_nodes()
            assert found is not None
            assert [each.name for each in found.nodes] == ["node-1"]
            nursery.cancel_scope.cancel()
        assert len(slots_of(node)) == SLOTS


async def test_nothing_is_passed_on_while_settings_are_read() -> None:
    """A key that another node revokes while this one reads all keys is announced only after they have been read."""

    async def read(after: ChangeMark, _: frozenset[bytes]) -> list[Followed]:
        await trio.lowlevel.checkpoint()
        return [Followed(ChangeMark(1), KeyRevoked("key_a"))] if after == NO_CHANGE else []

    feed, told = Feed(), list[str]()
    feed.follow(KeyRevoked, lambda revoked: told.append(revoked.key_id))
    follower = ChangeFollower(feed, NO_CHANGE, read)
    async with trio.open_nursery() as nursery, follower.waiting():
        nursery.start_soon(follower.follow)
        await wait_all_tasks_blocked()
        assert told == []
    assert told == ["key_a"]


async def test_an_own_change_does_not_replace_a_later_one_that_is_known(empty_database: str) -> None:
    """Another node's change is followed after the commit of this node's, and before this node's is passed on."""

    async def change(store: Store, description: str) -> None:
        changes = EndpointChanges(description=description)
        await store.webhooks.update(VAULT, endpoint.id, changes, 0.0, entry=None, condition=None)

    async def overtake() -> None:
        await change(other, "later")
        await store.follow_changes()

    async with command(empty_database) as store, command(empty_database) as other:
        endpoint = await add(store)
        known = list[str | None]()
        store.feed.follow(WebhookChanged, lambda changed: known.append(changed.endpoint.description))
        store.feed.follow(WebhookChangedElsewhere, lambda changed: known.append(changed.endpoint.description))
        with at_stage("batch.committed", partial(trio.from_thread.run, overtake)):
            await change(store, "earlier")
        assert known[-1] == "later"
        await change(store, "last")
        await other.follow_changes()
        await store.follow_changes()
        assert known[-1] == "last"

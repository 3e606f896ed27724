"""What all nodes know of settings: the first key, and what is changed while a node starts."""

import trio
from trio.testing import wait_all_tasks_blocked

from tests.journal.postgres.nodes import Open
from tests.patience import until
from tests.world import World
from webhookd.admin.auth import KeyRing
from webhookd.base.secret import Secret
from webhookd.journal import Feed, KeyRevoked
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


async def test_nothing_is_passed_on_while_settings_are_read() -> None:
    """A key that another node revokes while this one reads all keys is told of only when they have been read."""

    async def read(after: int, _: frozenset[int]) -> list[Followed]:
        await trio.lowlevel.checkpoint()
        return [Followed(1, KeyRevoked("key_a"))] if after == 0 else []

    feed, told = Feed(), list[str]()
    feed.follow(KeyRevoked, lambda revoked: told.append(revoked.key_id))
    follower = ChangeFollower(feed, 0, read)
    async with trio.open_nursery() as nursery, follower.waiting():
        nursery.start_soon(follower.follow)
        await wait_all_tasks_blocked()
        assert told == []
    assert told == ["key_a"]

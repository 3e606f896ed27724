"""Statistics of several nodes: each counts for itself, and shows the sum of all."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.lowlevel

from tests.journal.postgres.nodes import Nodes, Open
from tests.world import World
from webhookd.jobs.statistics import SavedStatistics, Span

OFTEN_SECONDS = 0.02


@asynccontextmanager
async def counting(node: World) -> AsyncIterator[SavedStatistics]:
    """Yield the statistics of a node that has just started; they are saved when the block ends."""
    statistics = SavedStatistics(node.measures.statistics, node.journal, node.clock)
    await statistics.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(statistics.run)
        await trio.lowlevel.checkpoint()
        yield statistics
        nursery.cancel_scope.cancel()


async def events(statistics: SavedStatistics) -> list[int]:
    """Return how many events there were, by each of the two spans."""
    return [(await statistics.recent(span, None)).total.events for span in Span]


async def publish(node: World, nodes: Nodes, number: int) -> None:
    for _ in range(number):
        await node.publish(f"e{sum(each.measures.accepted for each in nodes.all)}")


async def test_each_node_shows_the_sum_of_all(open_nodes: Open) -> None:
    """What another node has counted is added once it is saved, also after that one has ended; nothing counts twice."""
    async with open_nodes() as nodes:
        one, other = await nodes.start(), await nodes.start()
        async with counting(one) as ours:
            async with counting(other) as theirs:
                await publish(one, nodes, 2)
                await publish(other, nodes, 3)
                assert (await events(ours), await events(theirs)) == ([2, 2], [3, 3])
            while await events(ours) != [5, 5]:
                await trio.sleep(OFTEN_SECONDS)
            third = await nodes.start()
            async with counting(third) as latest:
                assert await events(latest) == [3, 3]
                await publish(third, nodes, 1)
                assert await events(latest) == [4, 4]
            await nodes.stop(other)
            while await events(ours) != [6, 6]:
                await trio.sleep(OFTEN_SECONDS)
            webhooks = await ours.of_webhooks(["wh_none"])
            assert webhooks["wh_none"].total.events == 0

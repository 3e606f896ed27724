"""The time of a node is that of its database."""

from dataclasses import dataclass

import pytest

from tests.journal.postgres.connections import connected, value
from tests.journal.postgres.nodes import Open
from tests.patience import PATIENCE_SECONDS, until
from webhookd.base.clock import DatabaseClock, SystemClock

WRONG_SECONDS = 86_400.0


@dataclass
class WrongClock(SystemClock):
    """A machine whose wall clock is wrong."""

    ahead: float

    def now(self) -> float:
        return super().now() + self.ahead


class CountingClock(DatabaseClock):
    """Counts its readings."""

    readings = 0

    def follow(self, its_time: float, asked_at: float) -> float:
        self.readings += 1
        return super().follow(its_time, asked_at)


@pytest.mark.parametrize("ahead", [-WRONG_SECONDS, WRONG_SECONDS])
async def test_a_node_has_the_time_of_its_database(open_nodes: Open, empty_database: str, ahead: float) -> None:
    """Whatever its machine's clock shows: from its start on, and again with each beat."""
    clock = CountingClock(WrongClock(ahead))
    async with open_nodes() as nodes:
        nodes.make_clock = lambda: clock
        node = await nodes.start()
        with connected(empty_database) as database:
            its_time = value(database, "SELECT extract(epoch FROM clock_timestamp())::double precision")
            made_at = value(database, "SELECT min(created_at) FROM event_types")
        assert abs(made_at - its_time) < PATIENCE_SECONDS
        assert abs(node.clock.now() - its_time) < PATIENCE_SECONDS
        before = clock.readings
        await until(lambda: clock.readings >= before + 2)
        assert (await node.publish("e")).deliveries == 0
        assert abs((await node.journal.events.get("e", None)).accepted_at - its_time) < 2 * PATIENCE_SECONDS

"""The last hour and day: in memory, on disk, and across a restart."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.admin.inprocess import Signer, api_in_process
from tests.journal.harness import CLOCK, running
from tests.virtual_clock import VIRTUAL_EPOCH
from tests.world import World, WorldSender, world
from webhookd.jobs.statistics import SavedStatistics, Span
from webhookd.journal.queries import statistics
from webhookd.observe.statistics import HOUR, MINUTE, QUARTER, SERVER, Counts, Key


@asynccontextmanager
async def saved(w: World) -> AsyncIterator[SavedStatistics]:
    """Run the saved statistics of a world until the block ends."""
    saved_statistics = SavedStatistics(w.measures.statistics, w.journal, w.clock)
    await saved_statistics.begin()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(saved_statistics.run)
        yield saved_statistics
        nursery.cancel_scope.cancel()


def rows(database: Any) -> int:
    return int(database.execute_sql("SELECT count(*) FROM statistics").fetchone()[0])


async def test_a_chart_has_every_period(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """What happened lies in its minute, quarter and hour, an hour of minutes or a day of quarters without a gap."""
    async with world(tmp_path) as w, saved(w) as saved_statistics:
        bound = await w.endpoint(organization_id="acme")
        await w.endpoint("https://b.example/")
        await trio.sleep(30)
        await w.publish("e1", organizationId="acme")
        await trio.sleep(65)
        await w.publish("e2")
        await trio.sleep(1)
        hour, day = await saved_statistics.recent(Span.HOUR, None), await saved_statistics.recent(Span.DAY, None)
        assert (hour.seconds, len(hour.points), day.seconds, len(day.points)) == (60, 60, 900, 96)
        assert [point.at for point in hour.points[-2:]] == [VIRTUAL_EPOCH, VIRTUAL_EPOCH + 60]
        assert [point.counts.events for point in hour.points] == [*[0] * 58, 1, 1]
        assert [point.counts.delivered for point in hour.points[-2:]] == [2, 1]
        assert day.points[-1].counts.delivered == 3
        ours = await saved_statistics.recent(Span.HOUR, "acme")
        assert (ours.total.events, ours.total.delivered) == (1, 1)
        assert (await saved_statistics.recent(Span.DAY, "other")).total == Counts()
        by_webhook = await saved_statistics.of_webhooks([bound.id, "wh_unknown"])
        assert [len(series.points) for series in by_webhook.values()] == [24, 24]
        assert (by_webhook[bound.id].points[-1].counts.delivered, by_webhook["wh_unknown"].total) == (1, Counts())


async def test_a_restart_goes_on_counting(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """What was counted up to a stop is told after it, and the running periods are gone on with."""
    totals = []
    for number in range(3):
        async with world(tmp_path) as w, saved(w) as saved_statistics:
            if not number:
                await w.endpoint()
            await w.publish(f"e{number}")
            await trio.sleep(1)
            series = await saved_statistics.recent(Span.HOUR, None)
            totals.append((series.total.events, series.total.delivered, sum(series.total.latencies)))
            assert (await saved_statistics.recent(Span.DAY, None)).points[-1].counts == series.total
    assert totals == [(1, 1, 1), (2, 2, 2), (3, 3, 3)]


async def test_a_crash_costs_what_was_not_saved(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Each minute is on disk when it is over."""
    async with world(tmp_path) as w:
        await w.endpoint()
        saved_statistics = SavedStatistics(w.measures.statistics, w.journal, w.clock)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(saved_statistics.run)
            await w.publish("e1")
            await trio.sleep(61)
            await w.publish("e2")
            found, _ = await w.journal.transactions.read(
                statistics.find, seconds=MINUTE, starts=[int(VIRTUAL_EPOCH)], subjects=[SERVER]
            )
            assert [counts.events for counts in found.values()] == [1]
            assert await w.journal.transactions.read(rows) == 3  # a minute, a quarter, the webhook's hour
            nursery.cancel_scope.cancel()


async def test_old_rows_are_forgotten(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Minutes are kept for hours, the rest for two days; nothing accumulates."""
    async with world(tmp_path, sender=WorldSender()) as w, saved(w) as saved_statistics:
        await w.endpoint(organization_id="acme")
        most = 0
        for number in range(72):
            await w.publish(f"e{number}", organizationId="acme")
            await trio.sleep(3600)
            most = max(most, await w.journal.transactions.read(rows))
        # Of each hour that is kept: a quarter of the server and one of the organization, and the webhook's hour.
        assert most <= 3 * 49 + 2 * 3
        assert (await saved_statistics.recent(Span.DAY, "acme")).total.events == 23


async def test_a_row_replaces_the_one_before(tmp_path: Path) -> None:
    """Saving a period again is no counting twice; a running one is found at the next start."""
    async with running(tmp_path / "journal.db") as journal:
        now = CLOCK.now()
        key = Key(HOUR, int(now) // HOUR * HOUR, "wh_1")
        await journal.transactions.write(statistics.put, statistics.encode([(key, Counts(delivered=1))]))
        await journal.transactions.write(
            statistics.put, statistics.encode([(key, Counts(delivered=2, latencies=[1] * 18))])
        )
        assert await journal.transactions.read(statistics.running, now) == [
            (key, Counts(delivered=2, latencies=[1] * 18))
        ]


async def test_a_chart_is_read_by_its_own_rows(tmp_path: Path) -> None:
    """However many webhooks there are, a page of sparklines is found by whole keys."""

    def explain(database: Any) -> list[str]:
        values = {"subjects": '["wh_1"]', "starts": "[0]", "seconds": HOUR}
        plan = database.connection().execute(f"EXPLAIN QUERY PLAN {statistics.ROWS.sqlite}", values)
        return [str(row[3]) for row in plan]

    async with running(tmp_path / "journal.db") as journal:
        found = await journal.transactions.read(explain)
    assert any("statistics USING PRIMARY KEY (seconds=? AND at=? AND subject=?)" in line for line in found), found


async def test_a_step_of_forgetting_is_bounded(tmp_path: Path) -> None:
    """After a long time away the rows that are too old go in steps."""
    async with running(tmp_path / "journal.db") as journal:
        old = [(Key(QUARTER, number * QUARTER, SERVER), Counts(events=1)) for number in range(25)]
        await journal.transactions.write(statistics.put, statistics.encode(old))
        steps = 1
        while await journal.transactions.write(statistics.prune, CLOCK.now(), 10):
            steps += 1
        assert (steps, await journal.transactions.read(rows)) == (3, 0)


@pytest.fixture
def signer() -> Signer:
    return Signer()


async def test_the_api_tells_an_organization_its_own(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, signer: Signer
) -> None:
    """`/api/stats` has the numbers that the caller may see, and a webhook's for callers that may see the webhook."""
    async with api_in_process(tmp_path, signer) as api:
        ours = await api.world.endpoint(organization_id="acme")
        await api.world.endpoint("https://b.example/", organization_id="other")
        for number, name in enumerate(("acme", "acme", "other")):
            await api.world.publish(f"e{number}", organizationId=name)
        await trio.sleep(1)
        _, everybody = await api.key("viewer")
        _, acme = await api.key("viewer", organizationId="acme")
        _, other = await api.key("viewer", organizationId="other")
        totals = [
            (await api.ask("GET", "/api/stats?span=day", key)).json()["total"] for key in (everybody, acme, other)
        ]
        assert [(total["events"], total["delivered"]) for total in totals] == [(3, 3), (2, 2), (1, 1)]
        hour = (await api.ask("GET", "/api/stats", acme)).json()
        assert (hour["seconds"], len(hour["points"]), hour["points"][-1]["events"]) == (60, 60, 2)
        assert hour["points"][-1]["latencyMs"] == {"p50": 1, "p95": 2, "p99": 2}
        mine = await api.ask("GET", f"/api/webhooks/{ours.id}/stats", acme)
        assert (mine.json()["total"]["delivered"], len(mine.json()["points"])) == (2, 24)
        assert (await api.ask("GET", f"/api/webhooks/{ours.id}/stats", other)).status_code == 404
        assert (await api.ask("GET", "/api/stats?span=year", acme)).status_code == 400

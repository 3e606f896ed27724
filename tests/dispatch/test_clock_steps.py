"""Clocks that are set by a day or a year, a suspended machine, and clocks that are set while no server runs.

Nothing is sent later than its back-off says, plus a minute where the machine slept, and nothing above its rate.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from tests.long import long
from tests.simulation.model import SimulatedClock
from tests.world import OK, Answer, HeldRunner, World, WorldSender, steady, world
from webhookd.base.clock import DOUBT_SECONDS, LONGEST_WAIT_SECONDS, STEP_SECONDS, Timeline
from webhookd.base.models import (
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    Ordering,
    Outcome,
    PolicyOverrides,
    RateLimit,
    RetryOverrides,
)
from webhookd.base.secret import Secret
from webhookd.delivery.policy.retry import FAILURES_TO_DISABLE
from webhookd.delivery.signing import generate_secret
from webhookd.journal import EndpointChanges, InlineRunner
from webhookd.journal.queries import endpoints

T = TypeVar("T")
DAY, YEAR = 86_400.0, 31_536_000.0
STEPS = (-YEAR, -DAY, -600.0, 600.0, DAY, YEAR)
QUICK_STEPS = {-DAY, YEAR}
LONG_STEPS = long(STEPS, lambda seconds: seconds not in QUICK_STEPS)
SCHEDULE = [0, 5, 35, 155, 455, 1055, 1955]


def failing(times: int, answer: Answer = 500) -> WorldSender:
    """Return a sender that fails the first attempts of each event."""
    return WorldSender(script=lambda sent: answer if sent.number <= times else OK)


async def statuses(w: World, endpoint: Endpoint) -> set[DeliveryStatus]:
    return {row.status for row in await w.deliveries(endpoint)}


def is_active(w: World, endpoint: Endpoint) -> bool:
    lane = w.router.registry.lane(endpoint.pk)
    return lane is not None and lane.endpoint.is_active


@pytest.mark.parametrize("ordering", list(Ordering))
@pytest.mark.parametrize("seconds", LONG_STEPS)
async def test_a_clock_that_is_set_moves_no_retry(
    tmp_path: Path, autojump_clock: MockClock, seconds: float, ordering: Ordering
) -> None:
    """Back-off and breaker last exactly as long as they should, whatever the wall clock is set to meanwhile."""
    sender, machine = failing(6), SimulatedClock()
    async with world(tmp_path, sender=sender, machine=machine) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=ordering))
        await w.publish("e0")
        for at in (20, 100, 300, 1000):  # during back-offs, and while the breaker is open
            await trio.sleep(at - trio.current_time() + sender.began_at)
            machine.jump(seconds if at != 300 else -2 * seconds)
        await trio.sleep(3000)
        assert sender.times() == SCHEDULE
        assert await statuses(w, endpoint) == {DeliveryStatus.SUCCEEDED}


@pytest.mark.parametrize("seconds", LONG_STEPS)
async def test_a_clock_that_is_set_moves_no_pause(tmp_path: Path, autojump_clock: MockClock, seconds: float) -> None:
    """A Retry-After is waited for as long as the receiver asked."""
    sender, machine = WorldSender(), SimulatedClock()
    slow = Outcome(duration_seconds=0, status=503, headers=(("retry-after", "100"),))
    sender.script = lambda sent: slow if sent.number == 1 else OK
    async with world(tmp_path, sender=sender, machine=machine) as w:
        await w.endpoint()
        await w.publish("e0")
        await trio.sleep(50)
        machine.jump(seconds)
        await trio.sleep(200)
        assert sender.times() == [0, 100]


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("nth", [3, 4, 5, 6])
async def test_a_clock_that_is_set_as_an_actor_starts_ends_no_pause(
    tmp_path: Path, autojump_clock: MockClock, nth: int, times: int
) -> None:
    """The state that an actor has just read is moved when the clock is set before the actor reads the time."""
    machine = SimulatedClock()

    class SetsTheClock(InlineRunner):
        """Has the clock set after some of the reads with which a server starts."""

        reads = 0

        async def run(self, function: Callable[[], T]) -> T:
            answer = await super().run(function)
            self.reads += 1
            if nth <= self.reads < nth + times:
                machine.jump(DAY)
            return answer

    slow = Outcome(duration_seconds=0, status=503, headers=(("retry-after", "100"),))
    async with world(tmp_path, sender=WorldSender(script=lambda _: slow)) as w:
        await w.endpoint(overrides=PolicyOverrides(ordering=Ordering.NONE))
        await w.publish("e0")
        await trio.sleep(10)
        await w.publish("e1")
    sender = WorldSender()
    async with world(tmp_path, sender=sender, machine=machine, reads=SetsTheClock()):
        await trio.sleep(200)
    assert sender.times() == [90, 90]


@pytest.mark.parametrize("seconds", LONG_STEPS)
async def test_a_clock_that_is_set_lets_nothing_pass_above_the_rate(
    tmp_path: Path, autojump_clock: MockClock, seconds: float
) -> None:
    """A bucket is neither filled nor emptied by a wall clock that is set again and again."""
    sender, machine = WorldSender(), SimulatedClock()
    overrides = PolicyOverrides(rate_limit=RateLimit(per_second=1, burst=5), ordering=Ordering.NONE, concurrency=5)
    async with world(tmp_path, sender=sender, machine=machine) as w:
        await w.endpoint(overrides=overrides)
        for number in range(30):
            await w.publish(f"e{number}")
        for number in range(15):
            await trio.sleep(1.7)
            machine.jump(seconds if number % 3 else -seconds)
        await trio.sleep(10)
        times = sender.times()
        assert len(times) == 30
        assert all(later - earlier >= 0.999 for earlier, later in pairwise(times))
        assert times[-1] < 31


@pytest.mark.parametrize("seconds", [600.0, DAY, YEAR])
async def test_a_clock_that_is_set_ages_nothing(tmp_path: Path, autojump_clock: MockClock, seconds: float) -> None:
    """A held delivery doesn't expire because the clock is set forward, but once its age has really passed."""
    sender, machine = WorldSender(), SimulatedClock()
    async with world(tmp_path, sender=sender, machine=machine) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(retry=RetryOverrides(max_age_seconds=1000)))
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=False))
        await w.publish("kept")
        await trio.sleep(500)
        machine.jump(seconds)
        await trio.sleep(400)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await trio.sleep(1)
        assert sender.events() == ["kept"]
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=False))
        await w.publish("held")
        await trio.sleep(1100)
        held = (await w.deliveries(endpoint))[-1]
        assert (held.status, held.error) == (DeliveryStatus.FAILED, DeliveryError.EXPIRED)


async def test_a_webhook_is_not_disabled_by_a_clock_that_is_set(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The 120 hours of failure are measured by the time that has really passed."""
    machine = SimulatedClock()
    overrides = PolicyOverrides(retry=RetryOverrides(delays=(10.0,)), breaker_threshold=1000)
    async with world(tmp_path, sender=failing(1000), machine=machine) as w:
        endpoint = await w.endpoint(overrides=overrides)
        await w.publish("e0")
        await trio.sleep(200)
        machine.jump(YEAR)
        await trio.sleep(200)
        assert is_active(w, endpoint)


@pytest.mark.parametrize("is_asleep", [False, True])
async def test_a_webhook_is_not_disabled_by_a_rest(
    tmp_path: Path, autojump_clock: MockClock, *, is_asleep: bool
) -> None:
    """A year in which nothing was tried, by a clock set forward or a machine asleep, isn't a year of failure."""
    machine = SimulatedClock()
    retry = RetryOverrides(delays=(*[10.0] * 15, 3600.0), max_age_seconds=30 * DAY)
    overrides = PolicyOverrides(retry=retry, breaker_threshold=1000)
    async with world(tmp_path, sender=failing(1000), machine=machine) as w:
        endpoint = await w.endpoint(overrides=overrides)
        await w.publish("e0")
        await trio.sleep(200)
        if is_asleep:
            machine.suspend(YEAR)
            await trio.sleep(LONGEST_WAIT_SECONDS)
    if not is_asleep:
        machine.jump(YEAR)
    async with world(tmp_path, sender=failing(1000), machine=machine) as w:
        await w.publish("e1")
        await trio.sleep(200)
        state = await w.journal.transactions.read(endpoints.state, endpoint.pk)
        assert state.failures_since_success > 2 * FAILURES_TO_DISABLE
        assert is_active(w, endpoint)
        await trio.sleep(4 * DAY)
        assert is_active(w, endpoint)
        await trio.sleep(DAY)  # with the attempts before the rest, its five days are over
        assert not is_active(w, endpoint)


@pytest.mark.parametrize("seconds", LONG_STEPS)
async def test_two_secrets_sign_for_the_whole_overlap(
    tmp_path: Path, autojump_clock: MockClock, seconds: float
) -> None:
    """A previous secret signs exactly for the overlap."""
    sender, machine = WorldSender(), SimulatedClock()
    async with world(tmp_path, sender=sender, machine=machine) as w:
        endpoint = await w.endpoint()
        await w.router.rotate_secret(endpoint.id, Secret(generate_secret()), 3600)
        await trio.sleep(10)
        machine.jump(seconds)
        await w.publish("during")
        await trio.sleep(3000)
        await w.publish("still")
        await trio.sleep(1000)
        await w.publish("after")
        await trio.sleep(10)
        assert [len(sent.headers["webhook-signature"].split()) for sent in sender.sent] == [2, 2, 1]


@pytest.mark.parametrize("seconds", [3600.0, YEAR])
async def test_what_falls_due_while_a_machine_sleeps_is_sent_within_a_minute(
    tmp_path: Path, autojump_clock: MockClock, seconds: float
) -> None:
    """Time while the machine is suspended counts: what is due afterwards is sent at once, within the rate limit."""
    sender, machine = failing(4), SimulatedClock()
    async with world(tmp_path, sender=sender, machine=machine) as w:
        await w.endpoint(overrides=PolicyOverrides(retry=RetryOverrides(max_age_seconds=2_592_000)))
        await w.publish("e0")
        await trio.sleep(160)  # the next one is due at 455
        machine.suspend(seconds)
        await trio.sleep(LONGEST_WAIT_SECONDS)
        if seconds < 2_592_000:
            assert sender.times()[:4] == [0, 5, 35, 155]
            assert 160 <= sender.times()[4] <= 160 + LONGEST_WAIT_SECONDS
        else:
            assert sender.times() == [0, 5, 35, 155]  # too old by then


@pytest.mark.parametrize("seconds", LONG_STEPS)
@pytest.mark.parametrize("ordering", list(Ordering))
async def test_a_clock_that_is_set_while_no_server_runs(
    tmp_path: Path, autojump_clock: MockClock, seconds: float, ordering: Ordering
) -> None:
    """After a start nothing waits longer than the longest back-off and nothing is lost, whatever the clock says."""
    sender, machine = failing(5), SimulatedClock()
    longest_age = 2_592_000
    overrides = PolicyOverrides(ordering=ordering, retry=RetryOverrides(max_age_seconds=longest_age))
    async with world(tmp_path, sender=sender, machine=machine) as w:
        endpoint = await w.endpoint(overrides=overrides)
        await w.publish("e0")
        await trio.sleep(500)  # the breaker is open until 1055
    machine.jump(seconds)
    again = failing(5)
    async with world(tmp_path, sender=again, machine=machine) as w:
        await trio.sleep(900 + LONGEST_WAIT_SECONDS)
        if seconds < longest_age:
            assert again.events() == ["e0"]
            assert await statuses(w, endpoint) == {DeliveryStatus.SUCCEEDED}
        else:  # as after a year of rest
            [row] = await w.deliveries(endpoint)
            assert row.error is DeliveryError.EXPIRED


async def test_a_pause_is_kept_over_a_start_with_a_clock_set_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A Retry-After is waited for in full, though the back-off of the delivery is shorter."""
    slow = Outcome(duration_seconds=0, status=429, headers=(("retry-after", "40000"),))
    sender, machine = WorldSender(script=lambda _: slow), SimulatedClock()
    async with world(tmp_path, sender=sender, machine=machine) as w:
        await w.endpoint()
        await w.publish("e0")
        await trio.sleep(100)
    machine.jump(-YEAR)
    again = WorldSender()
    async with world(tmp_path, sender=again, machine=machine) as w:
        await trio.sleep(41_000)
        assert again.times() == [pytest.approx(40_000, abs=0.1)]


async def test_what_comes_in_while_a_look_at_the_journal_waits_keeps_its_age(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Times of deliveries that are queued while readers are busy for seconds aren't taken for times too far ahead."""
    reads = HeldRunner()
    async with world(tmp_path, reads=reads) as w:
        endpoint = await w.endpoint(is_active=False)
        reads.hold()
        await w.publish("e0")
        await trio.sleep(5)
        await w.publish("e1")
        reads.free()
        await trio.sleep(5)
        ages = [row.expires_at - row.created_at for row in await w.deliveries(endpoint)]
        assert ages == [w.config.delivery.max_age_seconds] * 2


async def test_retention_waits_a_day_before_it_believes_a_clock_set_forth(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A clock a year ahead has retention delete nothing until it has been so for a day; pending deliveries stay."""
    machine = SimulatedClock()
    async with world(tmp_path, machine=machine) as w, trio.open_nursery() as nursery:
        endpoint = await w.endpoint(overrides=PolicyOverrides(retry=RetryOverrides(max_age_seconds=2_592_000)))
        await w.publish("ended")
        await trio.sleep(10)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=False))
        await w.publish("pending")
        nursery.start_soon(w.journal.retention.run, 30, w.clock.trusted)
        machine.jump(YEAR)
        await trio.sleep(DOUBT_SECONDS - 3600)
        assert len(await w.deliveries(endpoint)) == 2
        machine.jump(-YEAR)
        await trio.sleep(DAY)
        assert len(await w.deliveries(endpoint)) == 2
        machine.jump(YEAR)
        await trio.sleep(DOUBT_SECONDS + 7200)
        [row] = await w.deliveries(endpoint)
        assert (row.event_id, row.status) == ("pending", DeliveryStatus.PENDING)
        nursery.cancel_scope.cancel()


async def test_a_timeline_passes_small_steps_over_and_follows_large_ones(autojump_clock: MockClock) -> None:
    """A leap second is ignored; a step is followed, and reported before the new time is returned."""
    machine = SimulatedClock()
    timeline, heard = Timeline(machine), list[float]()
    timeline.stepped = heard.append
    began_at = timeline.now()
    machine.jump(-1)
    await trio.sleep(10)
    assert timeline.now() == began_at + 10
    machine.jump(-YEAR)
    assert timeline.now() == machine.now() == began_at + 9 - YEAR
    assert heard == [-YEAR - 1]
    machine.jump(STEP_SECONDS)
    machine.suspend(100)
    assert timeline.now() == machine.now()
    assert heard == [-YEAR - 1, STEP_SECONDS]


async def test_a_steady_clock_that_is_not_steady_holds_nothing_up(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Both clocks set back, as a copied virtual machine may have them, move no retry either."""
    sender, machine = failing(3), SimulatedClock()
    async with world(tmp_path, sender=sender, machine=machine) as w:
        await w.endpoint()
        await w.publish("e0")
        await trio.sleep(20)
        machine.suspend(-YEAR)
        await trio.sleep(1000)
        late = [at - due for at, due in zip(sender.times(), SCHEDULE[:4], strict=True)]
        assert all(0 <= seconds <= LONGEST_WAIT_SECONDS for seconds in late)


async def test_events_that_come_in_as_the_clock_is_set_are_sent_at_once(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Deliveries submitted before and after a step, in one batch, are due now by both clocks."""
    sender, machine = WorldSender(), SimulatedClock()
    config = steady()
    async with world(tmp_path, sender=sender, machine=machine, config=config) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=Ordering.NONE))
        for seconds in STEPS:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(w.publish, f"before{int(seconds)}")
                await trio.lowlevel.checkpoint()
                machine.jump(seconds)
                nursery.start_soon(w.publish, f"after{int(seconds)}")
            await trio.sleep(1)
        assert len(sender.sent) == 2 * len(STEPS)
        assert await statuses(w, endpoint) == {DeliveryStatus.SUCCEEDED}


async def test_what_a_stop_cuts_off_after_a_step_is_sent_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A request in flight while the clock is set back, then interrupted, is due when the server starts again."""
    machine = SimulatedClock()
    async with world(tmp_path, sender=WorldSender(seconds=10.0), machine=machine) as w:
        await w.endpoint()
        await w.publish("e0")
        await trio.sleep(5)
        machine.jump(-YEAR)
        assert w.clock.now() == machine.now()
    again = WorldSender()
    async with world(tmp_path, sender=again, machine=machine):
        await trio.sleep(1)
        assert again.events() == ["e0"]

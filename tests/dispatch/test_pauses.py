"""After a pause, as after an open breaker: one request, and after its good answer the ramp. Virtual time."""

from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.long import long
from tests.simulation.model import YEAR, SimulatedClock
from tests.world import OK, Answer, World, WorldSender, world
from webhookd.base.models import DeliveryStatus, Endpoint, Ordering, Outcome, PolicyOverrides, RateLimit, RetryOverrides
from webhookd.journal import EndpointChanges
from webhookd.journal.queries import endpoints

CONCURRENCY = 40
QUEUED = 160
RAMP_SECONDS = 10.0
ANSWER_SECONDS = 0.2
BUSY_SECONDS = 11.0
DELAYS = (1.0,) * 7 + (30.0,)  # its last step, if each of those that leave together made a pause of its own
SLOW_DOWN = Outcome(duration_seconds=ANSWER_SECONDS, status=429, headers=(("retry-after", "2"),))


def busy(until: float = BUSY_SECONDS, answer: Answer = SLOW_DOWN) -> WorldSender:
    """Return a sender that gives this answer until then, by default a 429, and 200 afterwards."""
    return WorldSender(script=lambda sent: answer if sent.at < until else OK, seconds=ANSWER_SECONDS)


async def flooded(
    w: World, *, ordering: Ordering = Ordering.NONE, limit: RateLimit | None = None, is_active: bool = True
) -> Endpoint:
    """Return an endpoint with a long queue and short delays of its own."""
    overrides = PolicyOverrides(
        ordering=ordering, concurrency=CONCURRENCY, rate_limit=limit, retry=RetryOverrides(delays=DELAYS)
    )
    endpoint = await w.endpoint(overrides=overrides, is_active=is_active)
    for number in range(QUEUED):
        await w.publish(f"e{number}", key=f"k{number % 100}")
    return endpoint


def in_flight(sender: WorldSender, at: float) -> int:
    """Return how many requests were in flight when one was sent, itself included."""
    return sum(at - ANSWER_SECONDS + 0.002 < sent.at <= at for sent in sender.sent)


def check_ramp(sender: WorldSender, since: float) -> None:
    """Check that from `since` on one request was sent, and after its answer no more than the ramp allows."""
    times = [at for at in sender.times() if at >= since]
    recovered_at = times[0] + ANSWER_SECONDS
    assert times[1] >= recovered_at - 0.002
    for at in times[1:]:
        most = 1 + (CONCURRENCY - 1) * (at - recovered_at) / RAMP_SECONDS
        assert in_flight(sender, at) <= min(most, CONCURRENCY) + 0.01


@pytest.mark.parametrize("ordering", [Ordering.NONE, Ordering.KEY])
async def test_one_request_tries_it_after_each_pause_and_then_the_ramp(
    autojump_clock: MockClock, ordering: Ordering
) -> None:
    """Forty answers of 429 make one pause; after each pause one request is sent; after a success comes the ramp."""
    sender = busy()
    async with world(None, sender=sender) as w:
        endpoint = await flooded(w, ordering=ordering)
        await trio.sleep(100)
        first = [at for at in sender.times() if at < 1]
        asked = [at for at in sender.times() if 1 <= at < BUSY_SECONDS]
        assert len(first) == CONCURRENCY
        assert asked[0] - max(first) == pytest.approx(2 + ANSWER_SECONDS, abs=0.01)
        gaps = [later - earlier for earlier, later in pairwise(asked)]
        assert gaps == pytest.approx([2 + ANSWER_SECONDS] * 3, abs=0.01)
        check_ramp(sender, BUSY_SECONDS)
        assert {row.status for row in await w.deliveries(endpoint)} == {DeliveryStatus.SUCCEEDED}
        assert sender.most_in_flight[endpoint.url] == CONCURRENCY


async def test_with_a_rate_limit_the_bucket_starts_empty(autojump_clock: MockClock) -> None:
    """After a pause one request is sent, and then at most the rate and one more in any second."""
    sender = busy()
    async with world(None, sender=sender) as w:
        await flooded(w, limit=RateLimit(per_second=10, burst=30))
        await trio.sleep(300)
        times = [at for at in sender.times() if at >= BUSY_SECONDS]
        assert times[1] - times[0] >= ANSWER_SECONDS + 0.1 - 0.002
        assert all(sum(at <= other < at + 1 for other in times) <= 11 for at in times)
        assert len(set(sender.events())) == QUEUED


async def test_a_success_in_flight_does_not_end_a_pause(autojump_clock: MockClock) -> None:
    """One of forty requests in flight is answered with a pause of a minute; successes of the others don't end it."""
    wait = Outcome(duration_seconds=0.0, status=429, headers=(("retry-after", "60"),))
    sender = WorldSender(
        script=lambda sent: wait if (sent.event, sent.number) == ("e0", 1) else OK,
        seconds_of=lambda sent: 0.0 if sent.event == "e0" else ANSWER_SECONDS,
    )
    async with world(None, sender=sender) as w:
        await flooded(w)
        await trio.sleep(200)
        assert [at for at in sender.times() if 0.1 < at < 60] == []
        check_ramp(sender, 60)


async def test_a_fault_after_a_pause_lets_no_more_through(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A receiver that fails after a pause gets one request at a time until the breaker opens."""
    sender = WorldSender(script=lambda sent: SLOW_DOWN if sent.at < 1 else 500, seconds=ANSWER_SECONDS)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await flooded(w)
        await trio.sleep(20)
        later = [at for at in sender.times() if at > 1]
        assert len(later) >= 5
        assert max(in_flight(sender, at) for at in later) == 1
        assert (await w.journal.transactions.read(endpoints.state, endpoint.pk)).consecutive_faults >= 5


async def test_a_restart_during_a_pause(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The next server waits for the rest of the pause, and then sends one."""
    async with world(tmp_path, sender=busy()) as w:
        await flooded(w)
        await trio.sleep(1)
    sender = WorldSender(seconds=ANSWER_SECONDS)
    async with world(tmp_path, sender=sender) as w:
        await trio.sleep(60)
        assert sender.times()[0] >= 1
        check_ramp(sender, 0)


@pytest.mark.parametrize("was_paused", [True, False])
async def test_an_endpoint_that_is_enabled_again(autojump_clock: MockClock, *, was_paused: bool) -> None:
    """A webhook that is enabled is tried at once with one request, whether it was paused or only disabled."""
    sender = busy(until=1.0) if was_paused else WorldSender(seconds=ANSWER_SECONDS)
    async with world(None, sender=sender) as w:
        endpoint = await flooded(w, is_active=was_paused)
        await trio.sleep(1.5)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=False))
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await trio.sleep(60)
        assert next(at for at in sender.times() if at >= 1) == 1.5
        check_ramp(sender, 1.5)


async def test_a_limited_endpoint_that_is_enabled_again(autojump_clock: MockClock) -> None:
    """Enabled with tokens for a burst, it gets one request at once, and then its rate from an empty bucket."""
    sender = WorldSender(seconds=ANSWER_SECONDS)
    async with world(None, sender=sender) as w:
        endpoint = await flooded(w, limit=RateLimit(per_second=5, burst=30), is_active=False)
        await trio.sleep(10)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await trio.sleep(5)
        times = sender.times()
        assert times[0] == 10
        assert times[1] == pytest.approx(10 + ANSWER_SECONDS + 0.2, abs=0.01)
        assert all(sum(at <= other < at + 1 for other in times) <= 6 for at in times)


@pytest.mark.parametrize("seconds", long([-86_400.0, -1.0, 3600.0, 86_400.0], lambda seconds: abs(seconds) < 86_400))
@pytest.mark.parametrize("at", [1.0, 14.0])
async def test_a_clock_that_is_set_moves_pause_and_ramp(autojump_clock: MockClock, seconds: float, at: float) -> None:
    """A wall clock that is set during the pause or the ramp changes neither."""
    rest = Outcome(duration_seconds=0.0, status=429, headers=(("retry-after", "11"),))
    sender, machine = busy(until=1.0, answer=rest), SimulatedClock()
    async with world(None, sender=sender, machine=machine) as w:
        await flooded(w)
        await trio.sleep(at - trio.current_time() + sender.began_at)
        machine.jump(seconds)
        await trio.sleep(60)
        assert next(sent for sent in sender.times() if sent > 0.1) == pytest.approx(11 + ANSWER_SECONDS, abs=0.01)
        check_ramp(sender, 1)


async def test_a_clock_set_back_makes_no_pause_of_being_enabled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Enabled with an empty queue, then restarted with the clock a year back: the next event is sent at once."""
    machine = SimulatedClock()
    async with world(tmp_path, machine=machine) as w:
        endpoint = await w.endpoint(is_active=False)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
    machine.jump(-YEAR)
    sender = WorldSender()
    async with world(tmp_path, sender=sender, machine=machine) as w:
        await w.publish("e0")
        await trio.sleep(1)
        assert sender.events() == ["e0"]

"""Outages, throttling, refused messages and flapping over days, in exact virtual time, with all rules at once."""

import random
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.long import long
from tests.world import OK, Answer, Script, World, WorldSender, world
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
from webhookd.journal import EndpointChanges

DOWN = "https://down.example/"
WELL = "https://well.example/"


def open_at_times(otherwise: Outcome) -> Script:
    """Return a script that answers 200 in the last five of every twenty seconds."""
    return lambda sent: OK if int(sent.at) % 20 >= 15 else otherwise


def first_attempts(sender: WorldSender, url: str) -> list[str]:
    return list(dict.fromkeys(sender.events(url)))


def gaps(times: list[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


async def check_story(w: World, sender: WorldSender, endpoint: Endpoint) -> None:
    """Check that the journal agrees with the receiver: as many attempts as requests, each at its time."""
    sent_at: dict[str, list[float]] = {}
    for sent in sender.sent:
        if sent.url == endpoint.url:
            sent_at.setdefault(sent.headers["x-webhook-delivery"], []).append(sent.at)
    for row in await w.deliveries(endpoint):
        attempts = (await w.detail(row.id)).attempts
        times = [round(attempt.started_at - VIRTUAL_START, 3) for attempt in attempts]
        assert times == pytest.approx(sent_at.get(row.id, []), abs=0.002)
        assert row.attempts == len(attempts)


VIRTUAL_START = 1_735_689_600.0


async def test_an_hours_outage_under_traffic(tmp_path: Path, autojump_clock: MockClock) -> None:
    """No overtaking, no refusal, no effect on another endpoint, and the backlog drains in order."""
    sender = WorldSender(script=lambda sent: DeliveryError.CONNECT if sent.url == DOWN and 60 <= sent.at < 3660 else OK)
    async with world(tmp_path, sender=sender) as w:
        down, well = await w.endpoint(DOWN), await w.endpoint(WELL)
        for number in range(140):
            await w.publish(f"e{number}")
            await trio.sleep(30)
        await trio.sleep(1800)
        assert first_attempts(sender, DOWN) == [f"e{number}" for number in range(140)]
        assert sender.times(WELL) == [30.0 * number for number in range(140)]
        rows = await w.deliveries(down)
        assert {(row.status, row.refusals) for row in rows} == {(DeliveryStatus.SUCCEEDED, 0)}
        during = [sent for sent in sender.sent if sent.url == DOWN and 60 <= sent.at < 3660]
        assert {sent.event for sent in during} == {"e2"}  # the head alone is tried
        assert len(during) <= 9
        await check_story(w, sender, down)
        await check_story(w, sender, well)


async def test_a_three_day_outage_ends_by_age(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The deliveries of an endpoint that never recovers expire one after the other, each on record."""
    sender = WorldSender(script=lambda _: 500)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(3):
            await w.publish(f"e{number}")
            await trio.sleep(3600)
        await trio.sleep(72 * 3600)
        rows = await w.deliveries(endpoint)
        assert {(row.status, row.error) for row in rows} == {(DeliveryStatus.FAILED, DeliveryError.EXPIRED)}
        assert [row.completed_at - row.created_at for row in rows if row.completed_at] == [259_200] * 3
        assert {row.refusals for row in rows} == {0}


async def test_poison_in_a_strict_line(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A message that is always refused is parked; later ones are sent, and it is retried until it fails."""
    sender = WorldSender(script=lambda sent: 422 if sent.event in {"e3", "e7"} else OK)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(12):
            await w.publish(f"e{number}")
        await trio.sleep(100)
        assert first_attempts(sender, endpoint.url) == [f"e{number}" for number in range(12)]
        [health] = await w.router.health([endpoint])
        assert (health.queued, health.parked) == (0, 2)
        await trio.sleep(86_400)
        status = {row.event_id: (row.status, row.refusals) for row in await w.deliveries(endpoint)}
        assert status["e3"] == status["e7"] == (DeliveryStatus.FAILED, 10)
        assert {value for event, value in status.items() if event not in {"e3", "e7"}} == {
            (DeliveryStatus.SUCCEEDED, 0)
        }
        await check_story(w, sender, endpoint)


async def test_a_storm_of_429(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A throttling receiver is tried no earlier than it asked, with any ordering; that is neither refusal nor fault."""
    often = RetryOverrides(delays=(2.0,))
    for ordering in Ordering:
        busy = Outcome(duration_seconds=0.0, status=429, headers=(("retry-after", "7"),))
        sender = WorldSender(script=open_at_times(busy))
        async with world(tmp_path / ordering.value, sender=sender) as w:
            endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=ordering, concurrency=4, retry=often))
            for number in range(30):
                await w.publish(f"e{number}")
            await trio.sleep(7200)
            rows = await w.deliveries(endpoint)
            assert {(row.status, row.refusals) for row in rows} == {(DeliveryStatus.SUCCEEDED, 0)}
            refused_at = sorted({sent.at for sent in sender.sent if int(sent.at) % 20 < 15})
            assert all(later - earlier >= 7 for earlier, later in pairwise(refused_at))
            [health] = await w.router.health([endpoint])
            assert health.consecutive_failures == 0
            if ordering is Ordering.STRICT:
                assert first_attempts(sender, endpoint.url) == [f"e{number}" for number in range(30)]


@pytest.mark.parametrize(
    ("ordering", "count"), long([(each, count) for count in (70, 300) for each in Ordering], lambda row: row[1] > 70)
)
async def test_flapping_receivers_lose_nothing(
    tmp_path: Path, autojump_clock: MockClock, ordering: Ordering, count: int
) -> None:
    """Receivers that fail at random in every way still get everything once, in order."""
    chance = random.Random(f"flapping {ordering}")  # noqa: S311 - a test's dice
    answers: list[Answer] = [OK, OK, OK, 500, DeliveryError.TIMEOUT, DeliveryError.CONNECT, 302, 429, 503, 404]
    sender = WorldSender(script=lambda _: chance.choice(answers), seconds=0.05)
    overrides = PolicyOverrides(
        ordering=ordering, concurrency=4, retry=RetryOverrides(delays=(1.0, 5.0)), breaker_threshold=3
    )
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint(overrides=overrides)
        for number in range(count):
            await w.publish(f"e{number}", key=None if number % 5 == 0 else f"k{number % 7}")
            await trio.sleep(0.2)
        await trio.sleep(20_000)
        rows = await w.deliveries(endpoint)
        assert Counter(row.status for row in rows) == {DeliveryStatus.SUCCEEDED: count}
        assert {row.refusals for row in rows} == {0}
        order = first_attempts(sender, endpoint.url)
        if ordering is Ordering.STRICT:
            assert order == [f"e{number}" for number in range(count)]
        if ordering is Ordering.KEY:
            for key in range(7):
                own = [int(event[1:]) for event in order if int(event[1:]) % 7 == key and int(event[1:]) % 5]
                assert own == sorted(own)
        assert sender.most_in_flight[endpoint.url] <= (1 if ordering is Ordering.STRICT else 4)
        await check_story(w, sender, endpoint)


async def test_after_an_outage_the_rate_holds(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After an outage with 400 queued and a limit of 20/s, any second has at most 21 requests, in order."""
    sender = WorldSender(script=lambda sent: 500 if sent.url == DOWN and sent.at < 600 else OK)
    async with world(tmp_path, sender=sender) as w:
        limit = PolicyOverrides(rate_limit=RateLimit(per_second=20, burst=20))
        await w.endpoint(DOWN, overrides=limit)
        await w.endpoint(WELL)
        for number in range(400):
            await w.publish(f"e{number}")
        await trio.sleep(3600)
        times = [at for at in sender.times(DOWN) if at >= 600]
        assert len(times) == 400
        for index, at in enumerate(times):
            assert sum(1 for other in times[index : index + 40] if other < at + 1) <= 21
        assert times[-1] - times[0] < 24
        assert first_attempts(sender, DOWN) == [f"e{number}" for number in range(400)]
        assert sender.times(WELL)[-1] == 0


async def test_a_backlog_saves_up_no_burst(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While a backlog drains, a slow request is followed by the usual rate; once all is sent, a burst may leave."""
    sender = WorldSender(
        script=lambda sent: 500 if sent.at < 600 else OK, seconds_of=lambda sent: 3.0 if sent.event == "e50" else 0.0
    )
    async with world(tmp_path, sender=sender) as w:
        await w.endpoint(overrides=PolicyOverrides(rate_limit=RateLimit(per_second=10, burst=20)))
        for number in range(100):
            await w.publish(f"e{number}")
        await trio.sleep(3600)
        drained = gaps([at for at in sender.times() if at >= 600])
        assert drained == pytest.approx([0.1] * 50 + [3.0] + [0.1] * 48, abs=0.002)
        sender.sent.clear()
        for number in range(30):
            await w.publish(f"later{number}")
        await trio.sleep(60)
        assert gaps(sender.times()) == pytest.approx([0.0] * 19 + [0.1] * 10, abs=0.002)


async def test_after_an_outage_concurrency_ramps(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Without a rate limit an endpoint goes from 1 in flight to its concurrency in the ten seconds after an outage."""
    sender = WorldSender(script=lambda sent: DeliveryError.CONNECT if sent.at < 300 else OK, seconds=0.1)
    async with world(tmp_path, sender=sender) as w:
        overrides = PolicyOverrides(ordering=Ordering.NONE, concurrency=11, retry=RetryOverrides(delays=(10.0,)))
        endpoint = await w.endpoint(overrides=overrides)
        for number in range(900):
            await w.publish(f"e{number}")
        await trio.sleep(900)
        times = [at for at in sender.times(endpoint.url) if at >= 300]
        began = times[0] + 0.1
        for second in range(11):
            # In flight for a tenth of a second each: ten times the number in flight leave in a second.
            in_second = sum(began + second <= at < began + second + 1 for at in times)
            assert in_second <= 10 * (second + 2)
        assert sender.most_in_flight[endpoint.url] == 11


async def test_modes_change_under_a_backlog(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Changing the ordering repeatedly while a backlog drains loses nothing and repeats nothing."""
    sender = WorldSender(seconds=0.1)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(300):
            await w.publish(f"e{number}", key=f"k{number % 3}")
        for ordering in (Ordering.NONE, Ordering.KEY, Ordering.STRICT, Ordering.NONE, Ordering.STRICT):
            await trio.sleep(1.03)
            await w.router.update_endpoint(endpoint.id, EndpointChanges(overrides=PolicyOverrides(ordering=ordering)))
        await trio.sleep(60)
        assert Counter(sender.events()) == {f"e{number}": 1 for number in range(300)}


async def test_disable_hold_enable(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A receiver that asks for it is disabled; the events since then are sent in order once it is enabled."""
    please = Outcome(duration_seconds=0.0, status=503, headers=(("webhook-delivery", "disable"),))
    is_open = {"yes": False}
    sender = WorldSender(script=lambda sent: OK if is_open["yes"] or sent.event != "e2" else please)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(10):
            await w.publish(f"e{number}")
            await trio.sleep(5)
        assert sender.events() == ["e0", "e1", "e2"]
        is_open["yes"] = True
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await trio.sleep(5)
        assert sender.events() == ["e0", "e1", "e2", *(f"e{number}" for number in range(2, 10))]

"""Requests in flight during a read of the journal, in exact virtual time: no overtaking, repeating, or endless wait."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeVar

import pytest
import trio
from trio.testing import MockClock

from tests.patience import PATIENCE_SECONDS
from tests.turns import Steps, counting
from tests.world import OK, Answer, HeldRunner, Sent, World, WorldSender, steady, world
from webhookd.base.models import AttemptRecord, DeliveryStatus, Endpoint, Ordering, Outcome, PolicyOverrides, RateLimit
from webhookd.delivery.request import Cancelable, Done, Request
from webhookd.dispatch.flights import ENDED_A_TURN
from webhookd.journal import EndpointChanges, Runner
from webhookd.observe.measures import Measures

T = TypeVar("T")
CROWD = 256
ABORT = Outcome(duration_seconds=1.0, status=400, headers=(("webhook-delivery", "abort"),))


class SlowReads:
    """Reads take `seconds`, as with a busy thread, and see the journal as of their beginning or their end."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.sees_the_end = False

    async def run(self, function: Callable[[], T]) -> T:
        if self.sees_the_end:
            await trio.sleep(self.seconds)
            return function()
        answer = function()
        await trio.sleep(self.seconds)
        return answer


class Paced(WorldSender):
    """Answers after the seconds in `takes`, by event, or after one second."""

    def __init__(self, script: Callable[[Sent], Answer], **takes: float) -> None:
        super().__init__(script=script, seconds_of=lambda sent: self.takes.get(sent.event, 1.0))
        self.takes = takes


@asynccontextmanager
async def slow_world(path: Path, sender: WorldSender) -> AsyncIterator[tuple[World, SlowReads]]:
    reads = SlowReads()
    async with world(path, sender=sender, reads=reads) as w:
        yield w, reads


def two_wide(ordering: Ordering, rate_limit: RateLimit | None = None) -> PolicyOverrides:
    return PolicyOverrides(ordering=ordering, concurrency=2, rate_limit=rate_limit)


async def test_nothing_overtakes_its_key_while_the_window_is_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A refused delivery holds its key, though another one ends while the window is read again."""
    sender = Paced(lambda sent: 400 if (sent.event, sent.number) == ("a1", 1) else OK, b1=1.01)
    async with slow_world(tmp_path, sender) as (w, reads):
        endpoint = await w.endpoint(overrides=two_wide(Ordering.KEY), is_active=False)
        for event, key in (("a1", "a"), ("b1", "b"), ("a2", "a"), ("a3", "a")):
            await w.publish(event, key=key)
        reads.seconds = 0.05
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await trio.sleep(60)
    assert [event for event in sender.events() if event[0] == "a"] == ["a1", "a1", "a2", "a3"]


async def test_nothing_is_sent_twice_while_the_window_is_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A delivery that is sent while the window is read isn't in the new window, so it isn't sent twice."""
    sender = Paced(lambda sent: 500 if (sent.event, sent.number) == ("bad", 1) else OK, b=1.01)
    async with slow_world(tmp_path, sender) as (w, reads):
        endpoint = await w.endpoint(overrides=two_wide(Ordering.NONE))
        for event in ("bad", "b", "c", "d", "e", "f"):
            await w.publish(event)
        reads.seconds = 0.05
        await trio.sleep(60)
        supervisor = w.router.registry.supervisor(endpoint.pk)
        assert supervisor is not None
        assert supervisor.crashes == 0
    assert Counter(sender.events()) == {"bad": 2, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1}


async def test_a_key_goes_on_whose_head_lands_during_a_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A window that was read without a busy key is read again once the key's request has ended."""
    sender = Paced(lambda sent: ABORT if sent.event == "n1" else OK, n1=7.0, a1=2.01)
    async with slow_world(tmp_path, sender) as (w, reads):
        slow = RateLimit(per_second=0.2, burst=1)  # n1 leaves at 5 and a1 at 10: they land at 12.00 and 12.01
        endpoint = await w.endpoint(overrides=two_wide(Ordering.KEY, slow), is_active=False)
        for event, key in (("n1", None), ("a1", "a"), ("a2", "a")):
            await w.publish(event, key=key)
        reads.seconds = 0.05
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await trio.sleep(3600)
        assert [row.status for row in await w.deliveries(endpoint)][1:] == [DeliveryStatus.SUCCEEDED] * 2


async def test_an_endpoint_that_is_well_again_gets_its_concurrency(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Ten seconds after an outage `concurrency` requests are in flight, though the probe hasn't been answered."""
    sender = Paced(lambda sent: 500 if sent.at < 400 else OK)
    async with slow_world(tmp_path, sender) as (w, _):
        await w.endpoint(overrides=PolicyOverrides(ordering=Ordering.NONE, concurrency=8, breaker_threshold=2))
        for number in range(400):
            await w.publish(f"e{number}")
        await trio.sleep(1200)
    well = [at for at in sender.times() if at >= 400]
    assert Counter(int(at - well[0]) for at in well)[15] == 8


@pytest.mark.parametrize("queued", [20, 60])
async def test_keys_that_wait_cost_nothing(tmp_path: Path, queued: int) -> None:
    """Two keys whose first deliveries wait aren't read again and again, and a third key is sent.

    In real time: under a clock that jumps, a busy loop would never end.
    """
    sender = WorldSender(script=lambda sent: 400 if sent.event in {"a0", "b0"} else OK)
    async with slow_world(tmp_path, sender) as (w, _):
        endpoint = await w.endpoint(overrides=two_wide(Ordering.KEY), is_active=False)
        for key in "ab":
            for number in range(queued):
                await w.publish(f"{key}{number}", key=key)
        await w.publish("c0", key="c")
        before = w.journal.windows_read
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        with trio.fail_after(PATIENCE_SECONDS):
            while "c0" not in sender.events():
                await trio.sleep(0.01)
        for _ in range(5000):  # turns of the loop, in each of which a busy one would read
            await trio.lowlevel.checkpoint()
        assert w.journal.windows_read - before < 20


async def test_a_request_in_flight_survives_its_webhook(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A request in flight still ends and is recorded when its webhook is changed and at once deleted."""
    sender = WorldSender(seconds=3.0)
    async with slow_world(tmp_path, sender) as (w, reads):
        endpoint = await w.endpoint(overrides=two_wide(Ordering.NONE))
        await w.publish("x")
        await trio.sleep(1)
        supervisor = w.router.registry.supervisor(endpoint.pk)
        assert supervisor is not None
        reads.seconds, reads.sees_the_end = 0.05, True
        await w.router.update_endpoint(endpoint.id, EndpointChanges(description="new"))
        await trio.sleep(0.01)
        await w.router.delete_endpoint(endpoint.id)
        await trio.sleep(10)
        [row] = await w.deliveries(endpoint)
        assert [attempt.error for attempt in (await w.detail(row.id)).attempts] == [None]
        assert supervisor.crashes == 0


async def test_an_actor_that_starts_while_its_webhook_goes_just_leaves(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """An actor whose webhook has been deleted returns without a crash."""
    async with slow_world(tmp_path, WorldSender()) as (w, reads):
        endpoint = await w.endpoint()
        reads.seconds, reads.sees_the_end = 0.05, True
        await w.publish("x")
        supervisor = w.router.registry.supervisor(endpoint.pk)
        assert supervisor is not None
        await w.router.delete_endpoint(endpoint.id)
        await trio.sleep(5)
        assert supervisor.crashes == 0


@asynccontextmanager
async def reading_a_body(path: Path, sender: WorldSender) -> AsyncIterator[tuple[World, Endpoint]]:
    """Yield a world while its only delivery is in flight, and its body is still being read."""
    async with world(path) as w:
        endpoint = await w.endpoint(url="https://old.example/", is_active=False, headers={"authorization": "old"})
        await w.publish("x")
    # Another start, so that the body has to be read.
    async with slow_world(path, sender) as (w, reads):
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        reads.seconds = 1.0
        lane = w.router.registry.lane(endpoint.pk)
        assert lane is not None
        while not lane.in_flight:
            await trio.sleep(0.1)
        assert not sender.sent
        yield w, endpoint
        assert w.router.registry.slots.taken == 0


async def test_url_and_headers_change_together(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After a change of the URL while a body is read, the delivery goes to the new URL, without the old headers."""
    sender = WorldSender()
    async with reading_a_body(tmp_path, sender) as (w, endpoint):
        await w.router.update_endpoint(endpoint.id, EndpointChanges(url="https://new.example/", headers=()))
        await trio.sleep(30)
    assert [(sent.url, sent.headers.get("authorization")) for sent in sender.sent] == [("https://new.example/", None)]


async def test_no_request_begins_after_a_drain_has_begun(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A delivery whose body is read when a drain begins stays in the queue, and the drain doesn't wait for more."""
    sender = WorldSender()
    async with reading_a_body(tmp_path, sender) as (w, endpoint):
        with trio.fail_after(60):
            await w.router.registry.drain()
        [row] = await w.deliveries(endpoint)
        assert (row.status, row.attempts) == (DeliveryStatus.PENDING, 0)
    assert sender.sent == []


async def test_no_request_begins_after_its_webhook_was_deleted(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A delivery whose body is read when its webhook is deleted is canceled, and the actor leaves."""
    sender = WorldSender()
    async with reading_a_body(tmp_path, sender) as (w, endpoint):
        await w.router.delete_endpoint(endpoint.id)
        await trio.sleep(30)
        [row] = await w.deliveries(endpoint)
        assert (row.status, row.attempts) == (DeliveryStatus.CANCELED, 0)
        assert w.router.registry.actors == 0
    assert sender.sent == []


class Counted(Measures):
    """Notes each attempt whose record has been submitted."""

    def __init__(self, steps: Steps) -> None:
        super().__init__()
        self._steps = steps

    def attempted(self, endpoint: Endpoint, record: AttemptRecord) -> None:
        super().attempted(endpoint, record)
        self._steps.note()


class Cut(WorldSender):
    """Notes each request that is cut off."""

    def __init__(self, steps: Steps, seconds: float) -> None:
        super().__init__(seconds=seconds)
        self._steps = steps

    def start(self, request: Request, done: Done) -> Cancelable:
        started, steps = super().start(request, done), self._steps

        class Noting:
            started_at = started.started_at

            def cancel(self) -> None:
                steps.note()
                started.cancel()

        return Noting()


@asynccontextmanager
async def wide_world(
    path: Path, steps: Steps, seconds: float, writes: Runner | None = None
) -> AsyncIterator[tuple[World, Endpoint]]:
    """Yield a world in which as many requests are in flight as one endpoint can have, each for so many seconds."""
    config, sender = steady(max_in_flight=3 * CROWD), Cut(steps, seconds)
    async with world(path, sender=sender, config=config, writes=writes, measures=Counted(steps)) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=Ordering.NONE, concurrency=CROWD))
        for number in range(CROWD):
            await w.publish(f"e{number}")
        while w.router.registry.slots.taken < CROWD:
            await trio.sleep(0.1)
        yield w, endpoint


async def test_flights_that_a_stop_cuts_off_are_recorded_in_parts(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However many requests of an endpoint are in flight, other tasks get a turn after some are cut off, or settled."""
    with counting() as steps:
        async with wide_world(tmp_path, steps, seconds=10.0):
            assert not steps.counts
    assert sum(steps.counts) == 2 * CROWD
    assert max(steps.counts) <= ENDED_A_TURN


async def test_answers_that_come_during_a_change_are_settled_in_parts(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """However many answers have waited for the end of a change, other tasks get a turn after some of them."""
    writes = HeldRunner()
    with counting() as steps:
        async with wide_world(tmp_path, steps, seconds=2.0, writes=writes) as (w, endpoint):
            async with trio.open_nursery() as nursery:
                writes.hold()
                nursery.start_soon(w.router.update_endpoint, endpoint.id, EndpointChanges(description="new"))
                await trio.sleep(5)
                assert not steps.counts
                writes.free()
            await trio.sleep(1)
            assert w.router.registry.slots.taken == 0
    assert sum(steps.counts) == CROWD
    assert max(steps.counts) <= ENDED_A_TURN

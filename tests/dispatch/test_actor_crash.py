"""An actor crashes while its records wait for a slow disk: what was delivered isn't sent again."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from trio.testing import MockClock

from tests.samples import queued_delivery
from tests.world import OK, Sent, WorldSender, world
from webhookd.base.models import AttemptRecord, DeliveryStatus, Endpoint, Ordering, Outcome, PolicyOverrides
from webhookd.dispatch.flights import Flights, Shared, _Flight
from webhookd.dispatch.slots import Slots
from webhookd.journal.reader import read_messages
from webhookd.observe.measures import Measures

T = TypeVar("T")

DISK_SECONDS = 3.0


class SlowDisk:
    """Once it `is_slow`, each write takes far longer than a supervisor waits before a restart."""

    def __init__(self) -> None:
        self.is_slow = False

    async def run(self, function: Callable[[], T]) -> T:
        await trio.sleep(DISK_SECONDS if self.is_slow else 0)
        return function()


class CrashesOnce(Measures):
    """Has a bug that shows once, in counting an attempt whose record has just been submitted."""

    def __init__(self) -> None:
        super().__init__()
        self.crashes = 0

    def attempted(self, endpoint: Endpoint, record: AttemptRecord) -> None:
        super().attempted(endpoint, record)
        if not self.crashes:
            self.crashes += 1
            raise ZeroDivisionError


async def test_after_a_crash_what_was_submitted_is_on_disk_before_the_queue_is_read(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A crash between submitting a record and its commit sends nothing twice and nothing out of order."""
    disk = SlowDisk()
    sender = WorldSender()
    async with world(tmp_path, sender=sender, writes=disk, measures=CrashesOnce()) as w:
        endpoint = await w.endpoint()
        disk.is_slow = True
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(w.publish, f"e{number}")
                await trio.sleep(0.001)
        await trio.sleep(60)
        supervisor = w.router.registry.supervisor(endpoint.pk)
        assert supervisor is not None
        assert supervisor.crashes == 1
        assert sender.events() == ["e0", "e1", "e2"]
        rows = await w.deliveries(endpoint)
        assert [(row.status, row.attempts) for row in rows] == [(DeliveryStatus.SUCCEEDED, 1)] * 3


class SlowFirstBody:
    """The first read of bodies takes a minute, everything else no time."""

    def __init__(self) -> None:
        self.has_begun = False

    async def run(self, function: Callable[[], T]) -> T:
        is_of_bodies = isinstance(function, partial) and getattr(function.args[0], "func", None) is read_messages
        answer = function()
        is_first = is_of_bodies and not self.has_begun
        self.has_begun = self.has_begun or is_of_bodies
        await trio.sleep(60.0 if is_first else 0.0)
        return answer


async def test_a_body_that_was_read_for_a_flight_before_a_crash_is_for_no_later_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A delivery that is taken again after a crash is sent once, though the body for its first flight comes, too."""
    async with world(tmp_path, sender=WorldSender(seconds=10.0)) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=Ordering.NONE, concurrency=2))
        await w.publish("old")  # which is cut off
    reads = SlowFirstBody()
    # The request is under way when the first read of its body ends.
    sender = WorldSender(seconds_of=lambda sent: 0.0 if sent.event == "new" else 10.0)
    async with world(tmp_path, sender=sender, reads=reads, measures=CrashesOnce()) as w:
        await trio.sleep(59.0)
        assert reads.has_begun
        await w.publish("new")
        await trio.sleep(60.0)
        assert Counter(sender.events()) == {"new": 1, "old": 1}
        supervisor = w.router.registry.supervisor(endpoint.pk)
        assert supervisor is not None
        assert supervisor.crashes == 1
        assert w.router.registry.slots.taken == 0
        rows = await w.deliveries(endpoint)
        assert [row.status for row in rows] == [DeliveryStatus.SUCCEEDED] * 2


async def test_a_crash_beside_a_flight_that_waits_for_its_record_doesnt_repeat_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Without order, a crash of one task ends another that waits for its record; its delivery isn't sent again.

    The one that crashed before it had anything to record is sent again, for nobody knows what became of it.
    """
    crashed: list[str] = []

    def answer(sent: Sent) -> int:
        if sent.event == "bad" and not crashed:
            crashed.append(sent.event)
            raise ZeroDivisionError
        return OK

    disk = SlowDisk()
    sender = WorldSender(script=answer, seconds_of=lambda sent: 1.0 if sent.event == "bad" else 0.0)
    async with world(tmp_path, sender=sender, writes=disk) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=Ordering.NONE, concurrency=2))
        disk.is_slow = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(w.publish, "good")
            nursery.start_soon(w.publish, "bad")
        await trio.sleep(60)
        assert crashed == ["bad"]
        assert sorted(sender.events()) == ["bad", "bad", "good"]
        rows = await w.deliveries(endpoint)
        assert [(row.status, row.attempts) for row in rows] == [(DeliveryStatus.SUCCEEDED, 1)] * 2


class BrokenClock:
    def now(self) -> float:
        raise ZeroDivisionError


@asynccontextmanager
async def broken_flights() -> AsyncIterator[tuple[Flights, Shared, list[Exception]]]:
    """Yield flights whose every step raises, what they share, and what they have crashed with."""
    crashed: list[Exception] = []
    async with world(None) as w:
        lane = w.router.registry.lane((await w.endpoint()).pk)
        assert lane is not None
        nothing: Any = None
        shared = Shared(w.journal, w.sender, nothing, BrokenClock(), w.ids, Slots(2), lambda: 0.5)
        yield Flights(lane, trio.Lock(), shared, heed=lambda _: None, crash=crashed.append), shared, crashed


async def test_a_slot_that_was_waited_for_is_given_back_after_a_bug(autojump_clock: MockClock) -> None:
    """An exception between getting a slot and taking a delivery doesn't cost the process a slot."""
    async with broken_flights() as (flights, shared, _):
        with pytest.raises(ZeroDivisionError):
            await flights.go_on_with_slot()
        assert shared.slots.taken == 0


async def test_no_bug_in_a_callback_reaches_those_who_call_it(autojump_clock: MockClock) -> None:
    """What is called by the sender, by the writer and by the router passes on its exceptions to the actor alone."""
    async with broken_flights() as (flights, _, crashed):
        flights.proceed()
        flights._landed(queued_delivery(), None)
        flights._answered(_Flight(queued_delivery()), Outcome(duration_seconds=0.0, status=200))
    assert [type(error) for error in crashed] == [ZeroDivisionError, KeyError, KeyError]

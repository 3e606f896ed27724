"""A lane keeps its promises in random histories, and the machine that drives them finds each planted fault."""

import dataclasses
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.dispatch.lane_machine import CREDENTIALS, LaneMachine, policy
from tests.long import long
from tests.samples import AT, endpoint, queued_delivery
from webhookd.base.models import Ordering, Outcome, QueuedDelivery
from webhookd.delivery.request import Receiver
from webhookd.dispatch.lane import Landing, Lane, Move, Send
from webhookd.journal import Window, WindowRequest

TestLane = LaneMachine.TestCase
TestLane.settings = settings(stateful_step_count=60, suppress_health_check=list(HealthCheck))


class HoldsNothing(Lane):
    """Sends a delivery that is being changed by hand."""

    def hold(self, delivery_pk: int) -> None:
        return None

    def release(self, delivery_pk: int) -> None:
        self.reload()


class GoesOnTooEarly(Lane):
    """Takes the record of a settled delivery for written, even if it wasn't."""

    def landed(self, delivery: QueuedDelivery, landing: Landing) -> None:
        super().landed(delivery, Landing.WRITTEN)


class GoesOnWhereItIsRefused(Lane):
    """Begins again after a refused record, as after a crash."""

    def landed(self, delivery: QueuedDelivery, landing: Landing) -> None:
        super().landed(delivery, Landing.FAILED if landing is Landing.REFUSED else landing)


class ProbesTwice(Lane):
    """Forgets which delivery is the probe."""

    def take(self, now: float) -> Move:
        taken = super().take(now)
        self._probe = None
        return taken


class OverdrawsTheBucket(Lane):
    """Sends without a token."""

    def take(self, now: float) -> Move:
        before, taken = self.bucket, super().take(now)
        self.bucket = before
        return taken


class SavesUpBursts(Lane):
    """Saves tokens for a burst while a backlog drains."""

    def take(self, now: float) -> Move:
        taken = super().take(now)
        if self.bucket is not None:
            self.bucket = dataclasses.replace(self.bucket, draining=False)
        return taken


class LetsTheNextPass(Lane):
    """Keeps its window after a failure, instead of reading it again."""

    def landed(self, delivery: QueuedDelivery, landing: Landing) -> None:
        was_stale = self.queue.is_stale
        super().landed(delivery, landing)
        self.queue.is_stale = was_stale


class LosesWhatIsPutBack(Lane):
    """Keeps its window after a delivery was put back, instead of reading it again."""

    def put_back(self, delivery: QueuedDelivery) -> None:
        was_stale = self.queue.is_stale
        super().put_back(delivery)
        self.queue.is_stale = was_stale


class LosesWhatComesDuringARead(Lane):
    """Forgets that deliveries were queued during the read."""

    def load(self, window: Window) -> None:
        self.queue.has_more = False
        super().load(window)


class HeedsOldAnswers(Lane):
    """Counts the answer of another receiver against the current one."""

    def settle(self, delivery: QueuedDelivery, outcome: Outcome, receiver: Receiver, **given: Any) -> Any:
        return super().settle(delivery, outcome, Receiver(self.endpoint, CREDENTIALS, self._revision), **given)


class IgnoresTheClock(Lane):
    """Doesn't move its times when the clock is set."""

    def shift(self, seconds: float) -> None:
        self.reload()


class BeginsAboveItsFloors(Lane):
    """Takes the first delivery of each part of its queue for ended."""

    def begin_refill(self, now: float) -> WindowRequest:
        request = super().begin_refill(now)
        floors = request.floors
        raised = msgspec.structs.replace(floors, fresh=floors.fresh + 1, backing_off=floors.backing_off + 1)
        return msgspec.structs.replace(request, floors=raised)


class BeginsTooLate(Lane):
    """Takes what is due since the last read for ended."""

    def begin_refill(self, now: float) -> WindowRequest:
        request = super().begin_refill(now)
        return msgspec.structs.replace(request, floors=msgspec.structs.replace(request.floors, due_at=now))


class LosesWhatComesBack(Lane):
    """Leaves its floors where they are when a delivery has to be sent again."""

    def landed(self, delivery: QueuedDelivery, landing: Landing) -> None:
        before = self.queue._floors_since
        super().landed(delivery, landing)
        self.queue._floors_since = before


FAULTS = [
    HoldsNothing,
    GoesOnTooEarly,
    GoesOnWhereItIsRefused,
    ProbesTwice,
    OverdrawsTheBucket,
    SavesUpBursts,
    LetsTheNextPass,
    LosesWhatIsPutBack,
    LosesWhatComesDuringARead,
    HeedsOldAnswers,
    IgnoresTheClock,
    BeginsAboveItsFloors,
    BeginsTooLate,
    LosesWhatComesBack,
]
FOUND_LATE = {
    BeginsTooLate,
    GoesOnTooEarly,
    GoesOnWhereItIsRefused,
    ProbesTwice,
    SavesUpBursts,
    LetsTheNextPass,
    LosesWhatIsPutBack,
    LosesWhatComesDuringARead,
    HeedsOldAnswers,
    LosesWhatComesBack,
}


@pytest.mark.parametrize("kind", long(FAULTS, lambda kind: kind in FOUND_LATE))
def test_each_planted_fault_is_found(kind: type[Lane]) -> None:
    """The model finds a lane that breaks one promise."""
    machine = type(kind.__name__, (LaneMachine,), {"kind": kind})
    only_generated = settings(
        TestLane.settings, max_examples=4000, phases=[Phase.generate], derandomize=True, database=None
    )
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=only_generated)


def test_nothing_is_sent_with_the_secrets_from_before_a_clock_step() -> None:
    """When the clock is set, settings and secrets are read again before anything is taken."""
    lane = Lane(endpoint(), policy(Ordering.STRICT, 1, "none"), AT)
    lane.begin(AT)
    lane.begin_load()
    window = Window(
        pending=(queued_delivery(),),
        parked=(),
        expired=(),
        complete=True,
        next_attempt_at=None,
        last_sequence=1,
    )
    lane.load(window)
    lane.queue.is_stale = False
    assert isinstance(lane.next(AT), Send)
    lane.shift(0.0)
    lane.queue.is_stale = False  # as if the queue had been read again
    assert isinstance(lane.next(AT), Send)
    assert not isinstance(lane.take(AT), Send)

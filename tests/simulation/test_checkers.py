"""What the checkers of the simulation know by themselves, where they were once wrong about a server that was right."""

import msgspec
import trio
from trio.testing import MockClock

from tests.simulation import audit, fate
from tests.simulation.model import YEAR, Request, Subject, World
from webhookd.base.clock import iso
from webhookd.base.models import BreakerState, EndpointState, Ordering, Outcome, PolicyOverrides


def _subject() -> Subject:
    return Subject("wh_1", "https://r1.example/", ("*",), PolicyOverrides(), Ordering.STRICT)


async def test_a_half_open_breaker_lets_its_next_probe_through_after_a_restart(autojump_clock: MockClock) -> None:
    """A breaker that was half-open as the last life ended has waited, whatever the clock says; an open one has not."""
    world, subject = World(1), _subject()
    now = world.clock.now()
    open_state = EndpointState(breaker=BreakerState.OPEN, retry_at=now + 5, last_failure_at=now - 5)
    fate._trust(world, subject, open_state)
    assert subject.open_until == world.clock.steady() + 5
    fate._trust(world, subject, msgspec.structs.replace(open_state, breaker=BreakerState.HALF_OPEN))
    assert subject.opened_at is not None
    assert subject.open_until <= world.clock.steady()


async def test_an_operational_event_is_as_old_as_it_says(autojump_clock: MockClock) -> None:
    """A delivery of webhookd's own event may be gone after a start with the clock a year past the event's time."""
    world = World(1)
    body = msgspec.json.encode({"timestamp": iso(world.clock.now())})
    request = Request(0, "wh_1", "dlv_1", "evt_1", 1, 1, trio.current_time(), world.clock.steady(), body)
    for years_ahead, violations in ((0, 1), (1, 1)):  # the second is no violation
        world.forgotten_before.append(world.clock.now() + years_ahead * YEAR - fate.FORGOTTEN_SECONDS)
        audit._check_forgotten(world, request)
        assert len(world.violations) == violations


async def test_what_a_receiver_aborts_is_not_delivered(autojump_clock: MockClock) -> None:
    """A 2xx delivers, unless it asks to give the delivery up; an answer that the server never got delivers nothing."""
    world = World(1)

    def answered(outcome: Outcome | None) -> Request:
        return Request(0, "wh_1", "dlv_1", "evt_1", 1, 1, 0.0, world.clock.steady(), b"", outcome=outcome)

    good = Outcome(duration_seconds=0.1, status=204)
    assert answered(good).is_delivered
    aborted = msgspec.structs.replace(good, headers=(("webhook-delivery", "abort"),))
    assert not answered(aborted).is_delivered
    assert not answered(msgspec.structs.replace(good, status=503)).is_delivered
    assert not answered(None).is_delivered

"""Cases in which the checkers of the simulation were once wrong about a correct server."""

import msgspec
import trio
from trio.testing import MockClock

from tests.simulation import audit, environment
from tests.simulation.model import YEAR, Request, Subject, World
from webhookd.base.clock import iso
from webhookd.base.models import BreakerState, EndpointState, Ordering, Outcome, PolicyOverrides, RetryOverrides


def _subject() -> Subject:
    overrides = PolicyOverrides(retry=RetryOverrides(delays=(3.0, 10.0), jitter=0.0))
    return Subject("wh_1", "https://r1.example/", ("*",), overrides, Ordering.STRICT)


async def test_after_a_restart_a_half_open_breaker_may_probe_at_once(autojump_clock: MockClock) -> None:
    """After a restart, a breaker that was half-open may send its next probe at once, but an open one has to wait."""
    world, subject = World(1), _subject()
    now = world.clock.now()
    open_state = EndpointState(breaker=BreakerState.OPEN, retry_at=now + 5, last_failure_at=now - 5)
    environment._trust(world, subject, open_state)
    assert subject.open_until == world.clock.steady() + 5
    longer = msgspec.structs.replace(open_state, retry_at=now + 50)
    environment._trust(world, subject, longer)
    assert subject.open_until == world.clock.steady() + 11, "no wait is longer than the longest delay"
    environment._trust(world, subject, msgspec.structs.replace(open_state, breaker=BreakerState.HALF_OPEN))
    assert subject.opened_at is not None
    assert subject.open_until <= world.clock.steady()


async def test_retention_may_delete_operational_events_too(autojump_clock: MockClock) -> None:
    """A delivery of an operational event may be deleted after a start with the clock a year after its timestamp."""
    world = World(1)
    body = msgspec.json.encode({"timestamp": iso(world.clock.now())})
    request = Request(0, "wh_1", "dlv_1", "evt_1", 1, 1, trio.current_time(), world.clock.steady(), body)
    for years_ahead, violations in ((0, 1), (1, 1)):  # the second adds no violation
        world.deletes_before.append(world.clock.now() + years_ahead * YEAR - environment.DELETED_SECONDS)
        audit._check_deleted(world, request)
        assert len(world.violations) == violations


async def test_an_aborted_delivery_is_not_delivered(autojump_clock: MockClock) -> None:
    """A 2xx counts as delivered unless it aborts the delivery; a request without an answer does not count."""
    world = World(1)

    def answered(outcome: Outcome | None) -> Request:
        return Request(0, "wh_1", "dlv_1", "evt_1", 1, 1, 0.0, world.clock.steady(), b"", outcome=outcome)

    good = Outcome(duration_seconds=0.1, status=204)
    assert answered(good).is_delivered
    aborted = msgspec.structs.replace(good, headers=(("webhook-delivery", "abort"),))
    assert not answered(aborted).is_delivered
    assert not answered(msgspec.structs.replace(good, status=503)).is_delivered
    assert not answered(None).is_delivered

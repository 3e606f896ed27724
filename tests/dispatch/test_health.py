"""The health of an endpoint as a node sees it that drives it, and one that doesn't."""

import pytest
from msgspec import structs

from tests.samples import endpoint
from webhookd.admin.reason_text import reason_text
from webhookd.base.models import BreakerState, EndpointState, PolicyOverrides
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy.resolve import resolve
from webhookd.dispatch.health import Cause, assess
from webhookd.dispatch.lane import Lane
from webhookd.dispatch.supervisor import Supervisor
from webhookd.journal import Driver, QueueFacts

NOW = 1000.0
WAITS = QueueFacts(queued=3, parked=0, oldest_pending_at=NOW - 5, next_attempt_at=NOW - 1)
EMPTY = QueueFacts(queued=0, parked=0, oldest_pending_at=None, next_attempt_at=None)
HERE, THERE, NOWHERE = Driver("web-1", is_here=True), Driver("web-2", is_here=False), Driver(None, is_here=False)


@pytest.mark.parametrize(
    ("driver", "said"),
    [
        (None, "About to send"),
        (HERE, "About to send"),
        (THERE, "Due at the node web-2, which alone knows whether a request is in flight"),
        (NOWHERE, "Waiting for a node: none drives this webhook at present"),
    ],
)
def test_what_is_due_is_sent_by_its_node(driver: Driver | None, said: str) -> None:
    """Another node than the one that drives a webhook says which one does, and all say it if none does."""
    health = assess(endpoint(), EndpointState(), WAITS, lane=None, supervisor=None, now=NOW, driver=driver)
    assert reason_text(health) == said
    assert not health.sending


@pytest.mark.parametrize("driver", [None, HERE, THERE])
def test_what_the_journal_knows_is_said_at_every_node(driver: Driver | None) -> None:
    """The circuit breaker, a pause, a disabled webhook and an empty queue are in the journal."""

    def cause(state: EndpointState, queue: QueueFacts = WAITS, *, is_active: bool = True) -> Cause:
        subject = structs.replace(endpoint(), is_active=is_active)
        health = assess(subject, state, queue, lane=None, supervisor=None, now=NOW, driver=driver)
        assert health.reason is not None
        return health.reason.cause

    assert cause(EndpointState(breaker=BreakerState.OPEN, retry_at=NOW + 40)) is Cause.CIRCUIT_OPEN
    assert cause(EndpointState(paused_until=NOW + 40, last_error="HTTP 429")) is Cause.PAUSED
    assert cause(EndpointState(), EMPTY) is Cause.NOTHING_QUEUED
    assert cause(EndpointState(), is_active=False) is Cause.DISABLED
    later = structs.replace(WAITS, next_attempt_at=NOW + 25)
    assert cause(EndpointState(), later) is Cause.BACKING_OFF


def test_what_a_node_knew_before_it_lost_a_webhook_is_not_said() -> None:
    """A lane and crashes of an actor are of the node that drives a webhook now, or of no use."""
    lane = Lane(endpoint(), resolve(PolicyOverrides(), DeliveryConfig()), NOW)
    lane.state = EndpointState(breaker=BreakerState.OPEN, retry_at=NOW + 40)
    supervisor = Supervisor("actor")
    supervisor.is_halted, supervisor.last_crash = True, "RuntimeError: a bug"

    def cause(driver: Driver) -> Cause | None:
        health = assess(endpoint(), EndpointState(), WAITS, lane=lane, supervisor=supervisor, now=NOW, driver=driver)
        return None if health.reason is None else health.reason.cause

    assert cause(HERE) is Cause.HALTED
    assert cause(THERE) is Cause.DUE_ELSEWHERE

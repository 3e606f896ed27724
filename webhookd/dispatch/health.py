"""The health of an endpoint, as the API and the dashboard show it: above all why nothing is being sent. Pure."""

from dataclasses import dataclass
from enum import Enum

from webhookd.base.models import BreakerState, DisabledReason, Endpoint, EndpointState, Policy
from webhookd.delivery.policy.breaker import is_paused
from webhookd.delivery.policy.rate_limit import TokenBucket
from webhookd.dispatch.lane import Lane, Wait, Why
from webhookd.dispatch.supervisor import Supervisor
from webhookd.journal import Driver, QueueFacts


class Cause(Enum):
    """Why nothing is being sent to an endpoint."""

    DISABLED = "disabled"
    NOTHING_QUEUED = "nothing_queued"
    NO_NODE = "no_node"
    HALTED = "halted"
    PAUSED = "paused"
    CIRCUIT_OPEN = "circuit_open"
    RATE_LIMITED = "rate_limited"
    BACKING_OFF = "backing_off"
    ONLY_PARKED = "only_parked"
    DUE = "due"
    DUE_ELSEWHERE = "due_elsewhere"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reason:
    """A cause, when it ends if that is known, and the last failure if it matters."""

    cause: Cause
    until: float | None = None
    error: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointHealth:
    """The health of an endpoint at the time `at`; `reason` is None while a request is in flight.

    `driver` is the node that drives it, None for a journal in a file. Only that node knows of requests in flight.
    """

    at: float
    driver: Driver | None = None
    breaker: BreakerState
    sending: bool
    reason: Reason | None
    disabled_reason: DisabledReason | None
    queued: int
    parked: int
    oldest_pending_at: float | None
    next_attempt_at: float | None
    consecutive_failures: int
    failing_since: float | None
    last_success_at: float | None
    last_failure_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """What an endpoint's actor decides by; `bucket` is None without a rate limit, and where another node drives it."""

    state: EndpointState
    policy: Policy
    bucket: TokenBucket | None


def assess(
    endpoint: Endpoint,
    stored: EndpointState,
    queue: QueueFacts,
    *,
    lane: Lane | None,
    supervisor: Supervisor | None,
    now: float,
    driver: Driver | None = None,
) -> EndpointHealth:
    """Return the health of an endpoint from its state and queue in the journal.

    `lane` is that of a running actor, whose state is more current. `supervisor` is None if there never was an actor.
    `driver` is the node that drives the endpoint; None if the journal is this process's alone.
    """
    if driver is not None and not driver.is_here:
        lane = supervisor = None  # what they know is from before this process lost the endpoint
    state, sending = (stored, False) if lane is None else (lane.state, bool(lane.in_flight))
    halted = supervisor.last_crash if supervisor is not None and supervisor.is_halted else None
    return EndpointHealth(
        at=now,
        driver=driver,
        breaker=state.breaker,
        sending=sending,
        reason=None if sending else _reason(endpoint, state, queue, lane=lane, halted=halted, now=now, driver=driver),
        disabled_reason=endpoint.disabled_reason,
        queued=queue.queued,
        parked=queue.parked,
        oldest_pending_at=queue.oldest_pending_at,
        next_attempt_at=_next_attempt_at(endpoint, state, queue),
        consecutive_failures=state.consecutive_faults,
        failing_since=state.failing_since,
        last_success_at=state.last_success_at,
        last_failure_at=state.last_failure_at,
    )


def _reason(
    endpoint: Endpoint,
    state: EndpointState,
    queue: QueueFacts,
    *,
    lane: Lane | None,
    halted: str | None,
    now: float,
    driver: Driver | None,
) -> Reason:
    if not endpoint.is_active:
        return Reason(cause=Cause.DISABLED)
    if not queue.queued and not queue.parked:
        return Reason(cause=Cause.NOTHING_QUEUED)
    if driver is not None and driver.name is None:
        return Reason(cause=Cause.NO_NODE)
    if halted is not None:
        return Reason(cause=Cause.HALTED, error=halted)
    if is_paused(state, now):
        return Reason(cause=Cause.PAUSED, until=state.paused_until, error=state.last_error)
    if state.breaker is BreakerState.OPEN and state.retry_at is not None:
        return Reason(cause=Cause.CIRCUIT_OPEN, until=state.retry_at, error=state.last_error)
    if lane is not None and isinstance(move := lane.next(now), Wait) and move.why is Why.RATE:
        return Reason(cause=Cause.RATE_LIMITED, until=move.until)
    if queue.next_attempt_at is not None and queue.next_attempt_at > now:
        cause = Cause.BACKING_OFF if queue.queued else Cause.ONLY_PARKED
        return Reason(cause=cause, until=queue.next_attempt_at, error=state.last_error)
    return Reason(cause=Cause.DUE if driver is None or driver.is_here else Cause.DUE_ELSEWHERE)


def _next_attempt_at(endpoint: Endpoint, state: EndpointState, queue: QueueFacts) -> float | None:
    if not endpoint.is_active or queue.next_attempt_at is None:
        return None
    held_until = state.retry_at if state.breaker is BreakerState.OPEN else None
    return max(queue.next_attempt_at, held_until or 0.0, state.paused_until or 0.0)

"""An endpoint's state as an operator asks for it: above all one sentence that says why nothing is being sent. Pure."""

from dataclasses import dataclass
from math import ceil

from webhookd.clock import iso
from webhookd.delivery.limiter import TokenBucket
from webhookd.gate import Move, Wait, Why
from webhookd.journal import QueueFacts
from webhookd.models import BreakerState, DisabledReason, Endpoint, EndpointState, Policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """How an endpoint is; `reason` is None while something is being sent."""

    breaker: BreakerState
    sending: bool
    reason: str | None
    queued: int
    parked: int
    oldest_pending_at: float | None
    next_attempt_at: float | None
    consecutive_failures: int
    last_success_at: float | None
    last_failure_at: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Inside:
    """By what an endpoint's actor decides: its past, its policy, and its bucket where it has a rate limit."""

    state: EndpointState
    policy: Policy
    bucket: TokenBucket | None


def assess(
    endpoint: Endpoint,
    state: EndpointState,
    queue: QueueFacts,
    *,
    move: Move | None,
    sending: bool,
    halted: str | None,
    now: float,
) -> Health:
    """Put together what actor and journal know; `move` is the actor's next (None: no actor is running).

    `halted` is the last crash of an actor that is no longer tried.
    """
    return Health(
        breaker=state.breaker,
        sending=sending,
        reason=None if sending else _reason(endpoint, state, queue, move=move, halted=halted, now=now),
        queued=queue.queued,
        parked=queue.parked,
        oldest_pending_at=queue.oldest_pending_at,
        next_attempt_at=_next_attempt_at(endpoint, state, queue),
        consecutive_failures=state.consecutive_faults,
        last_success_at=state.last_success_at,
        last_failure_at=state.last_failure_at,
    )


def _reason(
    endpoint: Endpoint, state: EndpointState, queue: QueueFacts, *, move: Move | None, halted: str | None, now: float
) -> str:
    if not endpoint.is_active:
        return f"Held: {_disabled(endpoint, state)}"
    if not queue.queued and not queue.parked:
        return "Nothing queued"
    if halted is not None:
        return f"Halted: sending crashed too often inside webhookd, last with {halted}; tried again within 15 minutes"
    if state.paused_until is not None and now < state.paused_until:
        cause = "Retry-After" if (state.last_error or "").endswith("Retry-After") else state.last_error
        return f"Paused by {cause} until {iso(state.paused_until)}"
    if state.breaker is BreakerState.OPEN and state.retry_at is not None:
        return (
            f"Circuit open after {state.consecutive_faults} faults, last: {state.last_error}; "
            f"next probe {_in(state.retry_at, now)}"
        )
    if isinstance(move, Wait) and move.why is Why.RATE:
        return "Waiting for a rate token"
    if queue.next_attempt_at is not None and queue.next_attempt_at > now:
        what = "Backing off" if queue.queued else "Only parked deliveries are left"
        return f"{what} after a failure, last: {state.last_error}; next attempt {_in(queue.next_attempt_at, now)}"
    return "About to send"


def _disabled(endpoint: Endpoint, state: EndpointState) -> str:
    since = "" if state.failing_since is None else f" as failing since {iso(state.failing_since)}"
    match endpoint.disabled_reason:
        case DisabledReason.FAILING:
            return f"disabled{since}"
        case DisabledReason.GONE:
            return "disabled because the receiver answered 410 Gone"
        case DisabledReason.RECEIVER:
            return "disabled because the receiver asked for it"
        case _:
            return "switched off by hand"


def _in(at: float, now: float) -> str:
    seconds = max(ceil(at - now), 0)
    if seconds < 120:
        return f"in {seconds} s"
    return f"in {ceil(seconds / 60)} min" if seconds < 7200 else f"at {iso(at)}"


def _next_attempt_at(endpoint: Endpoint, state: EndpointState, queue: QueueFacts) -> float | None:
    if not endpoint.is_active or queue.next_attempt_at is None:
        return None
    held_until = state.retry_at if state.breaker is BreakerState.OPEN else None
    return max(queue.next_attempt_at, held_until or 0.0, state.paused_until or 0.0)

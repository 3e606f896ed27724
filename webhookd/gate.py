"""What an endpoint's actor does next: one pure look at its line, its breaker, its pace and its settings.

The order of the gates is the order in which an operator would ask: is it switched on, is there something to send, is
the endpoint well, has its pace room.
"""

from collections.abc import Collection, Sized
from dataclasses import dataclass
from enum import Enum

from webhookd.delivery import breaker, limiter
from webhookd.delivery.breaker import Hold
from webhookd.delivery.limiter import TokenBucket
from webhookd.line import Line, earliest
from webhookd.models import BreakerState, EndpointState, Ordering, Policy, QueuedDelivery, Trigger

LINGER_SECONDS = 30.0
NO_KEYS: frozenset[str] = frozenset()


class Why(Enum):
    """What an actor waits for."""

    READING = "reading"
    IDLE = "idle"
    INACTIVE = "inactive"
    PAUSED = "paused"
    OPEN = "open"
    PROBING = "probing"
    BACK_OFF = "back_off"
    RATE = "rate"
    SENDING = "sending"


@dataclass(frozen=True, slots=True)
class Send:
    """Send this delivery now."""

    delivery: QueuedDelivery


@dataclass(frozen=True, slots=True)
class Wait:
    """Wait for a wake, until then at most (None: however long it takes)."""

    until: float | None
    why: Why


class Step(Enum):
    """The moves that need no more said."""

    REFILL = "refill"
    EXPIRE = "expire"
    LEAVE = "leave"


Move = Send | Wait | Step

_WHY = {Hold.PAUSED: Why.PAUSED, Hold.OPEN: Why.OPEN, Hold.PROBING: Why.PROBING}


def next_move(
    *,
    line: Line,
    state: EndpointState,
    policy: Policy,
    bucket: TokenBucket | None,
    in_flight: dict[int, QueuedDelivery],
    held: Collection[int],
    is_active: bool,
    is_probing: bool,
    active_at: float,
    now: float,
) -> Move:
    """Return the next move of an endpoint's actor.

    `held` are deliveries that are being changed by hand; `active_at` is when something was last done.
    """
    if line.is_being_read:
        return Wait(None, Why.READING)
    if line.expired and not line.is_stale:
        return Step.EXPIRE
    candidate = line.candidate(
        now,
        policy.ordering,
        busy_keys=busy_keys(in_flight) if policy.ordering is Ordering.KEY else NO_KEYS,
        held=held,
        by_hand_first=state.breaker is not BreakerState.CLOSED,
    )
    if line.needs_refill(now, policy.ordering, found=candidate is not None):
        return Step.REFILL
    if candidate is None or not is_active:
        return _without_candidate(line, policy, in_flight, is_active=is_active, active_at=active_at, now=now)
    by_hand = candidate.trigger is Trigger.MANUAL
    if (hold := breaker.admit(state, now, probing=is_probing, by_hand=by_hand)) is not None:
        until, why = hold[1], _WHY[hold[0]]
    elif len(in_flight) >= (allowance := limiter.allowed_in_flight(policy, state.recovered_at, now))[0]:
        until, why = allowance[1], Why.SENDING
    elif bucket is not None and (ready_at := bucket.ready_at(now)) > now:
        until, why = ready_at, Why.RATE
    else:
        return Send(candidate)
    return Wait(earliest(until, line.next_event_at(now, policy.ordering)), why)


def _without_candidate(
    line: Line, policy: Policy, in_flight: Sized, *, is_active: bool, active_at: float, now: float
) -> Move:
    event_at = line.next_event_at(now, policy.ordering)
    if in_flight:
        return Wait(event_at, Why.SENDING)
    if line.is_spent or line.is_empty:
        leave_at = active_at + LINGER_SECONDS
        if now < leave_at:
            return Wait(earliest(leave_at, event_at), Why.IDLE)
        return Step.REFILL if line.is_spent else Step.LEAVE
    return Wait(event_at, Why.BACK_OFF if is_active else Why.INACTIVE)


def busy_keys(in_flight: dict[int, QueuedDelivery]) -> frozenset[str]:
    """Return the ordering keys that have a request in flight."""
    return frozenset(flying.ordering_key for flying in in_flight.values() if flying.ordering_key is not None)

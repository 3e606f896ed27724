"""What a clock that was set back while no server ran means for an endpoint: one pure decision.

The journal's rows follow what it returns, the endpoint's state and the times of its queue.
"""

from msgspec import Struct

from webhookd.base.models import EndpointState
from webhookd.delivery.policy import breaker


class Bounds(Struct, frozen=True, kw_only=True):
    """How far ahead an endpoint's times may lie, in seconds: a retry, one that a receiver asked for, an expiry."""

    retry_seconds: float
    throttled_seconds: float
    age_seconds: float


class Correction(Struct, frozen=True, kw_only=True):
    """An endpoint's state from now on, and what becomes of the times of its queue.

    Those after `now` come earlier by `earlier_seconds`, though not before `now`. Then no retry is later than `retry_at`
    (where a receiver asked for it: `throttled_at`), and no expiry than `expires_at`.
    """

    state: EndpointState
    now: float
    earlier_seconds: float
    retry_at: float
    throttled_at: float
    expires_at: float


def correct(state: EndpointState, bounds: Bounds, now: float) -> Correction:
    """Return what leaves no time further ahead than it can be.

    Where the last failure is still to come, what it brought about waits as long as it would have then.
    """
    earlier_seconds = max((state.last_failure_at or now) - now, 0.0)
    if earlier_seconds:
        state = breaker.shifted(state, -earlier_seconds)
    retry_at, throttled_at = now + bounds.retry_seconds, now + bounds.throttled_seconds
    return Correction(
        state=breaker.capped(state, now=now, retry_at=retry_at, paused_until=throttled_at),
        now=now,
        earlier_seconds=earlier_seconds,
        retry_at=retry_at,
        throttled_at=throttled_at,
        expires_at=now + bounds.age_seconds,
    )

"""Corrects an endpoint's times after the clock was set back while no server ran: one pure decision.

The result is applied to the journal's rows: the endpoint's state and the times of its queue.
"""

from msgspec import Struct

from webhookd.base.models import EndpointState
from webhookd.delivery.policy import breaker


class Bounds(Struct, frozen=True, kw_only=True):
    """How far ahead an endpoint's times may be, in seconds: a retry, a retry after a Retry-After, an expiry."""

    retry_seconds: float
    throttled_seconds: float
    age_seconds: float


class Correction(Struct, frozen=True, kw_only=True):
    """An endpoint's new state, and the correction of the times of its queue.

    Times after `now` become earlier by `earlier_seconds`, but not earlier than `now`. Then no retry is later than
    `retry_at` (after a Retry-After: `throttled_at`), and no expiry later than `expires_at`.
    """

    state: EndpointState
    now: float
    earlier_seconds: float
    retry_at: float
    throttled_at: float
    expires_at: float


def correct(state: EndpointState, bounds: Bounds, now: float) -> Correction:
    """Return the correction after which no time is further ahead than it can be.

    If the last failure is in the future, everything is shifted so that it is now; waits then last as long as before.
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

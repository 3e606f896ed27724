"""The circuit breaker and the pause of one endpoint: what each answer does to `EndpointState`. Pure.

    CLOSED --(threshold faults in a row)--> OPEN --(retry_at has come)--> HALF_OPEN --(fault)--> OPEN
    HALF_OPEN --(an answer that is neither a fault nor a 429 or 503)--> CLOSED

While OPEN nothing is sent; HALF_OPEN admits one probe at a time. A 429 or 503 pauses the endpoint without tripping the
breaker: nothing is sent until the pause ends, and then one probe at a time until one has a good answer. Only time ends
a pause that is in force.
"""

from enum import Enum

import msgspec

from webhookd.base.models import BreakerState, DeliveryError, EndpointState

# As the end of a pause: in the past, however the clock is set.
LONG_AGO = 0.0


class AnswerKind(Enum):
    """What an answer means for the endpoint."""

    SUCCESS = "success"
    REFUSAL = "refusal"  # the endpoint works, the message is refused
    THROTTLED = "throttled"
    FAULT = "fault"


class Hold(Enum):
    """Why the breaker admits no request now."""

    PAUSED = "paused"
    OPEN = "open"
    PROBING = "probing"


def admit(
    state: EndpointState, now: float, *, probing: bool, by_hand: bool = False
) -> tuple[Hold, float | None] | None:
    """Return None if a request may be sent, else why not and until when (None: until the probe is answered).

    `by_hand`: a retry by hand passes an open breaker as its probe, but not a pause.
    """
    if is_paused(state, now):
        return Hold.PAUSED, state.paused_until
    if not state.needs_probe:
        return None
    if probing:
        return Hold.PROBING, None
    waiting = state.breaker is BreakerState.OPEN and state.retry_at is not None and now < state.retry_at
    if waiting and not by_hand:
        return Hold.OPEN, state.retry_at
    return None


def is_paused(state: EndpointState, now: float) -> bool:
    """Whether a pause is in force."""
    return state.paused_until is not None and now < state.paused_until


def is_straggler(state: EndpointState, now: float, *, is_probe: bool) -> bool:
    """Whether an answer that comes now is to a request that was sent before the endpoint's last pause."""
    return state.paused_until is not None and (is_paused(state, now) or not is_probe)


def probe(state: EndpointState) -> EndpointState:
    """Return the state while a probe of an open breaker is in flight."""
    if state.breaker is BreakerState.CLOSED:
        return state
    return msgspec.structs.replace(state, breaker=BreakerState.HALF_OPEN)


def after(
    state: EndpointState,
    answer: AnswerKind,
    *,
    now: float,
    threshold: int,
    resume_at: float,
    error: DeliveryError | None,
    detail: str,
    is_probe: bool = True,
) -> EndpointState:
    """Return the endpoint's state after an answer; `resume_at` is the end of the back-off.

    While half-open, or after a pause, only the probe decides. The answer to a request that was sent before the breaker
    opened, or before the pause, says nothing new.
    """
    if answer is AnswerKind.SUCCESS:
        return succeeded(state, now, is_probe=is_probe)
    last_error = detail or (error or DeliveryError.PROTOCOL).value
    failed = msgspec.structs.replace(state, last_failure_at=now, last_error=last_error)
    if answer is AnswerKind.REFUSAL:
        return _answered(failed, now, is_probe=is_probe)
    straggles = is_straggler(state, now, is_probe=is_probe)
    failed = msgspec.structs.replace(
        failed,
        failing_since=now if state.failing_since is None else state.failing_since,
        failures_since_success=state.failures_since_success + 1,
    )
    if answer is AnswerKind.THROTTLED:
        return msgspec.structs.replace(
            failed,
            consecutive_faults=0,
            pauses=state.pauses + (not straggles),
            paused_until=max(resume_at, state.paused_until or 0.0),
        )
    failed = msgspec.structs.replace(
        failed, consecutive_faults=state.consecutive_faults + 1, pauses=state.pauses if straggles else 0
    )
    opened = msgspec.structs.replace(
        failed,
        breaker=BreakerState.OPEN,
        retry_at=resume_at,
        paused_until=state.paused_until if is_paused(state, now) else None,
    )
    match state.breaker:
        case BreakerState.CLOSED if failed.consecutive_faults >= threshold:
            return msgspec.structs.replace(opened, reopenings=0)
        case BreakerState.HALF_OPEN if is_probe:
            return msgspec.structs.replace(opened, reopenings=state.reopenings + 1)
        case _:
            # Closed and below the threshold; or the answer to a request sent before the breaker opened.
            return failed


def rested(state: EndpointState, now: float, *, most_seconds: float) -> EndpointState:
    """Return the state with at most `most_seconds` of failing time since the last failure, or the end of its pause.

    The time beyond that isn't counted: there was no attempt because nothing was queued, the server was down or the
    machine was suspended. A clock that was set forward while no server ran looks the same.
    """
    if state.failing_since is None or state.last_failure_at is None:
        return state
    gap_ends_at = max(state.last_failure_at + most_seconds, state.paused_until or 0.0)
    rest_seconds = max(now - gap_ends_at, 0.0)
    return msgspec.structs.replace(state, failing_since=_plus(state.failing_since, rest_seconds))


def succeeded(state: EndpointState, now: float, *, is_probe: bool = True) -> EndpointState:
    """Return the endpoint's state after a success, which ends an outage and resets its counts."""
    if not state.is_unhealthy and state.failing_since is None and state.warned_at is None:
        return msgspec.structs.replace(state, last_success_at=now)
    return msgspec.structs.replace(
        _answered(state, now, is_probe=is_probe),
        last_success_at=now,
        failing_since=None,
        failures_since_success=0,
        warned_at=None,
    )


def forgiven(state: EndpointState) -> EndpointState:
    """Return the state after the webhook was changed by hand, or enabled: the state of an outage is reset.

    One request may be sent at once, as a probe, and its answer decides. The ramp after an earlier outage ends, since a
    request that the old receiver doesn't answer would hold up the probe.
    """
    is_closed = state.breaker is BreakerState.CLOSED
    return msgspec.structs.replace(
        state,
        breaker=BreakerState.CLOSED if is_closed else BreakerState.HALF_OPEN,
        consecutive_faults=0,
        reopenings=0,
        pauses=0,
        retry_at=None,
        paused_until=LONG_AGO if is_closed else None,
        failing_since=None,
        failures_since_success=0,
        recovered_at=None,
    )


def capped(state: EndpointState, *, now: float, retry_at: float, paused_until: float) -> EndpointState:
    """Return the state with each time limited to the latest that it can be; `now` for what has already happened."""
    return msgspec.structs.replace(
        state,
        retry_at=_at_most(state.retry_at, retry_at),
        paused_until=_at_most(state.paused_until, paused_until),
        failing_since=_at_most(state.failing_since, now),
        recovered_at=_at_most(state.recovered_at, now),
    )


def shifted(state: EndpointState, seconds: float) -> EndpointState:
    """Return the state after the clock was set by so many seconds; waits last as long as before."""
    return msgspec.structs.replace(
        state, **{name: _plus(getattr(state, name), seconds) for name in EndpointState.SHIFTED}
    )


def _at_most(at: float | None, latest: float) -> float | None:
    return None if at is None else min(at, round(latest, 3))


def _plus(at: float | None, seconds: float) -> float | None:
    return None if at is None else round(at + seconds, 3)


def _answered(state: EndpointState, now: float, *, is_probe: bool) -> EndpointState:
    """Return the state after a success or a refusal: the endpoint is healthy, unless it was paused meanwhile."""
    if is_straggler(state, now, is_probe=is_probe):
        return msgspec.structs.replace(state, consecutive_faults=0)
    return msgspec.structs.replace(
        state,
        breaker=BreakerState.CLOSED,
        consecutive_faults=0,
        reopenings=0,
        pauses=0,
        retry_at=None,
        paused_until=None,
        recovered_at=now if state.needs_probe else state.recovered_at,
    )

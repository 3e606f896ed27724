"""What an answer means and what happens next: one pure decision for every outcome of an attempt.

The rules are those of the documented wire contract, "What a response means". `decide` is given all it needs, `now` and
the random sample included, so that a table can pin every line of it.
"""

from enum import Enum

import msgspec
from msgspec import Struct

from webhookd.base.models import (
    BreakerState,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    EndpointState,
    Ordering,
    Outcome,
    Policy,
    QueuedDelivery,
    Verdict,
)
from webhookd.base.retry_after import read_retry_after
from webhookd.delivery.policy import breaker
from webhookd.delivery.policy.breaker import AnswerKind

REFUSING_STATUSES = frozenset({400, 409, 413, 415, 422})
THROTTLING_STATUSES = frozenset({429, 503})
FAILURES_TO_DISABLE = 10


class Classification(Struct, frozen=True, kw_only=True):
    """What one outcome is: `answer` None says nothing about the endpoint (an interrupted attempt)."""

    answer: AnswerKind | None
    error: DeliveryError | None
    fails_delivery: bool = False
    disable: DisabledReason | None = None


class Since(Enum):
    """What was changed by hand, and went to disk, after an attempt had begun."""

    NOTHING = "nothing"  # that would have the endpoint tried at once
    CHANGED = "changed"  # the webhook, but not its URL: the receiver is the same
    MOVED = "moved"  # the URL: what answered was another receiver


def backoff_seconds(policy: Policy, step: int, sample: float) -> float:
    """Return the delay before attempt `step` + 2, with jitter; `sample` is random, uniform in [0, 1)."""
    delay = policy.delays[min(step, len(policy.delays) - 1)]
    return delay * (1 + policy.jitter * (2 * sample - 1))


def classify(outcome: Outcome) -> Classification:
    """Tell success, refusal, fault, throttling, 410 and the receiver's own wishes apart."""
    plain = _classify_transport(outcome.error) if outcome.status is None else _classify_status(outcome.status)
    wishes = {
        wish.strip().lower() for value in _header_values(outcome, "webhook-delivery") for wish in value.split(",")
    }
    disable = DisabledReason.RECEIVER if "disable" in wishes else None
    if "abort" in wishes:
        return Classification(
            answer=AnswerKind.REFUSAL, error=DeliveryError.RECEIVER, fails_delivery=True, disable=disable
        )
    if disable is not None:
        return msgspec.structs.replace(plain, disable=plain.disable or disable)
    return plain


def decide(
    outcome: Outcome,
    delivery: QueuedDelivery,
    state: EndpointState,
    policy: Policy,
    *,
    now: float,
    sample: float,
    is_probe: bool = True,
    since: Since = Since.NOTHING,
) -> Verdict:
    """Return what becomes of a delivery and its endpoint after `outcome`, which came in at `now`.

    `is_probe` tells the probe of a half-open breaker, or of a pause that has ended, from a request that left before.
    `since` is what was changed after the attempt had begun: the webhook is to be tried at once, as it is now, so what
    is said of it as it was neither counts against it nor holds its queue.
    """
    found = classify(outcome)
    if found.answer is None:
        # It was due; the clock may have been set back since.
        return _verdict(delivery, state, error=found.error, next_attempt_at=min(delivery.next_attempt_at, now))
    if since is Since.MOVED or (since is Since.CHANGED and found.answer is not AnswerKind.THROTTLED):
        return _outdated(found, delivery, state, policy, now, is_moved=since is Since.MOVED)
    if found.answer is AnswerKind.SUCCESS:
        return _succeeded(delivery, breaker.succeeded(state, now, is_probe=is_probe), found.disable, now)
    retry_after = retry_after_seconds(outcome, now) if found.answer is AnswerKind.THROTTLED else None
    straggles = breaker.is_straggler(state, now, is_probe=is_probe)
    delay = backoff_seconds(policy, _step(delivery, state, found.answer, straggles=straggles), sample)
    resume_at = round(now + max(delay, retry_after or 0.0), 3)
    refusals = delivery.refusals + (found.answer is AnswerKind.REFUSAL and not found.fails_delivery)
    endpoint = breaker.after(
        breaker.rested(state, now, most_seconds=_longest_gap_seconds(policy)),
        found.answer,
        now=now,
        threshold=policy.breaker_threshold,
        resume_at=resume_at,
        error=found.error,
        detail=_describe(outcome, retry_after),
        is_probe=is_probe,
    )
    if _is_time_to_warn(endpoint, found.answer, policy, now):
        endpoint = msgspec.structs.replace(endpoint, warned_at=now)
    status = DeliveryStatus.FAILED if found.fails_delivery else _refused(delivery, refusals, policy)
    ended = status is DeliveryStatus.FAILED
    return Verdict(
        error=found.error,
        status=status,
        refusals=refusals,
        backoff_step=delivery.backoff_step + 1,
        next_attempt_at=None if ended else resume_at,
        completed_at=now if ended else None,
        retry_after_seconds=retry_after,
        endpoint=endpoint,
        disable=found.disable or _given_up(endpoint, found.answer, policy, now),
    )


def retry_after_seconds(outcome: Outcome, now: float) -> float | None:
    """Return how many seconds an answer's Retry-After asks to wait, by the answer's own clock where it gives one."""
    return read_retry_after(_header_values(outcome, "retry-after"), _header_values(outcome, "date"), now)


def _classify_transport(error: DeliveryError | None) -> Classification:
    if error is DeliveryError.INTERRUPTED:
        return Classification(answer=None, error=error)
    return Classification(answer=AnswerKind.FAULT, error=error or DeliveryError.PROTOCOL)


def _classify_status(status: int) -> Classification:
    if 200 <= status < 300:
        return Classification(answer=AnswerKind.SUCCESS, error=None)
    if status in REFUSING_STATUSES:
        return Classification(answer=AnswerKind.REFUSAL, error=DeliveryError.REFUSED)
    if status == 410:
        return Classification(
            answer=AnswerKind.REFUSAL, error=DeliveryError.GONE, fails_delivery=True, disable=DisabledReason.GONE
        )
    if status in THROTTLING_STATUSES:
        return Classification(answer=AnswerKind.THROTTLED, error=DeliveryError.THROTTLED)
    if 300 <= status < 400:
        return Classification(answer=AnswerKind.FAULT, error=DeliveryError.REDIRECT)
    if 400 <= status < 500:
        return Classification(answer=AnswerKind.FAULT, error=DeliveryError.HTTP_4XX)
    if 500 <= status < 600:
        return Classification(answer=AnswerKind.FAULT, error=DeliveryError.HTTP_5XX)
    return Classification(answer=AnswerKind.FAULT, error=DeliveryError.PROTOCOL)


def _refused(delivery: QueuedDelivery, refusals: int, policy: Policy) -> DeliveryStatus:
    """Return the status of a delivery that has been refused so often."""
    if refusals >= policy.max_refusals:
        return DeliveryStatus.FAILED
    if policy.ordering is not Ordering.NONE and refusals >= policy.park_after:
        return DeliveryStatus.PARKED
    return delivery.status


def _step(delivery: QueuedDelivery, state: EndpointState, answer: AnswerKind, *, straggles: bool) -> int:
    """Return the step of the back-off: the delivery's own, or the endpoint's where that has failed for longer.

    Without order a fresh delivery is the next probe each time; its own step would never let the delay grow. Requests
    that left together and are all told to slow down make one pause, of one step.
    """
    if answer is AnswerKind.THROTTLED:
        return max(delivery.backoff_step, state.pauses - straggles)
    if answer is AnswerKind.FAULT and state.breaker is BreakerState.HALF_OPEN:
        return max(delivery.backoff_step, state.reopenings + 1)
    return delivery.backoff_step


def _longest_gap_seconds(policy: Policy) -> float:
    """Return how much failing time the gap between two failures may be.

    It takes ten failures to disable a webhook, so each gap is at most a tenth of that time, or the longest delay.
    """
    longest_delay = max(policy.delays) * (1 + policy.jitter) + policy.timeout_seconds
    return max(longest_delay, policy.disable_after_seconds / FAILURES_TO_DISABLE)


def _given_up(endpoint: EndpointState, answer: AnswerKind, policy: Policy, now: float) -> DisabledReason | None:
    """Return `FAILING` once an endpoint has only failed for too long, and not just once or twice in that time."""
    if (
        endpoint.failing_since is None
        or endpoint.failures_since_success < FAILURES_TO_DISABLE
        or answer is AnswerKind.REFUSAL
    ):
        return None
    return DisabledReason.FAILING if now - endpoint.failing_since >= policy.disable_after_seconds else None


def _is_time_to_warn(endpoint: EndpointState, answer: AnswerKind, policy: Policy, now: float) -> bool:
    if endpoint.warned_at is not None or endpoint.failing_since is None or answer is AnswerKind.REFUSAL:
        return False
    return now - endpoint.failing_since >= policy.warn_after_seconds


def _verdict(
    delivery: QueuedDelivery, state: EndpointState, *, error: DeliveryError | None, next_attempt_at: float
) -> Verdict:
    """Return the verdict that leaves delivery and endpoint as they are."""
    return Verdict(
        error=error,
        status=delivery.status,
        refusals=delivery.refusals,
        backoff_step=delivery.backoff_step,
        next_attempt_at=next_attempt_at,
        endpoint=state,
    )


def _succeeded(
    delivery: QueuedDelivery, endpoint: EndpointState, disable: DisabledReason | None, now: float
) -> Verdict:
    return Verdict(
        status=DeliveryStatus.SUCCEEDED,
        refusals=delivery.refusals,
        backoff_step=delivery.backoff_step + 1,
        completed_at=now,
        endpoint=endpoint,
        disable=disable,
    )


def _outdated(
    found: Classification, delivery: QueuedDelivery, state: EndpointState, policy: Policy, now: float, *, is_moved: bool
) -> Verdict:
    """Return the verdict on an attempt that began before a change: what isn't over is due now.

    That it was delivered counts in any case. What the same receiver says of the message itself counts too: a refusal,
    or that it is to be failed. All else, 410 as well, is said of a webhook that is no more.
    """
    if found.answer is AnswerKind.SUCCESS:
        return _succeeded(delivery, state, None, now)
    verdict = msgspec.structs.replace(_verdict(delivery, state, error=found.error, next_attempt_at=now), backoff_step=0)
    if is_moved or found.answer is not AnswerKind.REFUSAL or found.error is DeliveryError.GONE:
        return verdict
    refusals = delivery.refusals + (not found.fails_delivery)
    status = DeliveryStatus.FAILED if found.fails_delivery else _refused(delivery, refusals, policy)
    ended = status is DeliveryStatus.FAILED
    return msgspec.structs.replace(
        verdict,
        status=status,
        refusals=refusals,
        next_attempt_at=None if ended else now,
        completed_at=now if ended else None,
    )


def _describe(outcome: Outcome, retry_after: float | None) -> str:
    if outcome.status is None:
        return outcome.detail
    return f"HTTP {outcome.status}" if retry_after is None else f"HTTP {outcome.status} with Retry-After"


def _header_values(outcome: Outcome, name: str) -> list[str]:
    return [value.strip() for key, value in outcome.headers if key.lower() == name]

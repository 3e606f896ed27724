"""What an answer means and what happens next: one pure decision for every outcome of an attempt.

The rules are those of the contract, "What a response means". `decide` gets all that it needs as arguments, `now` and
the random sample included, so that a table can test every rule.
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
    """The meaning of one outcome; `answer` is None if it says nothing about the endpoint (an interrupted attempt)."""

    answer: AnswerKind | None
    error: DeliveryError | None
    fails_delivery: bool = False
    disable: DisabledReason | None = None


_SUCCESS = Classification(answer=AnswerKind.SUCCESS, error=None)


class Since(Enum):
    """What a user has changed since an attempt began, as far as it forgives something."""

    NOTHING = "nothing"
    CHANGED = "changed"  # not the URL: the receiver is the same
    MOVED = "moved"  # the URL: the answer is that of another receiver


def backoff_seconds(policy: Policy, step: int, sample: float) -> float:
    """Return the delay before attempt `step` + 2, with jitter; `sample` is random, uniform in [0, 1)."""
    delay = policy.delays[min(step, len(policy.delays) - 1)]
    return delay * (1 + policy.jitter * (2 * sample - 1))


def classify(outcome: Outcome) -> Classification:
    """Classify an outcome: success, refusal, fault, throttling, 410, or the directives of `webhook-delivery`."""
    plain = _classify_transport(outcome.error) if outcome.status is None else _classify_status(outcome.status)
    if not (values := _header_values(outcome, "webhook-delivery")):
        return plain
    directives = {directive.strip().lower() for value in values for directive in value.split(",")}
    disable = DisabledReason.RECEIVER if "disable" in directives else None
    if "abort" in directives:
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
    """Return the verdict on a delivery and its endpoint after `outcome`, which came in at `now`.

    `is_probe`: the attempt was the probe of a half-open breaker, or after a pause, and wasn't sent before it. `since`
    is what was changed since the attempt began. A changed webhook is tried at once, so an answer to the webhook before
    the change neither counts against it nor delays its queue.
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
    status, refusals = _refused(found, delivery, policy)
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
    """Return the seconds to wait that a Retry-After asks for, relative to the answer's Date header if it has one."""
    return read_retry_after(_header_values(outcome, "retry-after"), _header_values(outcome, "date"), now)


def _classify_transport(error: DeliveryError | None) -> Classification:
    if error is DeliveryError.INTERRUPTED:
        return Classification(answer=None, error=error)
    return Classification(answer=AnswerKind.FAULT, error=error or DeliveryError.PROTOCOL)


def _classify_status(status: int) -> Classification:
    if 200 <= status < 300:
        return _SUCCESS
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


def _refused(found: Classification, delivery: QueuedDelivery, policy: Policy) -> tuple[DeliveryStatus, int]:
    """Return the status of a delivery after an answer that is no success, and how often it has been refused."""
    refusals = delivery.refusals + (found.answer is AnswerKind.REFUSAL and not found.fails_delivery)
    if found.fails_delivery or refusals >= policy.max_refusals:
        return DeliveryStatus.FAILED, refusals
    if policy.ordering is not Ordering.NONE and refusals >= policy.park_after:
        return DeliveryStatus.PARKED, refusals
    return delivery.status, refusals


def _step(delivery: QueuedDelivery, state: EndpointState, answer: AnswerKind, *, straggles: bool) -> int:
    """Return the step of the back-off: the delivery's own, or the endpoint's if that is higher.

    Without order each probe is another delivery, whose own step would never let the delay grow. Several requests in
    flight that are all answered with 429 or 503 make one pause, of one step.
    """
    if answer is AnswerKind.THROTTLED:
        return max(delivery.backoff_step, state.pauses - straggles)
    if answer is AnswerKind.FAULT and state.breaker is BreakerState.HALF_OPEN:
        return max(delivery.backoff_step, state.reopenings + 1)
    return delivery.backoff_step


def _longest_gap_seconds(policy: Policy) -> float:
    """Return how much of the time between two failures may count as failing time.

    It takes ten failures to disable a webhook, so it is a tenth of `disable_after_seconds`, or the longest delay if
    that is more.
    """
    longest_delay = max(policy.delays) * (1 + policy.jitter) + policy.timeout_seconds
    return max(longest_delay, policy.disable_after_seconds / FAILURES_TO_DISABLE)


def _given_up(endpoint: EndpointState, answer: AnswerKind, policy: Policy, now: float) -> DisabledReason | None:
    """Return `FAILING` if all attempts have failed for too long, and there were at least ten of them."""
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
    """Return the verdict that leaves delivery and endpoint unchanged."""
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
    """Return the verdict on an attempt that began before a change: a delivery that hasn't ended is due now.

    A success always counts. What the same receiver says about the message counts too: a refusal, or an abort. Anything
    else, a 410 included, was said about the webhook before the change.
    """
    if found.answer is AnswerKind.SUCCESS:
        return _succeeded(delivery, state, None, now)
    verdict = msgspec.structs.replace(_verdict(delivery, state, error=found.error, next_attempt_at=now), backoff_step=0)
    if is_moved or found.answer is not AnswerKind.REFUSAL or found.error is DeliveryError.GONE:
        return verdict
    status, refusals = _refused(found, delivery, policy)
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

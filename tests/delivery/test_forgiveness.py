"""What a change by hand means for an endpoint's state, and for the answers to requests in flight. Pure."""

import msgspec
import pytest

from tests.delivery.test_retry import MIDDLE, POLICY, answered
from tests.samples import AT, endpoint, queued_delivery
from webhookd.base.models import (
    BreakerState,
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Outcome,
    SignatureChoice,
    SignatureForm,
)
from webhookd.delivery.policy.breaker import admit
from webhookd.delivery.policy.forgiveness import forgive
from webhookd.delivery.policy.retry import Since, decide

OPEN = EndpointState(
    breaker=BreakerState.OPEN,
    consecutive_faults=7,
    reopenings=2,
    retry_at=AT + 900,
    failing_since=AT - 5000,
    failures_since_success=7,
    warned_at=AT - 100,
    last_failure_at=AT - 1,
    last_error="HTTP 500",
)
PAUSED = EndpointState(pauses=3, paused_until=AT + 60, failing_since=AT - 9, failures_since_success=3)
WELL = EndpointState(last_success_at=AT - 1)
DISABLED = msgspec.structs.replace(endpoint(), is_active=False)
MOVED = msgspec.structs.replace(endpoint(), url="https://elsewhere.example/")
SIGNED_OTHERWISE = msgspec.structs.replace(endpoint(), signature=SignatureChoice(form=SignatureForm.OFF))


@pytest.mark.parametrize(
    ("before", "after", "has_new_secrets"),
    [(endpoint(), MOVED, False), (endpoint(), SIGNED_OTHERWISE, False), (endpoint(), endpoint(), True)],
)
def test_another_place_or_another_proof_forgets_the_outage(
    before: Endpoint, after: Endpoint, *, has_new_secrets: bool
) -> None:
    """After a change of URL, headers, secrets or signatures one request is sent at once."""
    opened = forgive(before, after, OPEN, AT, has_new_secrets=has_new_secrets)
    assert opened is not None
    assert (opened.state.breaker, opened.state.retry_at, opened.state.failing_since) == (
        BreakerState.HALF_OPEN,
        None,
        None,
    )
    assert opened.state.warned_at == OPEN.warned_at  # its end is still to be told
    assert opened.due_at == AT
    paused = forgive(before, after, PAUSED, AT, has_new_secrets=has_new_secrets)
    assert paused is not None
    assert (paused.state.pauses, paused.state.needs_probe) == (0, True)
    assert admit(paused.state, AT - 31_536_000, probing=False) is None  # whatever the clock is set to
    well = forgive(before, after, WELL, AT, has_new_secrets=has_new_secrets)
    assert well is not None
    assert well.state == msgspec.structs.replace(WELL, forgiven=1)


def test_an_endpoint_that_was_disabled_begins_as_after_an_outage() -> None:
    """An enabled endpoint is tried with one request, also if it was healthy: it may have a backlog."""
    enabled = forgive(DISABLED, endpoint(), WELL, AT, has_new_secrets=False)
    assert enabled is not None
    assert enabled.state.needs_probe


def test_what_changes_nothing_that_is_sent_forgives_nothing() -> None:
    """Unchanged values and a disable leave the state unchanged; so does a new URL of a webhook that stays disabled."""
    assert forgive(endpoint(), endpoint(), OPEN, AT, has_new_secrets=False) is None
    assert forgive(endpoint(), DISABLED, OPEN, AT, has_new_secrets=False) is None
    moved = forgive(DISABLED, msgspec.structs.replace(MOVED, is_active=False), OPEN, AT, has_new_secrets=False)
    assert moved is not None
    assert moved.state == msgspec.structs.replace(OPEN, forgiven=1)


ABORT = Outcome(duration_seconds=0.1, status=500, headers=(("webhook-delivery", "abort"),))
TIMEOUT = Outcome(duration_seconds=15.0, error=DeliveryError.TIMEOUT)
SENT_AGAIN = (DeliveryStatus.PENDING, 0, AT)


@pytest.mark.parametrize(
    ("outcome", "moved", "changed"),
    [
        (answered(500), SENT_AGAIN, SENT_AGAIN),
        (TIMEOUT, SENT_AGAIN, SENT_AGAIN),
        (answered(410), SENT_AGAIN, SENT_AGAIN),
        (answered(422), SENT_AGAIN, (DeliveryStatus.PENDING, 1, AT)),
        (ABORT, SENT_AGAIN, (DeliveryStatus.FAILED, 0, None)),
        (answered(200), (DeliveryStatus.SUCCEEDED, 0, None), (DeliveryStatus.SUCCEEDED, 0, None)),
        (answered(429, retry_after="60"), SENT_AGAIN, (DeliveryStatus.PENDING, 0, AT + 60)),
    ],
)
def test_what_was_in_flight_has_little_to_say(
    outcome: Outcome, moved: tuple[object, ...], changed: tuple[object, ...]
) -> None:
    """An answer from before the change doesn't change the state, except a pause that the same receiver asks for."""
    for since, expected in ((Since.MOVED, moved), (Since.CHANGED, changed)):
        verdict = decide(outcome, queued_delivery(), WELL, POLICY, now=AT, sample=MIDDLE, is_probe=False, since=since)
        assert (verdict.status, verdict.refusals, verdict.next_attempt_at) == expected
        assert verdict.disable is None
        assert verdict.backoff_step in {0, 1}
        if expected[2] != AT + 60:
            assert verdict.endpoint == WELL


def test_the_last_refusal_of_the_same_receiver_still_fails() -> None:
    """A refusal that is counted may be the last one allowed."""
    refused_often = msgspec.structs.replace(queued_delivery(), refusals=POLICY.max_refusals - 1)
    for since, status in ((Since.CHANGED, DeliveryStatus.FAILED), (Since.MOVED, DeliveryStatus.PENDING)):
        verdict = decide(answered(422), refused_often, WELL, POLICY, now=AT, sample=MIDDLE, since=since)
        assert verdict.status is status

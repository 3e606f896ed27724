"""What an answer means: the contract's table, line by line, and the back-off."""

from datetime import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linear import calls
from tests.samples import AT, queued_delivery
from webhookd.base.models import (
    BreakerState,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    EndpointState,
    Ordering,
    Outcome,
    Policy,
    PolicyOverrides,
    RetryOverrides,
    Verdict,
)
from webhookd.base.retry_after import parse_date
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy.resolve import resolve
from webhookd.delivery.policy.retry import backoff_seconds, decide, retry_after_seconds

POLICY = resolve(PolicyOverrides(), DeliveryConfig())
MIDDLE = 0.5  # the sample that jitter turns into no change


def answered(status: int, **headers: str) -> Outcome:
    named = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return Outcome(duration_seconds=0.1, status=status, headers=named)


def judged(
    outcome: Outcome,
    *,
    refusals: int = 0,
    backoff_step: int = 0,
    state: EndpointState | None = None,
    policy: Policy = POLICY,
    status: DeliveryStatus = DeliveryStatus.PENDING,
) -> Verdict:
    delivery = msgspec.structs.replace(queued_delivery(), refusals=refusals, backoff_step=backoff_step, status=status)
    return decide(outcome, delivery, state or EndpointState(), policy, now=AT, sample=MIDDLE)


@pytest.mark.parametrize("status", [200, 201, 204, 299])
def test_any_2xx_is_delivered(status: int) -> None:
    """Every 2xx ends the delivery as succeeded and resets the endpoint's failures."""
    verdict = judged(answered(status), state=EndpointState(consecutive_faults=4, failing_since=AT - 9))
    assert verdict.status is DeliveryStatus.SUCCEEDED
    assert verdict.error is None
    assert (verdict.completed_at, verdict.next_attempt_at) == (AT, None)
    assert verdict.endpoint == EndpointState(last_success_at=AT)


@pytest.mark.parametrize("status", [400, 409, 413, 415, 422])
def test_refusals_count_against_the_message_alone(status: int) -> None:
    """The five refusing statuses count a refusal, set the endpoint's faults back to 0 and are retried."""
    verdict = judged(answered(status), state=EndpointState(consecutive_faults=4))
    assert (verdict.status, verdict.error) == (DeliveryStatus.PENDING, DeliveryError.REFUSED)
    assert verdict.refusals == 1
    assert verdict.endpoint.consecutive_faults == 0
    assert verdict.next_attempt_at == AT + 5


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (301, DeliveryError.REDIRECT),
        (304, DeliveryError.REDIRECT),
        (399, DeliveryError.REDIRECT),
        (401, DeliveryError.HTTP_4XX),
        (404, DeliveryError.HTTP_4XX),
        (499, DeliveryError.HTTP_4XX),
        (500, DeliveryError.HTTP_5XX),
        (504, DeliveryError.HTTP_5XX),
        (599, DeliveryError.HTTP_5XX),
        (600, DeliveryError.PROTOCOL),
        (999, DeliveryError.PROTOCOL),
    ],
)
def test_other_statuses_are_the_endpoints_fault(status: int, error: DeliveryError) -> None:
    """Every other status counts toward the breaker, uses up no refusal and is retried."""
    verdict = judged(answered(status))
    assert (verdict.status, verdict.error, verdict.refusals) == (DeliveryStatus.PENDING, error, 0)
    assert verdict.endpoint.consecutive_faults == 1
    assert verdict.endpoint.failing_since == AT


@pytest.mark.parametrize("error", ["timeout", "dns", "connect", "tls", "protocol", "blocked"])
def test_no_answer_is_the_endpoints_fault(error: str) -> None:
    """An error without an answer counts toward the breaker, with its own code."""
    verdict = judged(Outcome(duration_seconds=1.0, error=DeliveryError(error), detail="why"))
    assert (verdict.status, verdict.error) == (DeliveryStatus.PENDING, DeliveryError(error))
    assert (verdict.endpoint.consecutive_faults, verdict.endpoint.last_error) == (1, "why")


def test_interruption_counts_against_nobody() -> None:
    """An interrupted attempt leaves delivery and endpoint unchanged."""
    state = EndpointState(consecutive_faults=2, failing_since=AT - 50)
    verdict = judged(Outcome(duration_seconds=1.0, error=DeliveryError.INTERRUPTED), refusals=2, state=state)
    assert (verdict.status, verdict.refusals, verdict.backoff_step) == (DeliveryStatus.PENDING, 2, 0)
    assert verdict.next_attempt_at == queued_delivery().next_attempt_at
    assert verdict.endpoint == state


def test_gone_fails_the_delivery_and_disables_the_webhook() -> None:
    """A 410 ends the delivery at once and disables the webhook as gone."""
    verdict = judged(answered(410))
    assert (verdict.status, verdict.error, verdict.disable) == (
        DeliveryStatus.FAILED,
        DeliveryError.GONE,
        DisabledReason.GONE,
    )


@pytest.mark.parametrize("status", [429, 503])
def test_throttling_pauses_the_whole_endpoint(status: int) -> None:
    """429 and 503 pause the endpoint until the later of back-off and Retry-After, as neither refusal nor fault."""
    verdict = judged(answered(status, retry_after="120"), state=EndpointState(consecutive_faults=4))
    assert (verdict.status, verdict.error, verdict.refusals) == (DeliveryStatus.PENDING, DeliveryError.THROTTLED, 0)
    assert verdict.endpoint.paused_until == verdict.next_attempt_at == AT + 120
    assert (verdict.endpoint.consecutive_faults, verdict.retry_after_seconds) == (0, 120)
    assert judged(answered(status, retry_after="1")).next_attempt_at == AT + 5, "Retry-After is no shortcut"


def test_retry_after_is_heard_from_throttling_alone() -> None:
    """A 500 with Retry-After follows the plain back-off."""
    assert judged(answered(500, retry_after="3600")).next_attempt_at == AT + 5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("7", 7),
        (" 7 ", 7),
        ("86401", 86400),
        ("9" * 400, 86400),
        ("Wed, 15 Jan 2025 10:31:00 GMT", 60),
        ("Wednesday, 15-Jan-25 10:31:00 GMT", 60),
        ("Wed Jan 15 10:31:00 2025", 60),
        ("Wed, 15 Jan 2020 10:31:00 GMT", 0),
        ("Wed, 15 Jan 2099 10:31:00 GMT", 86400),
        ("-5", None),
        ("+5", None),
        ("1.5", None),
        ("nan", None),
        ("inf", None),
        ("\uff11\uff12", None),
        ("soon", None),
        ("", None),
        ("Wed, 99 Jan 2025 10:31:00 GMT", None),
        ("2025-01-15T10:31:00Z", None),
    ],
)
def test_retry_after_in_all_its_forms(value: str, seconds: float | None) -> None:
    """Seconds and the three HTTP dates are read, capped at a day; garbage is ignored."""
    assert retry_after_seconds(answered(429, retry_after=value), AT) == seconds


@pytest.mark.parametrize(
    ("date", "value", "seconds"),
    [
        # The receiver's clock is ten minutes behind, ahead, years behind, and right.
        ("Wed, 15 Jan 2025 10:20:00 GMT", "Wed, 15 Jan 2025 10:22:00 GMT", 120),
        ("Wed, 15 Jan 2025 10:40:00 GMT", "Wed, 15 Jan 2025 10:42:00 GMT", 120),
        ("Thu, 01 Jan 1970 00:05:00 GMT", "Thu, 01 Jan 1970 00:07:00 GMT", 120),
        ("Wed, 15 Jan 2025 10:30:00 GMT", "Wed, 15 Jan 2025 10:32:00 GMT", 120),
        # Each in one of the forms.
        ("Wednesday, 15-Jan-25 10:20:00 GMT", "Wed Jan 15 10:22:00 2025", 120),
        ("Wed Jan 15 10:20:00 2025", "Wednesday, 15-Jan-25 10:22:00 GMT", 120),
        # Past by its own clock, though not by this one's; and never more than a day.
        ("Wed, 15 Jan 2025 10:40:00 GMT", "Wed, 15 Jan 2025 10:31:00 GMT", 0),
        ("Thu, 01 Jan 1970 00:05:00 GMT", "Wed, 15 Jan 2025 10:31:00 GMT", 86400),
        # A Date that is none leaves this clock: it is 10:30.
        ("soon", "Wed, 15 Jan 2025 10:31:00 GMT", 60),
        ("", "Wed, 15 Jan 2025 10:31:00 GMT", 60),
        ("1736937000", "Wed, 15 Jan 2025 10:31:00 GMT", 60),
        ("Wed, 15 Jan 2025 10:20:00 +0000", "Wed, 15 Jan 2025 10:31:00 GMT", 60),
        ("Wed, 32 Jan 2025 10:20:00 GMT", "Wed, 15 Jan 2025 10:31:00 GMT", 60),
        # Seconds have nothing to do with it.
        ("Wed, 15 Jan 2020 10:20:00 GMT", "7", 7),
    ],
)
def test_a_date_is_held_against_the_answers_own(date: str, value: str, seconds: float) -> None:
    """Retry-After as a date counts from the answer's own Date, and from this clock if it has none."""
    assert retry_after_seconds(answered(429, date=date, retry_after=value), AT) == seconds


def test_a_date_that_is_said_in_two_ways_is_none() -> None:
    """Two Date headers count if they say the same."""
    value = ("retry-after", "Wed, 15 Jan 2025 10:32:00 GMT")
    first, same, other = (
        ("date", said)
        for said in ("Wed, 15 Jan 2025 10:20:00 GMT", "Wed Jan 15 10:20:00 2025", "Wed, 15 Jan 2025 10:21:00 GMT")
    )
    for headers, seconds in (((first, same), 720), ((first, other), 120)):
        outcome = Outcome(duration_seconds=0.1, status=429, headers=(*headers, value))
        assert retry_after_seconds(outcome, AT) == seconds


@pytest.mark.parametrize(
    ("text", "now", "date"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", "2025", "1994-11-06T08:49:37"),  # RFC 9110's own examples
        ("Sunday, 06-Nov-94 08:49:37 GMT", "2025", "1994-11-06T08:49:37"),
        ("Sun Nov  6 08:49:37 1994", "2025", "1994-11-06T08:49:37"),
        ("Sun Nov 6 08:49:37 1994", "2025", "1994-11-06T08:49:37"),
        ("sun, 06 nov 1994 08:49:37 gmt", "2025", "1994-11-06T08:49:37"),
        ("Wed, 5 Jan 2025 10:31:00 GMT", "2025", "2025-01-05T10:31:00"),
        # Two digits: at most 50 years ahead.
        ("Wednesday, 15-Jan-75 10:31:00 GMT", "2025", "2075-01-15T10:31:00"),
        ("Wednesday, 15-Jan-76 10:31:00 GMT", "2025", "1976-01-15T10:31:00"),
        ("Wednesday, 15-Jan-05 10:31:00 GMT", "2090", "2105-01-15T10:31:00"),
        ("Wednesday, 15-Jan-99 10:31:00 GMT", "1999", "1999-01-15T10:31:00"),
        # A leap second is the next minute's first.
        ("Sat, 31 Dec 2016 23:59:60 GMT", "2025", "2017-01-01T00:00:00"),
        ("Sat, 31 Dec 2016 23:59:61 GMT", "2025", None),
        ("Sat, 31 Dec 2016 24:00:00 GMT", "2025", None),
        ("Wed, 29 Feb 2025 10:31:00 GMT", "2025", None),
        ("Wed, 15 Foo 2025 10:31:00 GMT", "2025", None),
        ("Foo, 15 Jan 2025 10:31:00 GMT", "2025", None),
        ("Wed, 15 Jan 0000 10:31:00 GMT", "2025", None),
        ("Wed, 15 Jan 2025 10:31:00 UTC", "2025", None),
        ("Wed, 15 Jan 2025 10:31:00", "2025", None),
        ("Wed,  15 Jan 2025 10:31:00 GMT", "2025", None),
        ("Wed, 15 Jan 2025 10:31 GMT", "2025", None),
        ("Wed, 15-Jan-25 10:31:00 GMT", "2025", None),
        ("Wed, \uff11\uff15 Jan 2025 10:31:00 GMT", "2025", None),
    ],
)
def test_the_dates_of_http(text: str, now: str, date: str | None) -> None:
    """The three forms are read, two digits of a year by RFC 9110's rule, and nothing else is."""
    found = parse_date(text, datetime.fromisoformat(f"{now}-01-15T00:00:00+00:00").timestamp())
    assert found == (None if date is None else datetime.fromisoformat(f"{date}+00:00").timestamp())


def test_of_two_retry_after_headers_the_longer_counts() -> None:
    """Two headers are two floors; one that is garbage is ignored."""
    outcome = Outcome(
        duration_seconds=0.1, status=429, headers=(("Retry-After", "9"), ("retry-after", "x"), ("retry-after", "30"))
    )
    assert retry_after_seconds(outcome, AT) == 30


def test_many_retry_after_headers_are_not_all_read() -> None:
    """Only the first eight of many Retry-After headers count, since parsing a date takes long."""
    later = "Wed, 15 Jan 2025 10:31:00 GMT"
    headers = (("retry-after", "x" * 60_000), *[("retry-after", "7")] * 7, *[("retry-after", later)] * 400)
    outcome = Outcome(duration_seconds=0.1, status=429, headers=headers)
    assert retry_after_seconds(outcome, AT) == 7
    assert calls(lambda: retry_after_seconds(outcome, AT)) < 5 * len(headers)


@pytest.mark.parametrize("status", [200, 400, 500, 503])
def test_receiver_may_abort_a_delivery(status: int) -> None:
    """`webhook-delivery: abort` on any response fails the delivery, and doesn't count as a fault."""
    verdict = judged(answered(status, webhook_delivery=" Abort "), state=EndpointState(consecutive_faults=3))
    assert (verdict.status, verdict.error, verdict.disable) == (DeliveryStatus.FAILED, DeliveryError.RECEIVER, None)
    assert verdict.endpoint.consecutive_faults == 0


@pytest.mark.parametrize(
    ("status", "becomes"),
    [(200, DeliveryStatus.SUCCEEDED), (500, DeliveryStatus.PENDING), (400, DeliveryStatus.PENDING)],
)
def test_receiver_may_disable_its_webhook(status: int, becomes: DeliveryStatus) -> None:
    """`webhook-delivery: disable` disables the webhook; the status decides about the delivery."""
    verdict = judged(answered(status, webhook_delivery="disable"))
    assert (verdict.status, verdict.disable) == (becomes, DisabledReason.RECEIVER)


@pytest.mark.parametrize("values", [("abort, disable",), ("disable", "abort"), ("later", " ABORT ,x, Disable")])
def test_receiver_may_ask_for_both(values: tuple[str, ...]) -> None:
    """Both directives are followed, in one list or in two headers, which mean the same (RFC 9110 5.3)."""
    headers = tuple(("webhook-delivery", value) for value in values)
    verdict = judged(Outcome(duration_seconds=0.1, status=200, headers=headers))
    assert (verdict.status, verdict.disable) == (DeliveryStatus.FAILED, DisabledReason.RECEIVER)


def test_unknown_wishes_of_a_receiver_are_ignored() -> None:
    """A `webhook-delivery` header with another value changes nothing."""
    assert judged(answered(200, webhook_delivery="later")).status is DeliveryStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("ordering", "refusals", "becomes"),
    [
        (Ordering.STRICT, 1, DeliveryStatus.PENDING),
        (Ordering.STRICT, 2, DeliveryStatus.PARKED),
        (Ordering.KEY, 2, DeliveryStatus.PARKED),
        (Ordering.NONE, 2, DeliveryStatus.PENDING),
        (Ordering.STRICT, 9, DeliveryStatus.FAILED),
        (Ordering.NONE, 9, DeliveryStatus.FAILED),
    ],
)
def test_refused_messages_are_parked_in_order_and_fail_in_the_end(
    ordering: Ordering, refusals: int, becomes: DeliveryStatus
) -> None:
    """The third refusal parks a delivery in the ordered modes only; the tenth fails it in all."""
    policy = resolve(PolicyOverrides(ordering=ordering), DeliveryConfig())
    assert judged(answered(400), refusals=refusals, policy=policy).status is becomes


def test_a_parked_delivery_stays_parked_through_faults() -> None:
    """A fault neither unparks a delivery nor counts as a refusal."""
    verdict = judged(answered(500), refusals=3, status=DeliveryStatus.PARKED)
    assert (verdict.status, verdict.refusals) == (DeliveryStatus.PARKED, 3)


def test_back_off_follows_the_schedule_and_repeats_its_last_delay() -> None:
    """Each failure takes the next delay; after the last one it repeats."""
    steps = [judged(answered(500), backoff_step=step).next_attempt_at for step in range(8)]
    assert [at - AT for at in steps if at is not None] == [5, 30, 120, 300, 600, 900, 900, 900]


def test_breaker_opens_after_the_threshold_and_probes_back_off() -> None:
    """The fifth fault opens the circuit; each failed probe, also of a new delivery, makes the wait longer."""
    tripped = judged(answered(500), backoff_step=4, state=EndpointState(consecutive_faults=4))
    assert (tripped.endpoint.breaker, tripped.endpoint.retry_at) == (BreakerState.OPEN, AT + 600)
    probing = EndpointState(breaker=BreakerState.HALF_OPEN, consecutive_faults=7, reopenings=2)
    again = judged(answered(500), state=probing)
    assert (again.endpoint.breaker, again.endpoint.reopenings) == (BreakerState.OPEN, 3)
    assert again.endpoint.retry_at == AT + 300


def test_an_endpoint_that_only_fails_is_disabled_after_its_time() -> None:
    """A webhook is disabled 120 h after its first failure, with at least ten of them; not before."""
    old = EndpointState(failing_since=AT - 432_000, failures_since_success=9)
    assert judged(answered(500), state=old).disable is DisabledReason.FAILING
    assert judged(answered(500), state=msgspec.structs.replace(old, failures_since_success=8)).disable is None
    assert judged(answered(500), state=msgspec.structs.replace(old, failing_since=AT - 431_999)).disable is None
    many = msgspec.structs.replace(old, failures_since_success=20)
    assert judged(answered(400), state=many).disable is None, "a refusal doesn't say that the endpoint fails"


@pytest.mark.parametrize("status", [500, 503, 400])
@pytest.mark.parametrize(("delays", "counted"), [((5.0,), 43_200), ((50_000.0,), 60_015)])
def test_a_rest_counts_no_further_as_failing_than_a_gap_can_be(
    status: int, delays: tuple[float, ...], counted: float
) -> None:
    """After ten days without an attempt at most a tenth of the time to disable counts, or a longer delay."""
    policy = msgspec.structs.replace(POLICY, delays=delays)
    before = EndpointState(failing_since=AT - 900_000, failures_since_success=99, last_failure_at=AT - 864_000)
    verdict = judged(answered(status), state=before, policy=policy)
    assert verdict.disable is None
    assert verdict.endpoint.failing_since == AT - counted - 36_000
    recent = msgspec.structs.replace(before, last_failure_at=AT - counted)
    assert judged(answered(status), state=recent, policy=policy).endpoint.failing_since == AT - 900_000
    paused = msgspec.structs.replace(before, last_failure_at=AT - 86_400, paused_until=AT)
    assert judged(answered(status), state=paused, policy=policy).endpoint.failing_since == AT - 900_000


@given(
    delays=st.lists(st.floats(0.01, 604_800), min_size=1, max_size=50),
    jitter=st.floats(0, 1),
    step=st.integers(0, 10_000),
    sample=st.floats(0, 1, exclude_max=True),
)
def test_jitter_stays_within_its_share(delays: list[float], jitter: float, step: int, sample: float) -> None:
    """A delay is never further from its place in the schedule than the jitter's share, and never negative."""
    overrides = PolicyOverrides(retry=RetryOverrides(delays=tuple(delays), jitter=jitter))
    policy = resolve(overrides, DeliveryConfig())
    plain = delays[min(step, len(delays) - 1)]
    seconds = backoff_seconds(policy, step, sample)
    assert plain * (1 - jitter) - 1e-6 <= seconds <= plain * (1 + jitter) + 1e-6
    assert seconds >= 0

"""Statistics: which row counts what, and how percentiles are computed."""

import pytest

from webhookd.base.models import (
    AttemptRecord,
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Outcome,
    PolicyOverrides,
    QueuedDelivery,
    SignatureChoice,
    Trigger,
)
from webhookd.observe.statistics import HOUR, LATENCIES, MINUTE, QUARTER, SERVER, Counts, Key, RunningStatistics

NOW = 1_700_003_000  # 50 s into a minute, 5 minutes into a quarter, 3 minutes before the hour is over
MIDDLE = NOW // MINUTE * MINUTE


def endpoint(webhook_id: str, organization_id: str | None) -> Endpoint:
    return Endpoint(
        pk=1,
        id=webhook_id,
        url="https://a.example/",
        events=("*",),
        description="",
        is_active=True,
        disabled_reason=None,
        disabled_at=None,
        organization_id=organization_id,
        metadata={},
        overrides=PolicyOverrides(),
        signature=SignatureChoice(),
        header_names=(),
        secret_hint="",
        previous_secret_expires_at=None,
        ed25519_public_key=None,
        created_at=0.0,
        updated_at=0.0,
    )


OURS, UNBOUND = endpoint("wh_ours", "acme"), endpoint("wh_unbound", None)


def attempt(
    at: float,
    *,
    error: DeliveryError | None = None,
    status: DeliveryStatus = DeliveryStatus.SUCCEEDED,
    seconds: float = 0.04,
    answered: bool = True,
) -> AttemptRecord:
    """Return an attempt that ended at that time."""
    return AttemptRecord(
        delivery=QueuedDelivery(
            pk=1,
            id="dlv_1",
            endpoint_pk=1,
            event_pk=1,
            ordering_key=None,
            sequence=1,
            status=DeliveryStatus.PENDING,
            trigger=Trigger.AUTO,
            attempts=0,
            refusals=0,
            backoff_step=0,
            next_attempt_at=at,
            created_at=at,
            expires_at=at + 60,
        ),
        attempt_id="att_1",
        number=1,
        trigger=Trigger.AUTO,
        started_at=at - seconds,
        outcome=Outcome(duration_seconds=seconds, status=200 if answered else None),
        error=error,
        retry_after_seconds=None,
        status=status,
        refusals=0,
        backoff_step=0,
        next_attempt_at=None,
        completed_at=None,
        endpoint=EndpointState(),
    )


def plain(counts: Counts) -> tuple[int, int, int, int]:
    return counts.events, counts.delivered, counts.failures, counts.failed


def test_each_count_goes_to_whom_it_concerns() -> None:
    """An organization has its own events and its webhooks' attempts, the server all, and a webhook an hour."""
    running = RunningStatistics()
    running.accept("acme", NOW)
    running.accept(None, NOW)
    running.attempt(OURS, attempt(NOW))
    running.attempt(UNBOUND, attempt(NOW, error=DeliveryError.HTTP_5XX, status=DeliveryStatus.PENDING))
    running.expire(UNBOUND, NOW)
    rows = running.rows(NOW)
    assert {key: plain(counts) for key, counts in rows.items()} == {
        Key(MINUTE, MIDDLE, SERVER): (2, 1, 1, 1),
        Key(QUARTER, NOW // QUARTER * QUARTER, SERVER): (2, 1, 1, 1),
        Key(MINUTE, MIDDLE, "acme"): (1, 1, 0, 0),
        Key(QUARTER, NOW // QUARTER * QUARTER, "acme"): (1, 1, 0, 0),
        Key(HOUR, NOW // HOUR * HOUR, "wh_ours"): (0, 1, 0, 0),
        Key(HOUR, NOW // HOUR * HOUR, "wh_unbound"): (0, 0, 1, 1),
    }


def test_a_minute_is_that_in_which_the_attempt_ended() -> None:
    """The next minute starts a new row; the quarter and the hour continue."""
    running = RunningStatistics()
    running.attempt(OURS, attempt(MIDDLE + 59.5))
    running.attempt(OURS, attempt(MIDDLE + 60.0))
    rows = running.rows(MIDDLE + 61)
    assert [rows[Key(MINUTE, at, "acme")].delivered for at in (MIDDLE, MIDDLE + 60)] == [1, 1]
    assert rows[Key(HOUR, MIDDLE // HOUR * HOUR, "wh_ours")].delivered == 2


def test_a_clock_that_is_set_back_starts_no_period_anew() -> None:
    """An event with an earlier time is counted in the current minute."""
    running = RunningStatistics()
    running.accept(None, NOW)
    running.accept(None, NOW - 3600)
    assert running.rows(NOW - 3600)[Key(MINUTE, MIDDLE, SERVER)].events == 2


def test_what_was_cut_off_counts_for_nothing() -> None:
    """An interrupted attempt is neither a failure nor a latency; one without an answer has no latency."""
    running = RunningStatistics()
    running.attempt(OURS, attempt(NOW, error=DeliveryError.INTERRUPTED, status=DeliveryStatus.PENDING, answered=False))
    assert running.rows(NOW) == {}
    running.attempt(OURS, attempt(NOW, error=DeliveryError.CONNECT, status=DeliveryStatus.FAILED, answered=False))
    counts = running.rows(NOW)[Key(MINUTE, MIDDLE, "acme")]
    assert (plain(counts), counts.latencies) == ((0, 0, 1, 1), [])
    running.attempt(OURS, attempt(NOW, error=DeliveryError.TIMEOUT, answered=False, seconds=15.0))
    assert running.rows(NOW)[Key(MINUTE, MIDDLE, "acme")].quantile_seconds(0.5) == pytest.approx(12.5)


def test_rows_are_taken_once_and_whole() -> None:
    """`take` returns the changed rows; a current period's next row has its total again."""
    running = RunningStatistics()
    running.accept(None, NOW)
    assert [counts.events for _, counts in running.take(NOW)] == [1, 1]
    assert running.take(NOW) == []
    running.accept(None, NOW + 60)
    taken = running.take(NOW + 60)
    assert [(key.seconds, counts.events) for key, counts in taken] == [(MINUTE, 1), (QUARTER, 2)]
    assert set(running.rows(NOW + QUARTER)) == {key for key, _ in taken}


def test_what_could_not_be_saved_is_saved_next_time() -> None:
    """Rows that are put back are taken again, with what was counted since."""
    running = RunningStatistics()
    running.accept(None, NOW)
    taken = running.take(MIDDLE + 60)
    running.accept(None, MIDDLE + 60)
    running.put_back(taken)
    assert [(key.at, counts.events) for key, counts in running.take(MIDDLE + 60) if key.seconds == MINUTE] == [
        (MIDDLE, 1),
        (MIDDLE + 60, 1),
    ]


def test_a_percentile_lies_within_its_bucket() -> None:
    """Percentiles are interpolated between two bounds; above the last bound they are that bound."""
    counts = Counts()
    assert counts.quantile_seconds(0.5) is None
    for _ in range(10):
        counts.observe(0.15)
    assert counts.quantile_seconds(0.5) == pytest.approx(0.15)
    assert counts.quantile_seconds(1.0) == pytest.approx(0.2)
    counts.observe(0.2)  # a bound is within it
    assert counts.latencies[LATENCIES.index(0.2)] == 11
    for _ in range(89):
        counts.observe(40.0)
    assert counts.quantile_seconds(0.99) == LATENCIES[-1]
    assert counts.quantile_seconds(0.11) == pytest.approx(0.2)

"""Ordinary values of the models, for tests that care about one field of them."""

from webhookd.base.models import (
    AttemptRecord,
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Message,
    Outcome,
    PolicyOverrides,
    QueuedDelivery,
    SignatureChoice,
    Trigger,
)

AT = 1736937000.0


def endpoint() -> Endpoint:
    return Endpoint(
        pk=1,
        id="wh_01JHMVZ3X5N7Q9S1T3V5W7Y9A1",
        url="https://receiver.example/hook",
        events=("user.*",),
        description="",
        is_active=True,
        disabled_reason=None,
        disabled_at=None,
        organization_id=None,
        metadata={},
        overrides=PolicyOverrides(),
        signature=SignatureChoice(),
        header_names=(),
        secret_hint="whsec_…LaSw",
        previous_secret_expires_at=None,
        ed25519_public_key=None,
        created_at=AT,
        updated_at=AT,
    )


def message() -> Message:
    return Message(
        event_id="evt_01JHMVZ3X5N7Q9S1T3V5W7Y9A1",
        type="user.created",
        organization_id=None,
        traceparent=None,
        body=b'{"id":"evt_01JHMVZ3X5N7Q9S1T3V5W7Y9A1","type":"user.created","data":{}}',
    )


def queued_delivery() -> QueuedDelivery:
    return QueuedDelivery(
        pk=1,
        id="dlv_01JHMVZ3X5N7Q9S1T3V5W7Y9A1",
        endpoint_pk=1,
        event_pk=1,
        ordering_key=None,
        sequence=1,
        status=DeliveryStatus.PENDING,
        trigger=Trigger.AUTO,
        attempts=0,
        refusals=0,
        backoff_step=0,
        next_attempt_at=AT,
        created_at=AT,
        expires_at=AT + 259_200,
    )


def attempt_record(
    *,
    status: DeliveryStatus = DeliveryStatus.SUCCEEDED,
    error: DeliveryError | None = None,
    next_attempt_at: float | None = None,
) -> AttemptRecord:
    return AttemptRecord(
        delivery=queued_delivery(),
        attempt_id="att_01JHMVZ3X5N7Q9S1T3V5W7Y9A1",
        number=1,
        trigger=Trigger.AUTO,
        started_at=AT,
        outcome=Outcome(duration_seconds=0.012, remote_address="192.0.2.1", status=200),
        error=error,
        retry_after_seconds=None,
        status=status,
        refusals=0,
        backoff_step=0,
        next_attempt_at=next_attempt_at,
        completed_at=None if next_attempt_at else AT,
        endpoint=EndpointState(),
    )

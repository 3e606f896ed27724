"""Operational events: which ones an attempt causes, and their data. Pure.

They go to webhooks that subscribe to them by name. There is none about the delivery of an operational event.
"""

from collections.abc import Iterator

from webhookd.base.clock import iso
from webhookd.base.event_types import OPERATIONAL_EVENTS, TEST_EVENT, OperationalEvent
from webhookd.base.models import AttemptRecord, DeliveryError, DeliveryStatus, DisabledReason, Endpoint, EndpointState
from webhookd.journal import DeliveryRow

Notice = tuple[OperationalEvent, dict[str, object]]


def after_attempt(
    endpoint: Endpoint, event_id: str, event_type: str, record: AttemptRecord, before: EndpointState
) -> Iterator[Notice]:
    """Yield the operational events that an attempt causes; `before` is the endpoint's state before it."""
    after = record.endpoint
    if before.warned_at is None and after.warned_at is not None:
        failing = {"failingSince": _time(after.failing_since), "attempts": after.failures_since_success}
        yield OperationalEvent.FAILING, _about(endpoint) | failing | {"lastError": after.last_error}
    if before.warned_at is not None and after.warned_at is None:
        yield OperationalEvent.RECOVERED, _about(endpoint) | {"recoveredAt": _time(after.last_success_at)}
    if record.status is DeliveryStatus.FAILED and not is_own(event_type):
        yield (
            OperationalEvent.DELIVERY_FAILED,
            failed(
                endpoint,
                delivery_id=record.delivery.id,
                event_id=event_id,
                event_type=event_type,
                sequence=record.delivery.sequence,
                attempts=record.number,
                error=None if record.error is None else record.error.value,
                response_status=record.outcome.status,
            ),
        )


def disabled(endpoint: Endpoint, reason: DisabledReason, now: float) -> dict[str, object]:
    """Return the data of `webhook.disabled`."""
    return _about(endpoint) | {"disabledReason": reason.value, "disabledAt": iso(now)}


def failed(
    endpoint: Endpoint,
    *,
    delivery_id: str,
    event_id: str,
    event_type: str,
    sequence: int,
    attempts: int,
    error: str | None,
    response_status: int | None,
) -> dict[str, object]:
    """Return the data of `delivery.failed`."""
    return _about(endpoint) | {
        "deliveryId": delivery_id,
        "eventId": event_id,
        "event": event_type,
        "sequence": sequence,
        "attempts": attempts,
        "error": error,
        "responseStatus": response_status,
    }


def of_expired(endpoint: Endpoint, row: DeliveryRow) -> dict[str, object]:
    """Return the data of `delivery.failed` for a delivery that has become too old."""
    return failed(
        endpoint,
        delivery_id=row.id,
        event_id=row.event_id,
        event_type=row.event_type,
        sequence=row.sequence,
        attempts=row.attempts,
        error=DeliveryError.EXPIRED.value,
        response_status=row.response_status,
    )


def is_own(event_type: str) -> bool:
    """Whether events of this type are webhookd's own, which can't be published."""
    return event_type in OPERATIONAL_EVENTS or event_type == TEST_EVENT


def _about(endpoint: Endpoint) -> dict[str, object]:
    return {"webhookId": endpoint.id, "url": endpoint.url, "description": endpoint.description}


def _time(at: float | None) -> str | None:
    return None if at is None else iso(at)

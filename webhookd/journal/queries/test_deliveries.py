"""Storing a test of an endpoint: an event, a delivery outside the line, and its one attempt."""

import msgspec
from peewee import Database

from webhookd.base.models import AcceptedEvent, AttemptRecord
from webhookd.journal.queries import deliveries
from webhookd.journal.queries.schema import AttemptTable, DeliveryTable, EventTable
from webhookd.journal.rows import DeliveryDetail
from webhookd.journal.sqlite.batch import attempt_values


def insert(database: Database, event: AcceptedEvent, record: AttemptRecord) -> DeliveryDetail:
    """Store a test that has been made; its sequence is 0, since it has no place in the line."""
    event_pk = EventTable.insert(msgspec.structs.asdict(event) | {"deliveries": 1}).execute(database)
    delivery = record.delivery
    delivery_pk = DeliveryTable.insert(
        {
            "id": delivery.id,
            "endpoint_pk": delivery.endpoint_pk,
            "event_pk": event_pk,
            "event_type": event.type,
            "sequence": delivery.sequence,
            "status": record.status.value,
            "trigger": record.trigger.value,
            "attempts": record.number,
            "refusals": 0,
            "backoff_step": 0,
            "created_at": delivery.created_at,
            "expires_at": delivery.expires_at,
            "completed_at": record.completed_at,
            "response_status": record.outcome.status,
            "error": None if record.error is None else record.error.value,
            "duration_seconds": record.outcome.duration_seconds,
        }
    ).execute(database)
    stored = msgspec.structs.replace(record, delivery=msgspec.structs.replace(delivery, pk=delivery_pk))
    AttemptTable.insert(attempt_values(stored)).execute(database)
    return deliveries.get(database, delivery.id, None)

"""Storing a test of an endpoint: an event, a delivery outside the queue, and its one attempt."""

import msgspec
from peewee import Database

from webhookd.base.models import AcceptedEvent, AttemptRecord
from webhookd.journal.queries import deliveries, partitioned
from webhookd.journal.queries.schema import DeliveryTable
from webhookd.journal.record_rows import attempt_row
from webhookd.journal.rows import DeliveryDetail


def insert(database: Database, event: AcceptedEvent, record: AttemptRecord) -> DeliveryDetail:
    """Store a finished test; its sequence is 0, because it has no place in the queue."""
    event_pk = partitioned.add_event(database, event, deliveries=1)
    values = msgspec.structs.asdict(record.delivery) | {
        "event_pk": event_pk,
        "event_type": event.type,
        "status": record.status,
        "trigger": record.trigger,
        "attempts": record.number,
        "next_attempt_at": None,
        "completed_at": record.completed_at,
        "response_status": record.outcome.status,
        "error": record.error,
        "duration_seconds": record.outcome.duration_seconds,
    }
    del values["pk"]
    pk = DeliveryTable.insert(values).execute(database)
    stored = msgspec.structs.replace(record, delivery=msgspec.structs.replace(record.delivery, pk=pk))
    partitioned.add_attempt(database, attempt_row(stored), record.delivery.created_at)
    return deliveries.get(database, record.delivery.id, None)

"""Storing a test of an endpoint: an event, a delivery outside the queue, and its one attempt."""

import msgspec
from peewee import Database

from webhookd.base.models import AcceptedEvent, AttemptRecord
from webhookd.journal.queries import deliveries
from webhookd.journal.queries.dialect import statements
from webhookd.journal.queries.schema import DeliveryTable, EventTable
from webhookd.journal.record_rows import ATTEMPT_COLUMNS, attempt_row
from webhookd.journal.rows import DeliveryDetail

_INSERT_ATTEMPT = (
    f"INSERT INTO attempts ({', '.join(ATTEMPT_COLUMNS)}) "  # noqa: S608 - of names in the code alone
    f"VALUES ({', '.join('?' * len(ATTEMPT_COLUMNS))})"
)


def insert(database: Database, event: AcceptedEvent, record: AttemptRecord) -> DeliveryDetail:
    """Store a finished test; its sequence is 0, because it has no place in the queue."""
    event_pk = EventTable.insert(msgspec.structs.asdict(event) | {"deliveries": 1}).execute(database)
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
    statements(database).execute(_INSERT_ATTEMPT, attempt_row(stored))
    return deliveries.get(database, record.delivery.id, None)

"""Queries on the catalogue of event types, whose size is bounded: the API's description and forms contain all of it."""

import msgspec
from peewee import Database

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal.queries.locks import take_turn
from webhookd.journal.queries.schema import EventTypeTable
from webhookd.journal.queries.structs import Rows
from webhookd.journal.rows import EventTypeCondition, EventTypeRow, RowPage

MOST_TYPES = 1000
MOST_BYTES = 4 * 1024 * 1024

_SIZE = """
SELECT count(*), coalesce(sum(octet_length(description) + coalesce(octet_length(schema_json), 0)
    + coalesce(octet_length(example_json), 0)), 0) FROM event_types
"""
_ROWS = Rows(EventTypeRow, EventTypeTable)


def all(database: Database) -> list[EventTypeRow]:  # noqa: A001 - reads as event_types.all
    """Return the whole catalogue, by name."""
    return _ROWS.all(database, _ROWS.select().order_by(EventTypeTable.name))


def page(database: Database, *, limit: int, cursor: str | None) -> RowPage[EventTypeRow]:
    """Return a page of the catalogue, by name; raises Rejected INVALID_CURSOR."""
    query = _ROWS.select()
    name = EventTypeTable.name
    return _ROWS.page(database, query, name, limit=limit, list_name="event-types", cursor=cursor, kind=tuple[str])


def find(database: Database, name: str) -> EventTypeRow | None:
    """Return an event type, or None if the catalogue doesn't have it."""
    return _ROWS.find(database, _ROWS.select().where(EventTypeTable.name == name))


def put(
    database: Database, row: EventTypeRow, now: float, *, condition: EventTypeCondition | None = None
) -> EventTypeRow:
    """Add an event type to the catalogue, or replace it; raises what `condition` raises.

    Raises Rejected QUOTA_EXCEEDED for what would make the catalogue larger than it may be.
    """
    take_turn(database)
    before = find(database, row.name)
    if condition is not None:
        condition(before)
    _check_room(database, before, row)
    values = msgspec.structs.asdict(row) | {"updated_at": now}
    if before is None:
        EventTypeTable.insert(values | {"created_at": now}).execute(database)
    else:
        EventTypeTable.update(values).where(EventTypeTable.name == row.name).execute(database)
    return row


def delete(database: Database, name: str, *, condition: EventTypeCondition | None = None) -> None:
    """Delete an event type from the catalogue; raises Rejected NOT_FOUND, or what `condition` raises."""
    take_turn(database)
    before = find(database, name)
    if condition is not None and before is not None:
        condition(before)
    if not EventTypeTable.delete().where(EventTypeTable.name == name).execute(database):
        raise Rejected(ErrorCode.NOT_FOUND, f"the catalogue has no event type {name}")


def _check_room(database: Database, before: EventTypeRow | None, row: EventTypeRow) -> None:
    """Raise Rejected QUOTA_EXCEEDED if a change makes the catalogue larger, and then larger than it may be."""
    [(names, held)] = database.execute_sql(_SIZE).fetchall()
    if before is None and names >= MOST_TYPES:
        raise Rejected(
            ErrorCode.QUOTA_EXCEEDED,
            f"the catalogue has {names} event types, and at most {MOST_TYPES} are accepted: delete one that isn't used",
        )
    grown = _bytes(row) - (0 if before is None else _bytes(before))
    if grown > 0 and held + grown > MOST_BYTES:
        raise Rejected(
            ErrorCode.QUOTA_EXCEEDED,
            f"the descriptions, schemas and examples of the catalogue would have {held + grown} bytes, and at most "
            f"{MOST_BYTES} are accepted: make this one shorter by {held + grown - MOST_BYTES}, or another",
        )


def _bytes(row: EventTypeRow) -> int:
    return sum(len(text.encode()) for text in (row.description, row.schema_json, row.example_json) if text is not None)

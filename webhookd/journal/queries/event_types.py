"""Queries on the catalogue of event types, which is bounded: all of it is in the API's description and in forms."""

from collections.abc import Sequence

from peewee import Database

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal import cursors
from webhookd.journal.queries.schema import EventTypeTable
from webhookd.journal.rows import EventTypeCondition, EventTypeRow, RowPage, row_of

MOST_TYPES = 1000
MOST_BYTES = 4 * 1024 * 1024

_LIST = "event-types"
_SIZE = """
SELECT count(*), coalesce(sum(octet_length(description) + coalesce(octet_length(schema_json), 0)
    + coalesce(octet_length(example_json), 0)), 0) FROM event_types
"""
_COLUMNS = [getattr(EventTypeTable, name) for name in EventTypeRow.__struct_fields__]


def all(database: Database) -> list[EventTypeRow]:  # noqa: A001 - reads as event_types.all
    """Return the whole catalogue, by name."""
    query = EventTypeTable.select(*_COLUMNS).order_by(EventTypeTable.name)
    return [_row(row) for row in query.tuples().execute(database)]


def page(database: Database, *, limit: int, cursor: str | None) -> RowPage[EventTypeRow]:
    """Return a part of the catalogue, by name; Rejected INVALID_CURSOR."""
    query = EventTypeTable.select(*_COLUMNS).order_by(EventTypeTable.name).limit(limit + 1)
    if cursor is not None:
        query = query.where(EventTypeTable.name > cursors.decode(cursor, _LIST, tuple[str])[0])
    found = [_row(row) for row in query.tuples().execute(database)]
    return cursors.page(found, limit, _LIST, lambda row: [row.name])


def find(database: Database, name: str) -> EventTypeRow | None:
    """Return an event type, None where the catalogue doesn't have it."""
    query = EventTypeTable.select(*_COLUMNS).where(EventTypeTable.name == name)
    return next((_row(row) for row in list(query.tuples().execute(database))), None)


def put(
    database: Database, row: EventTypeRow, now: float, *, condition: EventTypeCondition | None = None
) -> EventTypeRow:
    """Add a name to the catalogue, or replace what is said of it; Rejected where `condition` raises it.

    Rejected QUOTA_EXCEEDED for what would make the catalogue larger than it may be.
    """
    before = find(database, row.name)
    if condition is not None:
        condition(before)
    _check_room(database, before, row)
    said: dict[str, object] = {name: getattr(row, name) for name in EventTypeRow.__struct_fields__}
    if before is None:
        EventTypeTable.insert(said | {"created_at": now, "updated_at": now}).execute(database)
    else:
        EventTypeTable.update(said | {"updated_at": now}).where(EventTypeTable.name == row.name).execute(database)
    return row


def delete(database: Database, name: str, *, condition: EventTypeCondition | None = None) -> None:
    """Take a name out of the catalogue; Rejected NOT_FOUND, or where `condition` raises it."""
    before = find(database, name)
    if condition is not None and before is not None:
        condition(before)
    if not EventTypeTable.delete().where(EventTypeTable.name == name).execute(database):
        raise Rejected(ErrorCode.NOT_FOUND, f"the catalogue has no event type {name}")


def _check_room(database: Database, before: EventTypeRow | None, row: EventTypeRow) -> None:
    """Raise Rejected QUOTA_EXCEEDED where a change makes the catalogue larger, and larger than it may be."""
    [(names, held)] = database.execute_sql(_SIZE).fetchall()
    if before is None and names >= MOST_TYPES:
        raise Rejected(
            ErrorCode.QUOTA_EXCEEDED,
            f"the catalogue has {names} event types, and at most {MOST_TYPES} are taken: delete one that isn't used",
        )
    grown = _bytes(row) - (0 if before is None else _bytes(before))
    if grown > 0 and held + grown > MOST_BYTES:
        raise Rejected(
            ErrorCode.QUOTA_EXCEEDED,
            f"the descriptions, schemas and examples of the catalogue would have {held + grown} bytes, and at most "
            f"{MOST_BYTES} are taken: make this one shorter by {held + grown - MOST_BYTES}, or another",
        )


def _bytes(row: EventTypeRow) -> int:
    return sum(len(text.encode()) for text in (row.description, row.schema_json, row.example_json) if text is not None)


def _row(row: Sequence[object]) -> EventTypeRow:
    *said, deprecated = row
    return row_of(EventTypeRow, (*said, bool(deprecated)))

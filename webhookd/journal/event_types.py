"""Queries on the catalogue of event types."""

from collections.abc import Callable, Sequence

from peewee import Database

from webhookd.errors import ErrorCode, Rejected
from webhookd.journal.rows import EventTypeRow, row_of
from webhookd.journal.schema import EventTypeTable

Condition = Callable[[EventTypeRow | None], None]
"""Raises a Rejected where an event type, as it is, isn't to be changed; None: the catalogue doesn't have it yet."""

_COLUMNS = [getattr(EventTypeTable, name) for name in EventTypeRow.__struct_fields__]


def all(database: Database) -> list[EventTypeRow]:  # noqa: A001 - reads as event_types.all
    """Return the whole catalogue, by name."""
    query = EventTypeTable.select(*_COLUMNS).order_by(EventTypeTable.name)
    return [_row(row) for row in query.tuples().execute(database)]


def put(database: Database, row: EventTypeRow, now: float, *, condition: Condition | None = None) -> EventTypeRow:
    """Add a name to the catalogue, or replace what is said of it; Rejected where `condition` raises it."""
    if condition is not None:
        condition(_find(database, row.name))
    said: dict[str, object] = {name: getattr(row, name) for name in EventTypeRow.__struct_fields__}
    changed = EventTypeTable.update(said | {"updated_at": now}).where(EventTypeTable.name == row.name).execute(database)
    if not changed:
        EventTypeTable.insert(said | {"created_at": now, "updated_at": now}).execute(database)
    return row


def delete(database: Database, name: str, *, condition: Condition | None = None) -> None:
    """Take a name out of the catalogue; Rejected NOT_FOUND, or where `condition` raises it."""
    before = _find(database, name)
    if condition is not None and before is not None:
        condition(before)
    if not EventTypeTable.delete().where(EventTypeTable.name == name).execute(database):
        raise Rejected(ErrorCode.NOT_FOUND, f"the catalogue has no event type {name}")


def _find(database: Database, name: str) -> EventTypeRow | None:
    query = EventTypeTable.select(*_COLUMNS).where(EventTypeTable.name == name)
    return next((_row(row) for row in list(query.tuples().execute(database))), None)


def _row(row: Sequence[object]) -> EventTypeRow:
    *said, deprecated = row
    return row_of(EventTypeRow, (*said, bool(deprecated)))

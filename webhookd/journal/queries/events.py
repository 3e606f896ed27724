"""Queries on events: the feed in the order of commits, one event, and what is sent of it."""

from collections.abc import Collection, Sequence

import msgspec
from peewee import SQL, Database, Query

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Message
from webhookd.journal import cursors
from webhookd.journal.queries.bulk import SqlConnection, sql_of
from webhookd.journal.queries.schema import EventTable
from webhookd.journal.rows import EventRow, RowPage, row_of

_LIST = "events"
_COLUMNS = [getattr(EventTable, name) for name in EventRow.__struct_fields__]

_MESSAGE_COLUMNS = [
    getattr(EventTable, name) for name in ("pk", "id", "type", "organization_id", "traceparent", "body")
]
MESSAGES = sql_of(
    EventTable.select(*_MESSAGE_COLUMNS).where(EventTable.pk.in_(SQL("(SELECT value FROM json_each(:event_pks))")))
)


def page(
    database: Database, organization_id: str | None, *, limit: int, cursor: str | None, after: str | None
) -> RowPage[EventRow]:
    """Return a part of the feed, oldest first, in the order of commits; of one organization where one is given.

    `after` is the id of the last event seen, or a cursor: whoever goes on from there skips nothing. Raises Rejected
    INVALID_CURSOR, for an event that is no longer kept as well.
    """
    query = _visible(organization_id).order_by(EventTable.pk).limit(limit + 1)
    if cursor is not None:
        query = query.where(EventTable.pk > cursors.decode(cursor, _LIST, tuple[cursors.Number])[0])
    if after is not None:
        query = query.where(EventTable.pk > _position(database, after, organization_id))
    found = [_event(row) for row in query.tuples().execute(database)]
    return cursors.page(found, limit, _LIST, lambda row: [row.pk])


def get(database: Database, event_id: str, organization_id: str | None) -> EventRow:
    """Return an event; Rejected NOT_FOUND where there is none, or for another organization than the one given."""
    for row in list(_visible(organization_id).where(EventTable.id == event_id).tuples().execute(database)):
        return _event(row)
    raise Rejected(ErrorCode.NOT_FOUND, f"there is no event {event_id}")


def message(database: Database, event_pk: int) -> Message:
    """Return what an attempt sends of an event."""
    return messages(database, [event_pk])[event_pk]


def messages(database: Database, event_pks: Collection[int], max_bytes: int | None = None) -> dict[int, Message]:
    """Return what attempts send of events, by row number, up to `max_bytes` of bodies."""
    found: dict[int, Message] = {}
    left = max_bytes
    connection: SqlConnection = database.connection()
    asked = {"event_pks": msgspec.json.encode(sorted(event_pks)).decode()}
    for pk, event_id, event_type, organization_id, traceparent, body in connection.execute(MESSAGES, asked):
        if left is not None:
            left -= len(body)
            if left < 0:
                break
        found[pk] = Message(
            event_id=event_id,
            type=event_type,
            organization_id=organization_id,
            traceparent=traceparent,
            body=body,
        )
    return found


def _position(database: Database, after: str, organization_id: str | None) -> int:
    if after.startswith(cursors.PREFIX):
        return cursors.decode(after, _LIST, tuple[cursors.Number])[0]
    try:
        return get(database, after, organization_id).pk
    except Rejected as error:
        raise Rejected(
            ErrorCode.INVALID_CURSOR,
            f"there is no event {after} to go on after; it may have been removed by age: start again without it",
        ) from error


def _visible(organization_id: str | None) -> Query:
    query = EventTable.select(*_COLUMNS)
    return query if organization_id is None else query.where(EventTable.organization_id == organization_id)


def _event(row: Sequence[object]) -> EventRow:
    return row_of(EventRow, row)

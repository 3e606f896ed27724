"""Queries on events: the feed in the order of commits, one event, and the messages that attempts send.

On SQLite the numbers of events are in the order of commits. On PostgreSQL several publishers commit at the same time,
and one that was given a lower number may commit later. There the feed is in the order of the numbers of transactions,
below the oldest one that is open: all that is below has ended, so nothing is added there later. `era` counts the moves
of the database to another cluster, where transactions are numbered from another start.

The bodies are in other tables there, and are read after the events, whose times say where (see `partitioned`).
"""

from collections.abc import Collection, Iterable

import msgspec
from peewee import SQL, Database

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Message
from webhookd.journal import cursors
from webhookd.journal.queries import partitioned
from webhookd.journal.queries.dialect import EngineSQL, SqlRow, is_postgres, listed, members, statements, written
from webhookd.journal.queries.schema import EventTable
from webhookd.journal.queries.structs import Rows, narrowed
from webhookd.journal.rows import EventRow, RowPage

_ROWS = Rows(EventRow, EventTable)

_LIST = "events"
# The columns of PostgreSQL alone, and what is compared with them.
_PLACE = SQL("era"), SQL("CAST(CAST(xid AS text) AS bigint)").alias("transaction")
_ORDER = SQL("era"), SQL("xid"), SQL('"t1"."pk"')
_IS_LATER = '(era, xid, "t1"."pk") > (%s, CAST(CAST(%s AS text) AS xid8), %s)'
_IS_SETTLED = (
    "(era, xid) < ((SELECT CAST(convert_from(value, 'UTF8') AS bigint) FROM meta WHERE name = 'era'), "
    "pg_snapshot_xmin(pg_current_snapshot()))"
)
_IS_MOVED = "SELECT convert_from(value, 'UTF8') <> '0' FROM meta WHERE name = 'era'"
_MESSAGES = Rows(Message, EventTable, event_id=EventTable.id)
_WHOLE_MESSAGES = written(
    EventTable.select(EventTable.pk, *_MESSAGES.columns).where(EventTable.pk.in_(members("event_pks", "bigint")))
)
MESSAGES = EngineSQL(
    sqlite=_WHOLE_MESSAGES.sqlite,
    postgres="SELECT pk, accepted_at, body_bytes, id, type, organization_id, traceparent FROM events "
    "WHERE pk = ANY(CAST(:event_pks AS bigint[])) ORDER BY pk",
)
"""What attempts send of events; on PostgreSQL without the bodies, but with what is needed to read them."""


def page(
    database: Database, organization_id: str | None, *, limit: int, cursor: str | None, after: str | None
) -> RowPage[EventRow]:
    """Return a page of the feed, oldest first, in the order of commits; of one organization if it is given.

    `after` is the id of the last event seen, or a cursor: a client that continues there skips nothing. Raises Rejected
    INVALID_CURSOR, also for an event that retention has deleted.
    """
    if is_postgres(database):
        return _page_by_transaction(database, organization_id, limit=limit, cursor=cursor, after=after)
    query = narrowed(_ROWS.select(), (EventTable.organization_id, organization_id))
    if after is not None:
        query = query.where(EventTable.pk > _position(database, after, organization_id))
    return _ROWS.page(database, query, EventTable.pk, limit=limit, list_name=_LIST, cursor=cursor)


def get(database: Database, event_id: str, organization_id: str | None) -> EventRow:
    """Return an event; raises Rejected NOT_FOUND, also for another organization's event if one is given."""
    query = narrowed(
        partitioned.select_events(database), (EventTable.id, event_id), (EventTable.organization_id, organization_id)
    )
    found = partitioned.events(database, list(query.dicts().execute(database)))
    if not found:
        raise Rejected(ErrorCode.NOT_FOUND, f"there is no event {event_id}")
    return found[0]


def message(database: Database, event_pk: int) -> Message:
    """Return what an attempt sends of an event."""
    return messages(database, [event_pk])[event_pk]


def messages(database: Database, event_pks: Collection[int], max_bytes: int | None = None) -> dict[int, Message]:
    """Return what attempts send of events, by row number, up to `max_bytes` of bodies."""
    found: dict[int, Message] = {}
    left = max_bytes
    parameters = {"event_pks": listed(database, sorted(event_pks))}
    read = statements(database).execute(MESSAGES.on(database), parameters)
    if is_postgres(database):
        return _messages(database, read, max_bytes)
    for row in read:
        message = msgspec.convert(row[1:], Message)
        if left is not None:
            left -= len(message.body)
            if left < 0:
                break
        found[row[0]] = message
    return found


def _page_by_transaction(
    database: Database, organization_id: str | None, *, limit: int, cursor: str | None, after: str | None
) -> RowPage[EventRow]:
    query = partitioned.select_events(database, *_PLACE)
    query = narrowed(query, (EventTable.organization_id, organization_id))
    query = query.where(SQL(_IS_SETTLED))
    if after is not None:
        place = _place(database, after, organization_id)
        query = query.where(SQL(_IS_LATER, place))
    if cursor is not None:
        query = query.where(SQL(_IS_LATER, _decode(database, cursor)))
    found = list(query.order_by(*_ORDER).limit(limit + 1).dicts().execute(database))
    places = {row["pk"]: [row["era"], row["transaction"], row["pk"]] for row in found}
    return cursors.page(partitioned.events(database, found), limit, _LIST, lambda row: places[row.pk])


def _messages(database: Database, read: Iterable[SqlRow], max_bytes: int | None) -> dict[int, Message]:
    """Return the messages of events, up to `max_bytes` of bodies, of which no others are read."""
    chosen: dict[int, SqlRow] = {}
    total = 0
    for pk, accepted_at, size, *facts in read:
        total += size
        if max_bytes is not None and total > max_bytes:
            break
        chosen[pk] = (accepted_at, *facts)
    bodies = partitioned.bodies(database, {pk: row[0] for pk, row in chosen.items()})
    return {pk: msgspec.convert((*chosen[pk][1:], body), Message) for pk, body in bodies.items()}


def _place(database: Database, after: str, organization_id: str | None) -> tuple[int, int, int]:
    if after.startswith(cursors.PREFIX):
        return _decode(database, after)
    pk = _position(database, after, organization_id)
    [place] = EventTable.select(*_PLACE, EventTable.pk).where(EventTable.pk == pk).tuples().execute(database)
    return (place[0], place[1], pk)


def _position(database: Database, after: str, organization_id: str | None) -> int:
    if after.startswith(cursors.PREFIX):
        return cursors.decode(after, _LIST, tuple[cursors.Number])[0]
    try:
        return get(database, after, organization_id).pk
    except Rejected as error:
        raise Rejected(
            ErrorCode.INVALID_CURSOR,
            f"there is no event {after} to continue after; it may have been deleted by retention: start again without "
            "a cursor",
        ) from error


def _decode(database: Database, cursor: str) -> tuple[int, int, int]:
    """Return the place of a cursor; one of a file is a number alone, and what was moved from there is of era 0."""
    try:
        return cursors.decode(cursor, _LIST, tuple[cursors.Number, cursors.Number, cursors.Number])
    except Rejected:
        [pk] = cursors.decode(cursor, _LIST, tuple[cursors.Number])
        if not database.execute_sql(_IS_MOVED).fetchone()[0]:
            raise
        return (0, 0, pk)

"""Search for events by type, time and organization, or by the start of an id.

There is no index by type, because every publish would pay for it. So a page looks at a bounded number of events, newest
first, and reports where it stopped: its cost doesn't depend on how rare the type is.

On SQLite newest first is by row number. On PostgreSQL it is by time: a node that couldn't reach the database for a
while commits events that it accepted long before, under later numbers.
"""

from collections.abc import Callable, Iterable, Sequence
from math import inf
from typing import NamedTuple

from peewee import Database

from webhookd.journal import cursors
from webhookd.journal.queries import partitioned
from webhookd.journal.queries.dialect import SqlRow, is_postgres, statements
from webhookd.journal.queries.schema import EventTable
from webhookd.journal.rows import EventRow, FoundEvents

LOOKED_AT = 10_000
# Row numbers and times of acceptance may differ in order, within a commit or after a small step of the clock.
_MARGIN_SECONDS = 60.0
_LIST = "search"

_FIRST_FROM = "SELECT pk FROM events WHERE accepted_at >= ? ORDER BY accepted_at LIMIT 1"
_LAST_BEFORE = "SELECT pk FROM events WHERE accepted_at < ? ORDER BY accepted_at DESC LIMIT 1"
_NEWEST = "SELECT pk, type, accepted_at FROM events WHERE pk < ? AND pk >= ? ORDER BY pk DESC LIMIT ?"
_NEWEST_OF_ONE = (
    "SELECT pk, type, accepted_at FROM events WHERE organization_id = ? AND pk < ? AND pk >= ? ORDER BY pk DESC LIMIT ?"
)
_BY_TIME = (
    "SELECT pk, type, accepted_at FROM events WHERE (accepted_at, pk) < (:at, :pk) AND accepted_at >= :since "
    "ORDER BY accepted_at DESC, pk DESC LIMIT :most"
)
_BY_TIME_OF_ONE = _BY_TIME.replace("WHERE", "WHERE organization_id = :organization_id AND")
_BY_ID = "SELECT pk, organization_id FROM events WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
_PAST_ALL = 2**62
# The greatest character of an id is `z`.
_AFTER_IDS = "~"


class _Asked(NamedTuple):
    """The range of a search, the number of events to look at, and where a page begins."""

    organization_id: str | None
    since: float | None
    until: float | None
    most: int
    cursor: str | None


def search(
    database: Database,
    organization_id: str | None,
    *,
    pattern: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int,
    cursor: str | None = None,
    looked_at: int = LOOKED_AT,
) -> FoundEvents:
    """Return a page of the events that match, newest first, after a look at 10,000 events at most.

    `pattern` is a name, `user.*` or `*`, as for webhooks. `since` is inclusive, `until` is not. Raises Rejected
    INVALID_CURSOR.
    """
    by_time = is_postgres(database)
    find = _newest_by_time if by_time else _newest_by_number
    matches = _matching(pattern)
    chosen: list[SqlRow] = []
    looked, last = 0, (0, "", 0.0)
    asked = _Asked(organization_id, since, until, looked_at, cursor)
    for pk, event_type, at in find(database, asked):
        looked, last = looked + 1, (pk, event_type, at)
        if (since is None or at >= since) and (until is None or at < until) and matches(event_type):
            chosen.append(last)
            if len(chosen) > limit:
                break
    items = _rows(database, [pk for pk, *_ in chosen[:limit]], by_time=by_time)
    if len(chosen) > limit:
        return FoundEvents(items=items, next_cursor=_cursor(chosen[limit - 1], by_time=by_time), looked_back_to=None)
    if looked == looked_at:
        return FoundEvents(items=items, next_cursor=_cursor(last, by_time=by_time), looked_back_to=last[2])
    return FoundEvents(items=items, next_cursor=None, looked_back_to=None)


def by_id(database: Database, organization_id: str | None, start: str, limit: int) -> list[EventRow]:
    """Return the first events by id whose ids begin with `start`; of one organization if it is given.

    It looks at 10,000 events at most.
    """
    rows = statements(database).execute(_BY_ID, (start, start + _AFTER_IDS, LOOKED_AT))
    chosen: list[int] = []
    for pk, owner in rows:
        if organization_id in {None, owner}:
            chosen.append(pk)
            if len(chosen) == limit:
                break
    return sorted(_rows(database, chosen), key=lambda row: row.id)


def _cursor(row: SqlRow, *, by_time: bool) -> str:
    pk, _, at = row
    return cursors.encode(_LIST, [at, pk] if by_time else [pk])


def _newest_by_time(database: Database, asked: _Asked) -> Iterable[SqlRow]:
    organization_id, since, until, most, cursor = asked
    at, pk = (inf, 0) if cursor is None else cursors.decode(cursor, _LIST, tuple[float, cursors.Number])
    if until is not None and until < at:
        at, pk = until, 0
    values = {"organization_id": organization_id, "at": at, "pk": pk, "since": since or 0.0, "most": most}
    return statements(database).execute(_BY_TIME if organization_id is None else _BY_TIME_OF_ONE, values)


def _newest_by_number(database: Database, asked: _Asked) -> Iterable[SqlRow]:
    organization_id, since, until, most, cursor = asked
    before = _PAST_ALL if cursor is None else cursors.decode(cursor, _LIST, tuple[cursors.Number])[0]
    if until is not None:
        before = min(before, 1 + _number(database, _LAST_BEFORE, until + _MARGIN_SECONDS, 0))
    first = 0 if since is None else _number(database, _FIRST_FROM, since - _MARGIN_SECONDS, _PAST_ALL)
    if organization_id is None:
        return statements(database).execute(_NEWEST, (before, first, most))
    return statements(database).execute(_NEWEST_OF_ONE, (organization_id, before, first, most))


def _matching(pattern: str | None) -> Callable[[str], bool]:
    if pattern is None or pattern == "*":
        return lambda _: True
    if pattern.endswith(".*"):
        start = pattern.removesuffix("*")
        return lambda name: name.startswith(start)
    return lambda name: name == pattern


def _number(database: Database, sql: str, at: float, default: int) -> int:
    [found] = [*statements(database).execute(sql, (at,))] or [(default,)]
    return int(found[0])


def _rows(database: Database, pks: Sequence[int], *, by_time: bool = False) -> list[EventRow]:
    order = (EventTable.accepted_at.desc(), EventTable.pk.desc()) if by_time else (EventTable.pk.desc(),)
    query = partitioned.select_events(database).where(EventTable.pk.in_(pks)).order_by(*order)
    return partitioned.events(database, list(query.dicts().execute(database)))

"""Search for events by type, time and organization, or by the start of an id.

There is no index by type, because every publish would pay for it. So a page looks at a bounded number of events, newest
first, and reports where it stopped: its cost doesn't depend on how rare the type is.
"""

from collections.abc import Callable, Iterable, Sequence

from peewee import Database

from webhookd.journal import cursors
from webhookd.journal.queries.dialect import SqlRow, statements
from webhookd.journal.queries.events import ROWS
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
_BY_ID = "SELECT pk, organization_id FROM events WHERE id >= ? AND id < ? ORDER BY id LIMIT ?"
_PAST_ALL = 2**62
# The greatest character of an id is `z`.
_AFTER_IDS = "~"


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
    before = _PAST_ALL if cursor is None else cursors.decode(cursor, _LIST, tuple[cursors.Number])[0]
    if until is not None:
        before = min(before, 1 + _number(database, _LAST_BEFORE, until + _MARGIN_SECONDS, 0))
    first = 0 if since is None else _number(database, _FIRST_FROM, since - _MARGIN_SECONDS, _PAST_ALL)
    matches = _matching(pattern)
    chosen: list[int] = []
    looked, last, last_at = 0, 0, 0.0
    for pk, event_type, at in _newest(database, organization_id, before, first, looked_at):
        looked, last, last_at = looked + 1, pk, at
        if (since is None or at >= since) and (until is None or at < until) and matches(event_type):
            chosen.append(pk)
            if len(chosen) > limit:
                break
    items = _rows(database, chosen[:limit])
    if len(chosen) > limit:
        return FoundEvents(items=items, next_cursor=cursors.encode(_LIST, [chosen[limit - 1]]), looked_back_to=None)
    if looked == looked_at:
        return FoundEvents(items=items, next_cursor=cursors.encode(_LIST, [last]), looked_back_to=last_at)
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


def _newest(database: Database, organization_id: str | None, before: int, first: int, most: int) -> Iterable[SqlRow]:
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


def _rows(database: Database, pks: Sequence[int]) -> list[EventRow]:
    return ROWS.all(database, ROWS.select().where(EventTable.pk.in_(pks)).order_by(EventTable.pk.desc()))

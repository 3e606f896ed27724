"""Queries on deliveries: lists, one with its attempts, and the changes other than by an attempt."""

from collections.abc import Sequence

from peewee import SQL, ColumnBase, Database, Query

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import DeliveryStatus, Ordering, Trigger
from webhookd.journal import cursors
from webhookd.journal.queries import endpoints, events, partitioned, transitions
from webhookd.journal.queries.dialect import is_postgres
from webhookd.journal.queries.locks import keep_events, lock, lock_line
from webhookd.journal.queries.schema import (
    LINE_PARTS,
    PARKED,
    PENDING,
    UNFINISHED,
    UNFINISHED_PARTS,
    DeliveryTable,
    EndpointTable,
    EventTable,
    count_edition,
)
from webhookd.journal.queries.structs import Rows, narrowed
from webhookd.journal.rows import DeliveryDetail, DeliveryRow, RowPage

MOST_ATTEMPTS = 100  # of one delivery that are read at a time

_LIST = "deliveries"
# Where a page of pending deliveries ends, by sequence, and one of any other list, by time.
_PLACE, _TIME = tuple[cursors.Number, cursors.Number], tuple[float, cursors.Number]

_ROWS = Rows(DeliveryRow, DeliveryTable, endpoint_id=EndpointTable.id, event_id=EventTable.id)
_RARE = "status IN ('parked', 'failed', 'canceled')"  # the condition of the partial index

# SQLite has no loose index scan: this goes from endpoint to endpoint, however long their queues are.
_BACKLOG = """
WITH RECURSIVE found (pk) AS (
    SELECT min(endpoint_pk) FROM deliveries WHERE status = '{status}'
    UNION ALL
    SELECT (SELECT min(endpoint_pk) FROM deliveries WHERE status = '{status}' AND endpoint_pk > found.pk)
    FROM found WHERE found.pk IS NOT NULL
)
SELECT pk FROM found WHERE pk IS NOT NULL
"""
_BACKLOGS = [_BACKLOG.format(status=status.value) for status in (DeliveryStatus.PENDING, DeliveryStatus.PARKED)]


def page(
    database: Database,
    endpoint_pk: int,
    *,
    status: DeliveryStatus | None,
    event: str | None,
    event_id: str | None,
    since: float | None,
    until: float | None,
    limit: int,
    cursor: str | None,
) -> RowPage[DeliveryRow]:
    """Return a page of an endpoint's deliveries, newest first; created from `since` on and before `until`.

    Raises Rejected INVALID_CURSOR.
    """
    # Pending deliveries are read along both parts of the queue, whose order is that of their creation.
    place = DeliveryTable.sequence if status is DeliveryStatus.PENDING else DeliveryTable.created_at
    query = _select().where(DeliveryTable.endpoint_pk == endpoint_pk).order_by(place.desc(), DeliveryTable.pk.desc())
    query = narrowed(query, (DeliveryTable.event_type, event), (EventTable.id, event_id))
    if since is not None:
        query = query.where(DeliveryTable.created_at >= since)
    if until is not None:
        query = query.where(DeliveryTable.created_at < until)
    if cursor is not None:
        at, pk = cursors.decode(cursor, _LIST, _PLACE if status is DeliveryStatus.PENDING else _TIME)
        query = query.where((place <= at) & ((place < at) | (DeliveryTable.pk < pk)))
    parts = [query] if status is None else [query.where(chosen) for chosen in _have_status(status)]
    found = [row for part in parts for row in _ROWS.all(database, part.limit(limit + 1))]
    if len(parts) > 1:
        found.sort(key=lambda row: -row.sequence)
    return cursors.page(found[: limit + 1], limit, _LIST, lambda row: [getattr(row, place.name), row.pk])


def of_event(
    database: Database, event_pk: int, organization_id: str | None, *, limit: int, cursor: str | None
) -> RowPage[DeliveryRow]:
    """Return a page of an event's deliveries, oldest first; to webhooks of one organization if it is given.

    Raises Rejected INVALID_CURSOR.
    """
    query = narrowed(_select(), (DeliveryTable.event_pk, event_pk), (EndpointTable.organization_id, organization_id))
    return _ROWS.page(database, query, DeliveryTable.pk, limit=limit, list_name="event-deliveries", cursor=cursor)


def queue(database: Database, endpoint_pk: int, limit: int) -> list[DeliveryRow]:
    """Return what an endpoint has queued, in sequence, and then its parked deliveries; at most `limit` in all."""
    own = _select().where(DeliveryTable.endpoint_pk == endpoint_pk)
    fresh, backing_off = (own.where(part).order_by(DeliveryTable.sequence).limit(limit) for part in LINE_PARTS)
    pending = sorted([*_ROWS.all(database, fresh), *_ROWS.all(database, backing_off)], key=lambda row: row.sequence)
    parked = own.where(PARKED).order_by(DeliveryTable.next_attempt_at).limit(limit)
    return [*pending, *_ROWS.all(database, parked)][:limit]


def _have_status(status: DeliveryStatus) -> Sequence[ColumnBase]:
    """Return the conditions, one or the other, for a status; each has the partial index for it, if there is one."""
    match status:
        case DeliveryStatus.PENDING:
            return LINE_PARTS
        case DeliveryStatus.SUCCEEDED:
            return [DeliveryTable.status == status]
        case _:
            return [(DeliveryTable.status == status) & SQL(_RARE)]


def find(database: Database, delivery_id: str, organization_id: str | None) -> DeliveryRow:
    """Return a delivery; raises Rejected NOT_FOUND, also for another organization's delivery if one is given."""
    query = narrowed(_select(), (DeliveryTable.id, delivery_id), (EndpointTable.organization_id, organization_id))
    return _ROWS.get(database, query, f"there is no delivery {delivery_id}")


def get(
    database: Database,
    delivery_id: str,
    organization_id: str | None,
    *,
    before: int | None = None,
    limit: int = MOST_ATTEMPTS,
) -> DeliveryDetail:
    """Return a delivery with its endpoint, its message and its last attempts; raises Rejected NOT_FOUND as `find` does.

    It has at most `limit` attempts, oldest first, all with a number below `before` if that is given. A delivery may
    have any number of attempts.
    """
    row = find(database, delivery_id, organization_id)
    endpoint, is_deleted = endpoints.by_pk(database, row.endpoint_pk)
    newest_first = partitioned.attempts(database, row.pk, row.created_at, before=before, limit=limit)
    return DeliveryDetail(
        row=row,
        endpoint=endpoint,
        endpoint_is_deleted=is_deleted,
        message=events.message(database, row.event_pk),
        attempts=newest_first[::-1],
    )


def retry(
    database: Database, pk: int, *, force: bool, now: float, max_age_seconds: float, ordering: Ordering
) -> DeliveryRow:
    """Queue a delivery again with its sequence; its age and refusals start from 0.

    A delivery that has ended becomes pending again. One that is pending or parked is due now, and so is the head of its
    queue. Raises Rejected CONFLICT for one that has succeeded, unless `force` is given, and NOT_FOUND for one that
    retention has deleted since its row was looked up.
    """
    before = _changing(database, pk)
    if before.sequence == 0:
        raise Rejected(ErrorCode.CONFLICT, "a test is never sent again: make a new one with POST …/test")
    if before.status is DeliveryStatus.SUCCEEDED and not force:
        raise Rejected(
            ErrorCode.CONFLICT, 'the delivery has succeeded; send {"force": true} to have it delivered once more'
        )
    is_parked = before.status is DeliveryStatus.PARKED
    again = transitions.queued_again(Trigger.MANUAL, now, max_age_seconds, is_parked=is_parked)
    DeliveryTable.update(again).where(DeliveryTable.pk == pk).execute(database)
    count_edition(database, before.endpoint_pk, now + max_age_seconds)
    if before.status is DeliveryStatus.PENDING:
        _end_back_off(database, pk, ordering, now)
    return _by_pk(database, pk)


def expire(database: Database, pks: Sequence[int], now: float) -> list[DeliveryRow]:
    """Record deliveries that are older than they may be as failed; return those that had not ended before."""
    chosen = DeliveryTable.pk.in_(pks) & UNFINISHED & (DeliveryTable.expires_at <= now)
    lock(database, chosen, DeliveryTable.pk)
    expired = [row[0] for row in DeliveryTable.select(DeliveryTable.pk).where(chosen).tuples().execute(database)]
    DeliveryTable.update(transitions.expired(now)).where(DeliveryTable.pk.in_(expired)).execute(database)
    rows = {row.pk: row for row in _ROWS.all(database, _select().where(DeliveryTable.pk.in_(expired)))}
    return [rows[pk] for pk in pks if pk in rows]


def cancel(database: Database, endpoint_pk: int, now: float, limit: int) -> int:
    """Cancel what a deleted endpoint has queued, at most `limit` deliveries; return how many were canceled."""
    count = 0
    canceled = DeliveryTable.update(transitions.canceled(now))
    own = DeliveryTable.select(DeliveryTable.pk).where(DeliveryTable.endpoint_pk == endpoint_pk)
    parts = [own.where(chosen) for chosen in UNFINISHED_PARTS]
    if is_postgres(database):
        lock_line(database, endpoint_pk)
        found = [pk for part in parts for (pk,) in part.limit(limit).tuples().execute(database)]
        some = DeliveryTable.pk.in_(found[:limit]) & UNFINISHED
        lock(database, some, DeliveryTable.pk)
        count += canceled.where(some).execute(database)
    else:
        for part in parts:
            count += canceled.where(DeliveryTable.pk.in_(part.limit(limit - count))).execute(database)
    if count:
        count_edition(database, endpoint_pk)
    return count


def backlog(database: Database) -> list[int]:
    """Return the row numbers of the endpoints that have pending or parked deliveries, deleted ones included."""
    return sorted({row[0] for query in _BACKLOGS for row in database.execute_sql(query)})


def _end_back_off(database: Database, pk: int, ordering: Ordering, now: float) -> None:
    """Make the head of the delivery's queue due: in an ordered mode all deliveries after it wait for its back-off."""
    if ordering is Ordering.NONE:
        return
    [(endpoint_pk, key)] = (
        DeliveryTable.select(DeliveryTable.endpoint_pk, DeliveryTable.ordering_key)
        .where(DeliveryTable.pk == pk)
        .tuples()
        .execute(database)
    )
    queue = DeliveryTable.endpoint_pk == endpoint_pk
    if ordering is Ordering.KEY:
        if key is None:
            return
        queue &= DeliveryTable.ordering_key == key
    heads = [
        row
        for part in LINE_PARTS
        for row in DeliveryTable.select(DeliveryTable.sequence, DeliveryTable.pk)
        .where(queue & part)
        .order_by(DeliveryTable.sequence)
        .limit(1)
        .tuples()
        .execute(database)
    ]
    _, head = min(heads)
    DeliveryTable.update({"next_attempt_at": now}).where(
        (DeliveryTable.pk == head) & PENDING & (DeliveryTable.next_attempt_at > now)
    ).execute(database)


def _changing(database: Database, pk: int) -> DeliveryRow:
    """Return a delivery before it is queued again, which no attempt, expiry or retention overlaps."""
    row = _by_pk(database, pk)
    if not is_postgres(database):
        return row
    keep_events(database, [row.event_pk])
    lock_line(database, row.endpoint_pk)
    lock(database, DeliveryTable.pk == pk, DeliveryTable.pk)
    return _by_pk(database, pk)


def _select() -> Query:
    return (
        DeliveryTable.select(*_ROWS.columns)
        .join(EndpointTable, on=(EndpointTable.pk == DeliveryTable.endpoint_pk))
        .switch(DeliveryTable)
        .join(EventTable, on=(EventTable.pk == DeliveryTable.event_pk))
    )


def _by_pk(database: Database, pk: int) -> DeliveryRow:
    return _ROWS.get(database, _select().where(DeliveryTable.pk == pk), "this delivery was deleted by retention")

"""Queries on deliveries: lists, the detail with its attempts, and the changes that are made by hand or by age."""

from collections.abc import Sequence
from typing import Any

import msgspec
from peewee import SQL, Database, Expression, Query

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import DeliveryStatus, Ordering, Trigger
from webhookd.journal import cursors
from webhookd.journal.queries import endpoints, events, transitions
from webhookd.journal.queries.schema import (
    TO_BE_SENT_BY_STATUS,
    AttemptTable,
    DeliveryTable,
    EndpointTable,
    EventTable,
    count_edition,
)
from webhookd.journal.rows import AttemptRow, DeliveryDetail, DeliveryRow, RowPage, row_of

MOST_ATTEMPTS = 100  # that are read of one delivery at a time

_LIST, _OF_EVENT = "deliveries", "event-deliveries"
# Where a page of what is pending ends, by sequence, and one of all else, by time.
_PLACE, _TIME = tuple[cursors.Number, cursors.Number], tuple[float, cursors.Number]

_FROM_ELSEWHERE = {"endpoint_id": EndpointTable.id, "event_id": EventTable.id}
_COLUMNS = [_FROM_ELSEWHERE.get(name) or getattr(DeliveryTable, name) for name in DeliveryRow.__struct_fields__]
_ATTEMPT_COLUMNS = [getattr(AttemptTable, name) for name in AttemptRow.__struct_fields__]
_RARE = "status IN ('parked', 'failed', 'canceled')"  # as the partial index has it
_TO_BE_SENT = SQL("status IN ('pending', 'parked')")

# SQLite has no loose index scan: this jumps from endpoint to endpoint whatever their backlogs hold.
_BACKLOG = """
WITH RECURSIVE found (pk) AS (
    SELECT min(endpoint_pk) FROM deliveries WHERE status IN ('pending', 'parked')
    UNION ALL
    SELECT (SELECT min(endpoint_pk) FROM deliveries WHERE status IN ('pending', 'parked') AND endpoint_pk > found.pk)
    FROM found WHERE found.pk IS NOT NULL
)
SELECT pk FROM found WHERE pk IS NOT NULL
"""


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
    """Return a page of an endpoint's deliveries, newest first; made from `since` on and before `until`."""
    # What is pending is found along its line, and a line's order is that of its making.
    place = DeliveryTable.sequence if status is DeliveryStatus.PENDING else DeliveryTable.created_at
    query = (
        _select()
        .where(DeliveryTable.endpoint_pk == endpoint_pk)
        .order_by(place.desc(), DeliveryTable.pk.desc())
        .limit(limit + 1)
    )
    if status is not None:
        query = query.where(_has_status(status))
    if event is not None:
        query = query.where(DeliveryTable.event_type == event)
    if event_id is not None:
        query = query.where(EventTable.id == event_id)
    if since is not None:
        query = query.where(DeliveryTable.created_at >= since)
    if until is not None:
        query = query.where(DeliveryTable.created_at < until)
    if cursor is not None:
        at, pk = cursors.decode(cursor, _LIST, _PLACE if status is DeliveryStatus.PENDING else _TIME)
        query = query.where((place <= at) & ((place < at) | (DeliveryTable.pk < pk)))
    found = [_delivery(row) for row in query.tuples().execute(database)]
    return cursors.page(
        found,
        limit,
        _LIST,
        lambda row: [row.sequence if status is DeliveryStatus.PENDING else row.created_at, row.pk],
    )


def of_event(
    database: Database, event_pk: int, organization_id: str | None, *, limit: int, cursor: str | None
) -> RowPage[DeliveryRow]:
    """Return a page of where an event went, oldest first; to webhooks of one organization where one is given."""
    query = _select().where(DeliveryTable.event_pk == event_pk).order_by(DeliveryTable.pk).limit(limit + 1)
    if organization_id is not None:
        query = query.where(EndpointTable.organization_id == organization_id)
    if cursor is not None:
        query = query.where(DeliveryTable.pk > cursors.decode(cursor, _OF_EVENT, tuple[cursors.Number])[0])
    found = [_delivery(row) for row in query.tuples().execute(database)]
    return cursors.page(found, limit, _OF_EVENT, lambda row: [row.pk])


def line(database: Database, endpoint_pk: int, limit: int) -> list[DeliveryRow]:
    """Return the deliveries that an endpoint has still to get, in their sequence; parked ones behind the line."""
    mine = _select().where(DeliveryTable.endpoint_pk == endpoint_pk)
    pending = mine.where(SQL("status = 'pending'")).order_by(DeliveryTable.sequence).limit(limit)
    parked = mine.where(SQL("status = 'parked'")).order_by(DeliveryTable.next_attempt_at).limit(limit)
    found = [_delivery(row) for query in (pending, parked) for row in query.tuples().execute(database)]
    return found[:limit]


def _has_status(status: DeliveryStatus) -> Expression | SQL:
    """Return what chooses the deliveries of a status, by the partial index that holds them alone."""
    match status:
        case DeliveryStatus.PENDING:
            return SQL("status = 'pending'")
        case DeliveryStatus.SUCCEEDED:
            return DeliveryTable.status == status.value
        case _:
            return (DeliveryTable.status == status.value) & SQL(_RARE)


def find(database: Database, delivery_id: str, organization_id: str | None) -> DeliveryRow:
    """Return a delivery; Rejected NOT_FOUND where there is none, or for another organization than the one given."""
    query = _select().where(DeliveryTable.id == delivery_id)
    if organization_id is not None:
        query = query.where(EndpointTable.organization_id == organization_id)
    for row in list(query.tuples().execute(database)):
        return _delivery(row)
    raise Rejected(ErrorCode.NOT_FOUND, f"there is no delivery {delivery_id}")


def get(
    database: Database,
    delivery_id: str,
    organization_id: str | None,
    *,
    before: int | None = None,
    limit: int = MOST_ATTEMPTS,
) -> DeliveryDetail:
    """Return a delivery with its endpoint, its message and its last attempts; Rejected NOT_FOUND as `find`.

    At most `limit` attempts, oldest first, of those whose number is below `before` where that is given: a receiver that
    answers at once, and no, may have had any number of them.
    """
    row = find(database, delivery_id, organization_id)
    endpoint, is_deleted = endpoints.by_pk(database, row.endpoint_pk)
    query = AttemptTable.select(*_ATTEMPT_COLUMNS).where(AttemptTable.delivery_pk == row.pk)
    if before is not None:
        query = query.where(AttemptTable.number < before)
    attempts = list(query.order_by(AttemptTable.number.desc()).limit(limit).tuples().execute(database))
    return DeliveryDetail(
        row=row,
        endpoint=endpoint,
        endpoint_is_deleted=is_deleted,
        message=events.message(database, row.event_pk),
        attempts=[_attempt(attempt) for attempt in reversed(attempts)],
    )


def retry(
    database: Database, pk: int, *, force: bool, now: float, max_age_seconds: float, ordering: Ordering
) -> DeliveryRow:
    """Make a delivery go again with its sequence, its age and refusals anew.

    One that has ended is pending again; one that is parked, or pending, is due now, and with it the head of its line.
    Rejected CONFLICT for one that has succeeded, unless `force` is given, and NOT_FOUND for one that retention has
    removed since its row was looked up.
    """
    before = _by_pk(database, pk)
    if before.sequence == 0:
        raise Rejected(ErrorCode.CONFLICT, "a test is never sent again: make a new one with POST …/test")
    if before.status is DeliveryStatus.SUCCEEDED and not force:
        raise Rejected(
            ErrorCode.CONFLICT, 'the delivery has succeeded; send {"force": true} to have it delivered once more'
        )
    is_parked = before.status is DeliveryStatus.PARKED
    again = transitions.queued_again(Trigger.MANUAL, now, max_age_seconds, is_parked=is_parked)
    DeliveryTable.update(again).where(DeliveryTable.pk == pk).execute(database)
    count_edition(database, before.endpoint_pk)
    if before.status is DeliveryStatus.PENDING:
        _end_back_off(database, pk, ordering, now)
    return _by_pk(database, pk)


def expire(database: Database, pks: Sequence[int], now: float) -> list[DeliveryRow]:
    """Record deliveries whose age has passed as failed; return those that had not ended otherwise."""
    chosen = DeliveryTable.pk.in_(pks) & _TO_BE_SENT & (DeliveryTable.expires_at <= now)
    expired = [row[0] for row in DeliveryTable.select(DeliveryTable.pk).where(chosen).tuples().execute(database)]
    DeliveryTable.update(transitions.expired(now)).where(DeliveryTable.pk.in_(expired)).execute(database)
    return [_by_pk(database, pk) for pk in expired]


def cancel(database: Database, endpoint_pk: int, now: float, limit: int) -> int:
    """Cancel what a deleted endpoint has queued, at most `limit` deliveries; return how many there were."""
    count = 0
    canceled = transitions.canceled(now)
    for chosen in TO_BE_SENT_BY_STATUS:
        own = DeliveryTable.select(DeliveryTable.pk).where((DeliveryTable.endpoint_pk == endpoint_pk) & chosen)
        some = own.limit(limit - count)
        count += DeliveryTable.update(canceled).where(DeliveryTable.pk.in_(some)).execute(database)
    if count:
        count_edition(database, endpoint_pk)
    return count


def backlog(database: Database) -> list[int]:
    """Return the row numbers of the endpoints that have something to be sent, deleted ones included."""
    return [row[0] for row in database.execute_sql(_BACKLOG)]


def _end_back_off(database: Database, pk: int, ordering: Ordering, now: float) -> None:
    """Make the head of the delivery's line due: in an ordered mode it carries the back-off for all behind it."""
    if ordering is Ordering.NONE:
        return
    [(endpoint_pk, key)] = (
        DeliveryTable.select(DeliveryTable.endpoint_pk, DeliveryTable.ordering_key)
        .where(DeliveryTable.pk == pk)
        .tuples()
        .execute(database)
    )
    line = (DeliveryTable.endpoint_pk == endpoint_pk) & SQL("status = 'pending'")
    if ordering is Ordering.KEY:
        if key is None:
            return
        line &= DeliveryTable.ordering_key == key
    head = DeliveryTable.select(DeliveryTable.pk).where(line).order_by(DeliveryTable.sequence).limit(1)
    DeliveryTable.update({"next_attempt_at": now}).where(
        DeliveryTable.pk.in_(head) & (DeliveryTable.next_attempt_at > now)
    ).execute(database)


def _select() -> Query:
    return (
        DeliveryTable.select(*_COLUMNS)
        .join(EndpointTable, on=(EndpointTable.pk == DeliveryTable.endpoint_pk))
        .switch(DeliveryTable)
        .join(EventTable, on=(EventTable.pk == DeliveryTable.event_pk))
    )


def _by_pk(database: Database, pk: int) -> DeliveryRow:
    for row in list(_select().where(DeliveryTable.pk == pk).tuples().execute(database)):
        return _delivery(row)
    raise Rejected(ErrorCode.NOT_FOUND, "this delivery is no longer kept: it was removed by its age")


def _delivery(row: Sequence[object]) -> DeliveryRow:
    return row_of(DeliveryRow, row)


def _attempt(row: Sequence[Any]) -> AttemptRow:
    values = dict(zip(AttemptRow.__struct_fields__, row, strict=True))
    headers = msgspec.json.decode(values["response_headers"])
    return row_of(AttemptRow, row, response_headers=headers, truncated=bool(values["truncated"]))

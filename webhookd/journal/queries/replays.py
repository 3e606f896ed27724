"""Recovers and replays: what they match, and their work in bounded steps.

Both go upwards from `position`, which each step stores: an interruption loses nothing and repeats nothing, and a
delivery that fails again below the position isn't queued a second time.
"""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any, cast

import msgspec
from peewee import SQL, Database, Expression, fn

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_types import OPERATIONAL_EVENTS, TEST_EVENT
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import DeliveryStatus, ReplayKind, ReplayStatus, Trigger
from webhookd.journal.queries import transitions
from webhookd.journal.queries.locks import keep_events, lock, lock_line
from webhookd.journal.queries.schema import (
    DeliveryTable,
    EndpointTable,
    EventTable,
    ReplayTable,
    SequenceTable,
    count_edition,
    last_expiry,
)
from webhookd.journal.queries.structs import Rows
from webhookd.journal.rows import QueuedAs, ReplayMatch, ReplayRow, Selection

A_STEP = 250
MOST_RUNNING = 16  # of one endpoint
SCANNED_A_STEP = 10_000  # rows that a step looks at; it may queue none of them

_ROWS = Rows(ReplayRow, ReplayTable)
_IS_FAILED = SQL("status = 'failed'")  # as the partial index has it
_IS_RUNNING = ReplayTable.status == ReplayStatus.RUNNING
_OWN = sorted({*OPERATIONAL_EVENTS, TEST_EVENT})


def match(database: Database, wanted: Selection) -> ReplayMatch:
    """Return what a recover or replay matches now. It reads the whole time range, so it is for a reader."""
    is_recover = wanted.kind is ReplayKind.RECOVER
    table = DeliveryTable if is_recover else EventTable
    query = table.select(fn.COUNT(SQL("*")), fn.MIN(table.pk), fn.MAX(table.pk)).where(
        _failed(wanted) if is_recover else _replayed(wanted)
    )
    [[number, first, last]] = query.tuples().execute(database)
    return ReplayMatch(count=number, first=first or 0, last=last or 0)


def start(database: Database, wanted: Selection, matched: ReplayMatch, replay_id: str, now: float) -> ReplayRow:
    """Store a new recover or replay; raises Rejected CONFLICT if 16 of the endpoint are running."""
    lock(database, EndpointTable.pk == wanted.endpoint_pk, EndpointTable.pk)
    under_way = ReplayTable.select().where((ReplayTable.endpoint_pk == wanted.endpoint_pk) & _IS_RUNNING)
    if under_way.count(database) >= MOST_RUNNING:
        raise Rejected(
            ErrorCode.CONFLICT,
            f"{MOST_RUNNING} recovers and replays of this webhook are running; wait until one is done, or stop one",
        )
    row = ReplayRow(
        id=replay_id,
        endpoint_pk=wanted.endpoint_pk,
        kind=wanted.kind,
        since=wanted.since,
        until=wanted.until,
        events=wanted.events,
        last=matched.last,
        # A recover goes by the sequences of failed deliveries; a replay needn't look at older events.
        position=-1 if wanted.kind is ReplayKind.RECOVER else matched.first - 1,
        matched=matched.count,
        queued=0,
        status=ReplayStatus.RUNNING,
        created_at=now,
    )
    ReplayTable.insert(msgspec.structs.asdict(row)).execute(database)
    return row


def get(database: Database, endpoint_pk: int, replay_id: str) -> ReplayRow:
    """Return a recover or replay of an endpoint; raises Rejected NOT_FOUND."""
    query = _ROWS.select().where((ReplayTable.id == replay_id) & (ReplayTable.endpoint_pk == endpoint_pk))
    return _ROWS.get(database, query, f"there is no replay {replay_id} of this webhook")


def of_endpoint(database: Database, endpoint_pk: int, limit: int) -> list[ReplayRow]:
    """Return the latest recovers and replays of an endpoint, newest first."""
    query = _ROWS.select().where(ReplayTable.endpoint_pk == endpoint_pk)
    return _ROWS.all(database, query.order_by(ReplayTable.id.desc()).limit(limit))


def running(database: Database) -> dict[str | None, list[ReplayRow]]:
    """Return the running recovers and replays by the organization of their webhooks, each list oldest first."""
    query = (
        ReplayTable.select(EndpointTable.organization_id, *_ROWS.columns)
        .join(EndpointTable, on=(EndpointTable.pk == ReplayTable.endpoint_pk))
        .where(_IS_RUNNING)
        .order_by(ReplayTable.id)
    )
    found: dict[str | None, list[ReplayRow]] = {}
    for row in query.dicts().execute(database):
        found.setdefault(row["organization_id"], []).append(_ROWS.convert(row))
    return found


def stop(database: Database, endpoint_pk: int, replay_id: str) -> ReplayRow:
    """Stop a recover or replay; what it has queued stays queued. Raises Rejected NOT_FOUND."""
    ReplayTable.update({"status": ReplayStatus.STOPPED}).where(
        (ReplayTable.id == replay_id) & (ReplayTable.endpoint_pk == endpoint_pk) & _IS_RUNNING
    ).execute(database)
    return get(database, endpoint_pk, replay_id)


def stop_all(database: Database, endpoint_pk: int) -> None:
    """Stop all recovers and replays of an endpoint."""
    ReplayTable.update({"status": ReplayStatus.STOPPED}).where(
        (ReplayTable.endpoint_pk == endpoint_pk) & _IS_RUNNING
    ).execute(database)


def step(database: Database, replay_id: str, wanted: Selection, queued_as: QueuedAs, ids: IdFactory) -> ReplayRow:
    """Queue the next deliveries, at most 250, and return the progress; a stopped recover or replay queues none.

    A step may queue none although there are more to queue, because the rows that it looks at are bounded too. Raises
    Rejected NOT_FOUND for a recover or replay that was stopped and then deleted by retention.
    """
    lock(database, ReplayTable.id == replay_id, ReplayTable.id)
    replay = get(database, wanted.endpoint_pk, replay_id)
    if replay.status is not ReplayStatus.RUNNING:
        return replay
    if replay.kind is ReplayKind.RECOVER:
        position, count_queued = _recover(database, replay, wanted, queued_as)
    else:
        position, count_queued = _replay_events(database, replay, wanted, queued_as, ids)
    values: dict[str, object] = {"queued": replay.queued + count_queued}
    values |= {"status": ReplayStatus.DONE} if position is None else {"position": position}
    ReplayTable.update(values).where(ReplayTable.id == replay_id).execute(database)
    return get(database, wanted.endpoint_pk, replay_id)


def _recover(
    database: Database,
    replay: ReplayRow,
    wanted: Selection,
    queued_as: QueuedAs,
) -> tuple[int | None, int]:
    """Make failed deliveries pending again, in sequence; return the position, None at the end, and their number."""
    all_failed = _failed_of(wanted.endpoint_pk) & (DeliveryTable.sequence > replay.position)
    end = _end_of_scan(database, DeliveryTable.sequence, all_failed)
    query = (
        DeliveryTable.select(DeliveryTable.pk, DeliveryTable.sequence, DeliveryTable.event_pk)
        .where(_failed(wanted) & (DeliveryTable.pk <= replay.last) & (DeliveryTable.sequence > replay.position))
        .order_by(DeliveryTable.sequence)
        .limit(A_STEP)
    )
    if end is not None:
        query = query.where(DeliveryTable.sequence <= end)
    found = list(query.tuples().execute(database))
    kept = keep_events(database, {event_pk for _, _, event_pk in found})
    chosen = DeliveryTable.pk.in_([pk for pk, _, event_pk in found if event_pk in kept]) & _IS_FAILED
    lock_line(database, wanted.endpoint_pk)
    lock(database, chosen, DeliveryTable.pk)
    again = transitions.queued_again(Trigger.RECOVER, queued_as.at, queued_as.max_age_seconds)
    count: int = DeliveryTable.update(again).where(chosen).execute(database)
    if count:
        count_edition(database, wanted.endpoint_pk, queued_as.at + queued_as.max_age_seconds)
    return (found[-1][1] if len(found) == A_STEP else end), count


def _replay_events(
    database: Database,
    replay: ReplayRow,
    wanted: Selection,
    queued_as: QueuedAs,
    ids: IdFactory,
) -> tuple[int | None, int]:
    """Make new deliveries of events at the end of the queue; return the position, None at the end, and their number."""
    end: int | None = replay.position + SCANNED_A_STEP
    if wanted.organization_id is not None:
        theirs = (EventTable.organization_id == wanted.organization_id) & (EventTable.pk > replay.position)
        end = _end_of_scan(database, EventTable.pk, theirs)
    if end is not None and end >= replay.last:
        end = None
    query = (
        EventTable.select(EventTable.pk, EventTable.type, EventTable.ordering_key)
        .where(
            _replayed(wanted)
            & (EventTable.pk > replay.position)
            & (EventTable.pk <= (replay.last if end is None else end))
        )
        .order_by(EventTable.pk)
        .limit(A_STEP)
    )
    found = list(query.tuples().execute(database))
    kept = keep_events(database, {event_pk for event_pk, _, _ in found})
    replayed = [event for event in found if event[0] in kept]
    lock_line(database, wanted.endpoint_pk)
    own = SequenceTable.endpoint_pk == wanted.endpoint_pk
    sequences = list(SequenceTable.select(SequenceTable.last).where(own).tuples().execute(database))
    if not sequences:
        return None, 0
    [[sequence]] = sequences
    ends = queued_as.status is DeliveryStatus.CANCELED
    rows = [
        {
            "id": ids.new(Prefix.DELIVERY),
            "endpoint_pk": wanted.endpoint_pk,
            "event_pk": event_pk,
            "event_type": event_type,
            "ordering_key": ordering_key,
            "sequence": sequence + number,
            "status": queued_as.status,
            "trigger": Trigger.REPLAY,
            "attempts": 0,
            "refusals": 0,
            "backoff_step": 0,
            "next_attempt_at": None if ends else queued_as.at,
            "created_at": queued_as.at,
            "expires_at": queued_as.at + queued_as.max_age_seconds,
        }
        for number, (event_pk, event_type, ordering_key) in enumerate(replayed, start=1)
    ]
    if rows:
        DeliveryTable.insert_many(rows).execute(database)
        last_expires_at = last_expiry(queued_as.at + queued_as.max_age_seconds)
        SequenceTable.update({"last": sequence + len(rows), "last_expires_at": last_expires_at}).where(own).execute(
            database
        )
    return (found[-1][0] if len(found) == A_STEP else end), len(rows)


def _end_of_scan(database: Database, column: Any, chosen: Expression) -> int | None:
    """Return the value of `column` at which a step stops that reads `SCANNED_A_STEP` rows; None at the end."""
    query = column.model.select(column).where(chosen).order_by(column).limit(1).offset(SCANNED_A_STEP - 1)
    found = list(query.tuples().execute(database))
    return found[0][0] if found else None


def _failed_of(endpoint_pk: int) -> Expression:
    return (DeliveryTable.endpoint_pk == endpoint_pk) & _IS_FAILED


def _failed(wanted: Selection) -> Expression:
    chosen = (
        _failed_of(wanted.endpoint_pk)
        & (DeliveryTable.sequence > 0)  # a test has no place in the queue
        & (DeliveryTable.created_at >= wanted.since)
        & (DeliveryTable.created_at < wanted.until)
    )
    return chosen & _matches(DeliveryTable.event_type, wanted.events) if wanted.events else chosen


def _replayed(wanted: Selection) -> Expression:
    chosen = (
        (EventTable.accepted_at >= wanted.since)
        & (EventTable.accepted_at < wanted.until)
        & _matches(EventTable.type, wanted.subscribed)
    )
    if wanted.events:
        chosen &= _matches(EventTable.type, wanted.events)
    if wanted.organization_id is not None:
        chosen &= EventTable.organization_id == wanted.organization_id
    return chosen


def _matches(column: Any, patterns: Sequence[str]) -> Expression:
    """Return the condition that a type matches one of the patterns, as dispatch.subscriptions matches it."""
    conditions = [column.in_([pattern for pattern in patterns if not pattern.endswith("*")])]
    for pattern in patterns:
        if pattern == "*":
            conditions.append(column.not_in(_OWN))
        elif pattern.endswith(".*"):
            stem = pattern.removesuffix("*")
            # `/` is the character after `.`, so this is the range of all names that begin with the stem.
            beyond = stem[:-1] + "/"
            conditions.append((column >= stem) & (column < beyond) & column.not_in(_OWN))
    return cast("Expression", reduce(or_, conditions))


def prune(database: Database, before: float) -> int:
    """Delete the recovers and replays that were started before that time and have ended; return their number."""
    count: int = ReplayTable.delete().where((ReplayTable.created_at < before) & ~_IS_RUNNING).execute(database)
    return count

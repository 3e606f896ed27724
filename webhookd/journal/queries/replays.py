"""Recover and replay: what they match, and one bounded step of them at a time.

Both walk upwards from `position`, which is stored with each step: a stop loses nothing and repeats nothing, and what
fails again behind the position isn't met again.
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
from webhookd.journal.queries.schema import (
    DeliveryTable,
    EndpointTable,
    EventTable,
    ReplayTable,
    SequenceTable,
    count_edition,
)
from webhookd.journal.rows import QueuedAs, ReplayMatch, ReplayRow, Selection, row_of

A_STEP = 250
MOST_RUNNING = 16  # of one endpoint
SCANNED_A_STEP = 10_000  # rows that a step looks at, of which it may want none

_COLUMNS = [getattr(ReplayTable, name) for name in ReplayRow.__struct_fields__]
_OWN = sorted({*OPERATIONAL_EVENTS, TEST_EVENT})


def match(database: Database, wanted: Selection) -> ReplayMatch:
    """Return what it matches now. It looks at the whole time range, so it is for a reader."""
    is_recover = wanted.kind is ReplayKind.RECOVER
    table = DeliveryTable if is_recover else EventTable
    query = table.select(fn.COUNT(SQL("*")), fn.MIN(table.pk), fn.MAX(table.pk)).where(
        _failed(wanted) if is_recover else _replayed(wanted)
    )
    [[number, first, last]] = query.tuples().execute(database)
    return ReplayMatch(count=number, first=first or 0, last=last or 0)


def start(database: Database, wanted: Selection, matched: ReplayMatch, replay_id: str, now: float) -> ReplayRow:
    """Store a recover or replay of what it matches; Rejected CONFLICT where the endpoint has 16 that are running."""
    under_way = (ReplayTable.endpoint_pk == wanted.endpoint_pk) & (ReplayTable.status == ReplayStatus.RUNNING.value)
    if ReplayTable.select().where(under_way).count(database) >= MOST_RUNNING:
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
        # A recover goes by sequences, among what has failed; a replay needn't look at all that is older.
        position=-1 if wanted.kind is ReplayKind.RECOVER else matched.first - 1,
        matched=matched.count,
        queued=0,
        status=ReplayStatus.RUNNING,
        created_at=now,
    )
    values = msgspec.structs.asdict(row) | {
        "kind": row.kind.value,
        "status": row.status.value,
        "events": msgspec.json.encode(row.events).decode(),
    }
    ReplayTable.insert(values).execute(database)
    return row


def get(database: Database, endpoint_pk: int, replay_id: str) -> ReplayRow:
    """Return a recover or replay of an endpoint; Rejected NOT_FOUND."""
    query = ReplayTable.select(*_COLUMNS).where(
        (ReplayTable.id == replay_id) & (ReplayTable.endpoint_pk == endpoint_pk)
    )
    for row in list(query.tuples().execute(database)):
        return _replay(row)
    raise Rejected(ErrorCode.NOT_FOUND, f"there is no replay {replay_id} of this webhook")


def of_endpoint(database: Database, endpoint_pk: int, limit: int) -> list[ReplayRow]:
    """Return the latest of an endpoint, the newest first."""
    query = ReplayTable.select(*_COLUMNS).where(ReplayTable.endpoint_pk == endpoint_pk)
    return [_replay(row) for row in query.order_by(ReplayTable.id.desc()).limit(limit).tuples().execute(database)]


def running(database: Database) -> dict[str | None, list[ReplayRow]]:
    """Return those that have something left to do by the organization of their webhooks, each time the oldest first."""
    query = (
        ReplayTable.select(EndpointTable.organization_id, *_COLUMNS)
        .join(EndpointTable, on=(EndpointTable.pk == ReplayTable.endpoint_pk))
        .where(ReplayTable.status == ReplayStatus.RUNNING.value)
        .order_by(ReplayTable.id)
    )
    found: dict[str | None, list[ReplayRow]] = {}
    for organization_id, *row in query.tuples().execute(database):
        found.setdefault(organization_id, []).append(_replay(row))
    return found


def stop(database: Database, endpoint_pk: int, replay_id: str) -> ReplayRow:
    """Stop one that is running; what it queued stays. Rejected NOT_FOUND."""
    ReplayTable.update({"status": ReplayStatus.STOPPED.value}).where(
        (ReplayTable.id == replay_id)
        & (ReplayTable.endpoint_pk == endpoint_pk)
        & (ReplayTable.status == ReplayStatus.RUNNING.value)
    ).execute(database)
    return get(database, endpoint_pk, replay_id)


def stop_all(database: Database, endpoint_pk: int) -> None:
    """Stop all of an endpoint."""
    ReplayTable.update({"status": ReplayStatus.STOPPED.value}).where(
        (ReplayTable.endpoint_pk == endpoint_pk) & (ReplayTable.status == ReplayStatus.RUNNING.value)
    ).execute(database)


def step(database: Database, replay_id: str, wanted: Selection, queued_as: QueuedAs, ids: IdFactory) -> ReplayRow:
    """Queue the next deliveries, at most 250, and return the progress; nothing once it has been stopped.

    It may queue none and have something left all the same, since the rows that it looks at are bounded as well.
    Rejected NOT_FOUND for one that was stopped and that retention has removed since.
    """
    replay = get(database, wanted.endpoint_pk, replay_id)
    if replay.status is not ReplayStatus.RUNNING:
        return replay
    if replay.kind is ReplayKind.RECOVER:
        position, count_queued = _recover(database, replay, wanted, queued_as)
    else:
        position, count_queued = _replay_events(database, replay, wanted, queued_as, ids)
    values: dict[str, object] = {"queued": replay.queued + count_queued}
    values |= {"status": ReplayStatus.DONE.value} if position is None else {"position": position}
    ReplayTable.update(values).where(ReplayTable.id == replay_id).execute(database)
    return get(database, wanted.endpoint_pk, replay_id)


def _recover(
    database: Database,
    replay: ReplayRow,
    wanted: Selection,
    queued_as: QueuedAs,
) -> tuple[int | None, int]:
    """Make failed deliveries pending again, in sequence; return the position, None at the end, and how many."""
    all_failed = _failed_of(wanted.endpoint_pk) & (DeliveryTable.sequence > replay.position)
    end = _end_of_scan(database, DeliveryTable.sequence, all_failed)
    query = (
        DeliveryTable.select(DeliveryTable.pk, DeliveryTable.sequence)
        .where(_failed(wanted) & (DeliveryTable.pk <= replay.last) & (DeliveryTable.sequence > replay.position))
        .order_by(DeliveryTable.sequence)
        .limit(A_STEP)
    )
    if end is not None:
        query = query.where(DeliveryTable.sequence <= end)
    found = list(query.tuples().execute(database))
    again = transitions.queued_again(Trigger.RECOVER, queued_as.at, queued_as.max_age_seconds)
    DeliveryTable.update(again).where(DeliveryTable.pk.in_([pk for pk, _ in found])).execute(database)
    if found:
        count_edition(database, wanted.endpoint_pk)
    return (found[-1][1] if len(found) == A_STEP else end), len(found)


def _replay_events(
    database: Database,
    replay: ReplayRow,
    wanted: Selection,
    queued_as: QueuedAs,
    ids: IdFactory,
) -> tuple[int | None, int]:
    """Make new deliveries of events at the end of the line; return the position, None at the end, and how many."""
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
            "status": queued_as.status.value,
            "trigger": Trigger.REPLAY.value,
            "attempts": 0,
            "refusals": 0,
            "backoff_step": 0,
            "next_attempt_at": None if ends else queued_as.at,
            "created_at": queued_as.at,
            "expires_at": queued_as.at + queued_as.max_age_seconds,
        }
        for number, (event_pk, event_type, ordering_key) in enumerate(found, start=1)
    ]
    if rows:
        DeliveryTable.insert_many(rows).execute(database)
        SequenceTable.update({"last": sequence + len(rows)}).where(own).execute(database)
    return (found[-1][0] if len(found) == A_STEP else end), len(found)


def _end_of_scan(database: Database, column: Any, chosen: Expression) -> int | None:
    """Return where a step stops that looks at so many rows of an index, in the order of `column`; None at its end."""
    query = column.model.select(column).where(chosen).order_by(column).limit(1).offset(SCANNED_A_STEP - 1)
    found = list(query.tuples().execute(database))
    return found[0][0] if found else None


def _failed_of(endpoint_pk: int) -> Expression:
    return (DeliveryTable.endpoint_pk == endpoint_pk) & SQL("status = 'failed'")


def _failed(wanted: Selection) -> Expression:
    chosen = (
        _failed_of(wanted.endpoint_pk)
        & (DeliveryTable.sequence > 0)  # a test has no place in the line
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
    """Return the condition that a type matches one of the patterns, as `subscriptions` has it."""
    conditions = [column.in_([pattern for pattern in patterns if not pattern.endswith("*")])]
    for pattern in patterns:
        if pattern == "*":
            conditions.append(column.not_in(_OWN))
        elif pattern.endswith(".*"):
            stem = pattern.removesuffix("*")
            # `/` is what follows `.`, so this is the range of all that begins with the stem.
            beyond = stem[:-1] + "/"
            conditions.append((column >= stem) & (column < beyond) & column.not_in(_OWN))
    return cast("Expression", reduce(or_, conditions))


def prune(database: Database, before: float) -> int:
    """Forget those that have ended and were asked for before that time; return how many there were."""
    count: int = (
        ReplayTable.delete()
        .where((ReplayTable.created_at < before) & (ReplayTable.status != ReplayStatus.RUNNING.value))
        .execute(database)
    )
    return count


def _replay(row: Sequence[Any]) -> ReplayRow:
    values = dict(zip(ReplayRow.__struct_fields__, row, strict=True))
    return row_of(ReplayRow, row, events=tuple(msgspec.json.decode(values["events"])))

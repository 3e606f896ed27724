"""An actor's window of its endpoint's queue: ids and times of the deliveries that may be sent next, never a body.

Each read walks a partial index from its start, so its cost doesn't depend on how many deliveries have ended, nor on how
many have expired and are still to be recorded as such: those among the rows of a window are in it, apart. Without order
a read also costs the same however many deliveries back off, since these have an index by time. The statements are made
by peewee once, because making one takes longer than running it.

On PostgreSQL what has ended stays in these indexes for a while, so there a read begins at the floors of the last one
(see `floors`). They hold for the edition that it found; all of this is read from one snapshot.
"""

from collections.abc import Collection, Iterable, Sequence
from math import inf, nextafter
from operator import attrgetter

import msgspec
from msgspec.structs import replace
from peewee import SQL, Database, Expression, fn

from webhookd.base.models import Ordering, QueuedDelivery
from webhookd.journal.floors import NO_FLOORS, Floors
from webhookd.journal.queries.dialect import EngineSQL, SqlConnection, is_postgres, listed, members, statements, written
from webhookd.journal.queries.schema import (
    BACKING_OFF,
    BACKING_OFF_BY_TIME,
    FRESH,
    PARKED,
    PENDING,
    DeliveryTable,
    SequenceTable,
)
from webhookd.journal.queries.structs import Rows
from webhookd.journal.rows import Window, WindowRequest

_ROWS = Rows(QueuedDelivery, DeliveryTable)
_NOW = SQL(":now")
_OWN = DeliveryTable.endpoint_pk == SQL(":endpoint_pk")
_PARKED = _OWN & PARKED
_BACKING_OFF_BY_TIME = _OWN & BACKING_OFF_BY_TIME
_FRESH_IN_REACH = DeliveryTable.sequence >= SQL(":fresh")
_BACKING_OFF_IN_REACH = DeliveryTable.sequence >= SQL(":backing_off")
_IS_DUE = DeliveryTable.next_attempt_at <= _NOW
_DUE_IN_REACH = (DeliveryTable.next_attempt_at >= SQL(":due_at")) & _IS_DUE
_IS_LATER = DeliveryTable.next_attempt_at > SQL(":after")
_BY_TIME = DeliveryTable.next_attempt_at, DeliveryTable.sequence


def _deliveries(chosen: Expression, *order: object) -> EngineSQL:
    return written(_ROWS.select().where(chosen).order_by(*order), " LIMIT :limit")


def _earliest_of(column: object, chosen: Expression) -> EngineSQL:
    return written(DeliveryTable.select(fn.MIN(column)).where(chosen))


def _in_sequence(fresh: Expression, backing_off: Expression) -> EngineSQL:
    """Return the statement that reads both parts of the queue at the same time, in sequence."""
    end = " ORDER BY sequence LIMIT :limit"
    parts = [written(_ROWS.select().where(part)) for part in (_OWN & FRESH & fresh, _OWN & BACKING_OFF & backing_off)]
    return EngineSQL(
        sqlite=" UNION ALL ".join(part.sqlite for part in parts) + end,
        # Without a limit for each part, PostgreSQL reads both to their ends and sorts them.
        postgres=" UNION ALL ".join(f"({part.postgres}{end})" for part in parts) + end,
    )


def _queued() -> dict[Ordering, tuple[EngineSQL, ...]]:
    no_key = DeliveryTable.ordering_key.is_null()
    is_free = DeliveryTable.ordering_key.not_in(members("blocked_keys", "text"))
    fresh, backing_off = (no_key | is_free), ((no_key & _IS_DUE) | (~no_key & is_free))
    return {
        Ordering.STRICT: (_in_sequence(_FRESH_IN_REACH, _BACKING_OFF_IN_REACH),),
        Ordering.KEY: (_in_sequence(_FRESH_IN_REACH & fresh, _BACKING_OFF_IN_REACH & backing_off),),
        Ordering.NONE: (
            _deliveries(_OWN & FRESH & _FRESH_IN_REACH, DeliveryTable.sequence),
            _deliveries(_BACKING_OFF_BY_TIME & _DUE_IN_REACH, *_BY_TIME),
        ),
    }


def _retried_by_hand() -> dict[Ordering, EngineSQL]:
    chosen = _OWN & PENDING & _DUE_IN_REACH & SQL("trigger = 'manual'")
    return {
        Ordering.KEY: _deliveries(chosen & DeliveryTable.ordering_key.is_null(), *_BY_TIME),
        Ordering.NONE: _deliveries(chosen, *_BY_TIME),
    }


_text_for_sqlite, _text_for_postgres = attrgetter("sqlite"), attrgetter("postgres")
_QUEUED = _queued()
_BY_HAND = _retried_by_hand()
_DUE_PARKED = _deliveries(_PARKED & _DUE_IN_REACH, DeliveryTable.next_attempt_at)
_LATER_PARKED = _earliest_of(DeliveryTable.next_attempt_at, _PARKED & _IS_LATER)
_LATER_PENDING = _earliest_of(DeliveryTable.next_attempt_at, _BACKING_OFF_BY_TIME & _IS_LATER)
_FIRST_FRESH = _earliest_of(DeliveryTable.sequence, _OWN & FRESH & _FRESH_IN_REACH).postgres
_FIRST_BACKING_OFF = _earliest_of(DeliveryTable.sequence, _OWN & BACKING_OFF & _BACKING_OFF_IN_REACH).postgres
_FIRST_OF_PARTS = f"SELECT ({_FIRST_FRESH}), ({_FIRST_BACKING_OFF})"
_SEQUENCE = written(
    SequenceTable.select(SequenceTable.last, SequenceTable.edition).where(
        SequenceTable.endpoint_pk == SQL(":endpoint_pk")
    )
)


def read(database: Database, request: WindowRequest) -> Window:
    """Return the part of an endpoint's queue that may be sent next, without the deliveries in flight.

    Strict order: the first `limit` pending deliveries by sequence, whether the head is due or not. Order by key: the
    same without those of `blocked_keys`, and of those without a key only the ones that are due. No order: those that
    are due, the longest due first. Among deliveries that no order holds back, the ones retried by hand come first.
    """
    connection = statements(database)
    keeps_ended = is_postgres(database)
    text = _text_for_postgres if keeps_ended else _text_for_sqlite
    in_flight, now, ordering = request.in_flight, request.now, request.ordering
    # The deliveries in flight may be among the first, so that many more are read.
    limit = request.limit + len(in_flight)
    values: dict[str, object] = {"endpoint_pk": request.endpoint_pk, "now": now, "limit": limit}
    last_sequence, edition = next(iter(connection.execute(text(_SEQUENCE), values)), (0, 0))
    values |= _bounds(request.floors.at(edition), now)
    if ordering is Ordering.KEY:
        values["blocked_keys"] = listed(database, sorted(request.blocked_keys))
    parts = [_rows(connection, text(query), values) for query in _QUEUED[ordering]]
    pending = [_due_if_fresh(delivery, now) for part in parts for delivery in part]
    if ordering is Ordering.NONE:
        pending = sorted(pending, key=_due_order)[:limit]
    by_hand = _rows(connection, text(_BY_HAND[ordering]), values) if ordering in _BY_HAND else []
    parked = _rows(connection, text(_DUE_PARKED), values)
    later = [_one(connection, text(_LATER_PARKED), values)]
    if ordering is not Ordering.STRICT:
        later.append(_one(connection, text(_LATER_PENDING), values))
    next_attempt_at = min((at for at in later if at is not None), default=None)
    floors = NO_FLOORS
    if keeps_ended:
        by_time = [*by_hand[:1], *parked[:1], *(found for part in parts[1:] for found in part[:1])]
        fresh, backing_off = _first_of_parts(connection, ordering, parts, values)
        floors = Floors(
            edition=edition,
            fresh=last_sequence + 1 if fresh is None else fresh,
            backing_off=last_sequence + 1 if backing_off is None else backing_off,
            due_at=min((delivery.next_attempt_at for delivery in by_time), default=now),
            later_at=inf if next_attempt_at is None else next_attempt_at,
        )
    queued = _first(by_hand, pending)
    return Window(
        pending=_chosen(queued, in_flight, now),
        parked=_chosen(parked, in_flight, now),
        expired=_expired((*queued, *parked), in_flight, now),
        complete=max(len(pending), len(parked)) < limit,
        next_attempt_at=next_attempt_at,
        last_sequence=last_sequence,
        edition=edition,
        floors=floors,
    )


def _bounds(floors: Floors, now: float) -> dict[str, object]:
    """Return the parameters by which the statements begin at the floors."""
    return {
        "fresh": floors.fresh,
        "backing_off": floors.backing_off,
        "due_at": floors.due_at,
        "after": max(now, nextafter(floors.later_at, 0.0)),
    }


def _first_of_parts(
    connection: SqlConnection, ordering: Ordering, parts: Sequence[Sequence[QueuedDelivery]], values: dict[str, object]
) -> tuple[int | None, int | None]:
    """Return the lowest sequence of each part of the queue, or a lower bound of it; None for a part that is empty."""
    if ordering is Ordering.KEY:  # what has to wait for its key, or without one for its time, isn't in the window
        [firsts] = connection.execute(_FIRST_OF_PARTS, values)
        return firsts[0], firsts[1]
    line = parts[0]
    if ordering is Ordering.NONE:  # of what backs off, the times are bounds
        return (line[0].sequence if line else None), 0
    beyond = line[-1].sequence + 1 if len(line) == values["limit"] else None
    fresh, backing_off = (
        next((delivery.sequence for delivery in line if (delivery.backoff_step > 0) is backs_off), beyond)
        for backs_off in (False, True)
    )
    return fresh, backing_off


def _due_if_fresh(delivery: QueuedDelivery, now: float) -> QueuedDelivery:
    """Return a fresh delivery as due now at the latest: only a clock that was set back makes its time a later one."""
    if delivery.next_attempt_at <= now or delivery.backoff_step:
        return delivery
    return replace(delivery, next_attempt_at=now)


def _due_order(delivery: QueuedDelivery) -> tuple[float, int]:
    return delivery.next_attempt_at, delivery.sequence


def _first(found: list[QueuedDelivery], others: list[QueuedDelivery]) -> list[QueuedDelivery]:
    if not found:
        return others
    pks = {delivery.pk for delivery in found}
    return [*found, *(delivery for delivery in others if delivery.pk not in pks)]


def _one(connection: SqlConnection, sql: str, values: dict[str, object]) -> float | None:
    return next((row[0] for row in connection.execute(sql, values)), None)


def _rows(connection: SqlConnection, sql: str, values: dict[str, object]) -> list[QueuedDelivery]:
    return msgspec.convert(list(connection.execute(sql, values)), list[QueuedDelivery])


def _chosen(found: Iterable[QueuedDelivery], in_flight: Collection[int], now: float) -> tuple[QueuedDelivery, ...]:
    return tuple([each for each in found if each.expires_at > now and each.pk not in in_flight])


def _expired(found: Iterable[QueuedDelivery], in_flight: Collection[int], now: float) -> tuple[QueuedDelivery, ...]:
    return tuple([each for each in found if each.expires_at <= now and each.pk not in in_flight])

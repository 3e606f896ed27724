"""An actor's window of its endpoint's queue: ids and times of the deliveries that may be sent next, never a body.

Each read walks a partial index from its start, so its cost doesn't depend on how many deliveries have ended, nor on how
many have expired and are still to be recorded as such: those among the rows of a window are in it, apart. Without order
a read also costs the same however many deliveries back off, since these have an index by time. The statements are made
by peewee once, because making one takes longer than running it.
"""

from collections.abc import Collection, Iterable
from operator import attrgetter

import msgspec
from msgspec.structs import replace
from peewee import SQL, Database, Expression, fn

from webhookd.base.models import Ordering, QueuedDelivery
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
_IS_IN_REACH = DeliveryTable.sequence >= SQL(":floor")
_IS_DUE = DeliveryTable.next_attempt_at <= _NOW
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
        Ordering.STRICT: (_in_sequence(_IS_IN_REACH, _IS_IN_REACH),),
        Ordering.KEY: (_in_sequence(_IS_IN_REACH & fresh, _IS_IN_REACH & backing_off),),
        Ordering.NONE: (
            _deliveries(_OWN & FRESH & _IS_IN_REACH, DeliveryTable.sequence),
            _deliveries(_BACKING_OFF_BY_TIME & _IS_IN_REACH & _IS_DUE, *_BY_TIME),
        ),
    }


def _retried_by_hand() -> dict[Ordering, EngineSQL]:
    chosen = _OWN & PENDING & _IS_IN_REACH & _IS_DUE & SQL("trigger = 'manual'")
    return {
        Ordering.KEY: _deliveries(chosen & DeliveryTable.ordering_key.is_null(), *_BY_TIME),
        Ordering.NONE: _deliveries(chosen, *_BY_TIME),
    }


_text_for_sqlite, _text_for_postgres = attrgetter("sqlite"), attrgetter("postgres")
_QUEUED = _queued()
_BY_HAND = _retried_by_hand()
_DUE_PARKED = _deliveries(_PARKED & _IS_DUE, DeliveryTable.next_attempt_at)
_LATER_PARKED = _earliest_of(DeliveryTable.next_attempt_at, _PARKED & (DeliveryTable.next_attempt_at > _NOW))
_LATER_PENDING = _earliest_of(
    DeliveryTable.next_attempt_at, _BACKING_OFF_BY_TIME & (DeliveryTable.next_attempt_at > _NOW)
)
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
    text = _text_for_postgres if is_postgres(database) else _text_for_sqlite
    in_flight, now = request.in_flight, request.now
    # The deliveries in flight may be among the first, so that many more are read.
    limit = request.limit + len(in_flight)
    values: dict[str, object] = {
        "endpoint_pk": request.endpoint_pk,
        "now": now,
        "floor": request.floor,
        "limit": limit,
    }
    if request.ordering is Ordering.KEY:
        values["blocked_keys"] = listed(database, sorted(request.blocked_keys))
    pending = [row for query in _QUEUED[request.ordering] for row in _rows(connection, text(query), values)]
    pending = [_due_if_fresh(delivery, now) for delivery in pending]
    if request.ordering is Ordering.NONE:
        pending = sorted(pending, key=_due_order)[:limit]
    by_hand = _rows(connection, text(_BY_HAND[request.ordering]), values) if request.ordering in _BY_HAND else []
    parked = _rows(connection, text(_DUE_PARKED), values)
    later = [_one(connection, text(_LATER_PARKED), values)]
    if request.ordering is not Ordering.STRICT:
        later.append(_one(connection, text(_LATER_PENDING), values))
    last_sequence, edition = next(iter(connection.execute(text(_SEQUENCE), values)), (0, 0))
    queued = _first(by_hand, pending)
    return Window(
        pending=_chosen(queued, in_flight, now),
        parked=_chosen(parked, in_flight, now),
        expired=_expired((*queued, *parked), in_flight, now),
        complete=max(len(pending), len(parked)) < limit,
        next_attempt_at=min((at for at in later if at is not None), default=None),
        last_sequence=last_sequence,
        edition=edition,
    )


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

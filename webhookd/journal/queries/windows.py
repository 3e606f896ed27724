"""An actor's window of its endpoint's queue: ids and times of the deliveries that may be sent next, never a body.

Each read walks a partial index from its start, so its cost doesn't depend on how many deliveries have ended. The
statements are made by peewee once, because making one takes longer than running it.
"""

from collections.abc import Collection

import msgspec
from peewee import SQL, Database, Expression, fn

from webhookd.base.models import Ordering, QueuedDelivery
from webhookd.journal.queries.bulk import SqlConnection, sql_of
from webhookd.journal.queries.schema import PARKED, PENDING, UNFINISHED, DeliveryTable, SequenceTable
from webhookd.journal.queries.structs import Rows
from webhookd.journal.rows import Window, WindowRequest

EXPIRED_A_READ = 500

_ROWS = Rows(QueuedDelivery, DeliveryTable)
_NOW = SQL(":now")
_OWN = DeliveryTable.endpoint_pk == SQL(":endpoint_pk")
_PENDING = _OWN & PENDING
_PARKED = _OWN & PARKED
_UNFINISHED = _OWN & UNFINISHED


def _deliveries(chosen: Expression, *order: object) -> str:
    return sql_of(_ROWS.select().where(chosen).order_by(*order)) + " LIMIT :limit"


def _earliest_of(column: object, chosen: Expression) -> str:
    return sql_of(DeliveryTable.select(fn.MIN(column)).where(chosen))


_ALIVE = _PENDING & (DeliveryTable.sequence >= SQL(":floor")) & (DeliveryTable.expires_at > _NOW)
_IS_DUE = DeliveryTable.next_attempt_at <= _NOW


def _queued() -> dict[Ordering, str]:
    blocked = SQL("(SELECT value FROM json_each(:blocked_keys))")
    no_key = DeliveryTable.ordering_key.is_null()
    return {
        Ordering.STRICT: _deliveries(_ALIVE, DeliveryTable.sequence),
        Ordering.KEY: _deliveries(
            _ALIVE & ((no_key & _IS_DUE) | (~no_key & DeliveryTable.ordering_key.not_in(blocked))),
            DeliveryTable.sequence,
        ),
        Ordering.NONE: _deliveries(_ALIVE & _IS_DUE, DeliveryTable.next_attempt_at, DeliveryTable.sequence),
    }


def _retried_by_hand() -> dict[Ordering, str]:
    chosen = _ALIVE & _IS_DUE & SQL("trigger = 'manual'")
    order = DeliveryTable.next_attempt_at, DeliveryTable.sequence
    return {
        Ordering.KEY: _deliveries(chosen & DeliveryTable.ordering_key.is_null(), *order),
        Ordering.NONE: _deliveries(chosen, *order),
    }


_QUEUED = _queued()
_BY_HAND = _retried_by_hand()
_DUE_PARKED = _deliveries(
    _PARKED & (DeliveryTable.expires_at > _NOW) & (DeliveryTable.next_attempt_at <= _NOW),
    DeliveryTable.next_attempt_at,
)
_EXPIRED = _deliveries(_UNFINISHED & (DeliveryTable.expires_at <= _NOW), DeliveryTable.expires_at)
_LATER_PARKED = _earliest_of(DeliveryTable.next_attempt_at, _PARKED & (DeliveryTable.next_attempt_at > _NOW))
_LATER_PENDING = _earliest_of(DeliveryTable.next_attempt_at, _PENDING & (DeliveryTable.next_attempt_at > _NOW))
_NEXT_EXPIRY = _earliest_of(DeliveryTable.expires_at, _UNFINISHED & (DeliveryTable.expires_at > _NOW))
_SEQUENCE = sql_of(
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
    connection: SqlConnection = database.connection()
    in_flight = request.in_flight
    values: dict[str, object] = {
        "endpoint_pk": request.endpoint_pk,
        "now": request.now,
        "floor": request.floor,
        # The deliveries in flight may be among the first, so that many more are read.
        "limit": request.limit + len(in_flight),
    }
    query = _QUEUED[request.ordering]
    keys = {"blocked_keys": msgspec.json.encode(sorted(request.blocked_keys)).decode()}
    pending = _rows(connection, query, values | keys if request.ordering is Ordering.KEY else values)
    by_hand = _rows(connection, _BY_HAND[request.ordering], values) if request.ordering in _BY_HAND else []
    parked = _rows(connection, _DUE_PARKED, values)
    expired = _rows(connection, _EXPIRED, values | {"limit": EXPIRED_A_READ})
    later = [_one(connection, _LATER_PARKED, values)]
    if request.ordering is not Ordering.STRICT:
        later.append(_one(connection, _LATER_PENDING, values))
    last_sequence, edition = next(iter(connection.execute(_SEQUENCE, values)), (0, 0))
    return Window(
        pending=_not_in_flight(_first(by_hand, pending), in_flight),
        parked=_not_in_flight(parked, in_flight),
        expired=_not_in_flight(expired, in_flight),
        complete=max(len(pending), len(parked)) < request.limit + len(in_flight),
        next_attempt_at=min((at for at in later if at is not None), default=None),
        next_expiry_at=_one(connection, _NEXT_EXPIRY, values),
        last_sequence=last_sequence,
        edition=edition,
    )


def _first(found: list[QueuedDelivery], others: list[QueuedDelivery]) -> list[QueuedDelivery]:
    if not found:
        return others
    pks = {delivery.pk for delivery in found}
    return [*found, *(delivery for delivery in others if delivery.pk not in pks)]


def _one(connection: SqlConnection, sql: str, values: dict[str, object]) -> float | None:
    return next((row[0] for row in connection.execute(sql, values)), None)


def _rows(connection: SqlConnection, sql: str, values: dict[str, object]) -> list[QueuedDelivery]:
    return msgspec.convert(list(connection.execute(sql, values)), list[QueuedDelivery])


def _not_in_flight(found: list[QueuedDelivery], in_flight: Collection[int]) -> tuple[QueuedDelivery, ...]:
    return tuple([delivery for delivery in found if delivery.pk not in in_flight])

"""An actor's window onto its endpoint's queue: ids and times of what may go next, never a body.

Each read walks a partial index from its beginning, so its cost doesn't depend on how much has ended; the predicates are
literals because SQLite matches a partial index by them. peewee makes each statement once, since making it takes longer
than running it.
"""

from collections.abc import Collection

import msgspec
from peewee import SQL, Database, Expression, fn

from webhookd.base.models import DeliveryStatus, Ordering, QueuedDelivery, Trigger
from webhookd.journal.queries.bulk import SqlConnection, SqlRow, sql_of
from webhookd.journal.queries.schema import DeliveryTable, SequenceTable
from webhookd.journal.rows import Window, WindowRequest

EXPIRED_A_READ = 500

_STATUSES = {status.value: status for status in DeliveryStatus}
_TRIGGERS = {trigger.value: trigger for trigger in Trigger}
_NOW = SQL(":now")
_OWN = DeliveryTable.endpoint_pk == SQL(":endpoint_pk")
_PENDING = _OWN & SQL("status = 'pending'")
_PARKED = _OWN & SQL("status = 'parked'")
_TO_BE_SENT = _OWN & SQL("status IN ('pending', 'parked')")


def _deliveries(chosen: Expression, *order: object) -> str:
    columns = [getattr(DeliveryTable, name) for name in QueuedDelivery.__struct_fields__]
    return sql_of(DeliveryTable.select(*columns).where(chosen).order_by(*order)) + " LIMIT :limit"


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
_EXPIRED = _deliveries(_TO_BE_SENT & (DeliveryTable.expires_at <= _NOW), DeliveryTable.expires_at)
_LATER_PARKED = _earliest_of(DeliveryTable.next_attempt_at, _PARKED & (DeliveryTable.next_attempt_at > _NOW))
_LATER_PENDING = _earliest_of(DeliveryTable.next_attempt_at, _PENDING & (DeliveryTable.next_attempt_at > _NOW))
_NEXT_EXPIRY = _earliest_of(DeliveryTable.expires_at, _TO_BE_SENT & (DeliveryTable.expires_at > _NOW))
_SEQUENCE = sql_of(
    SequenceTable.select(SequenceTable.last, SequenceTable.edition).where(
        SequenceTable.endpoint_pk == SQL(":endpoint_pk")
    )
)


def read(database: Database, request: WindowRequest) -> Window:
    """Return the part of an endpoint's queue that it may send from next.

    Strict order: the first `limit` pending ones by sequence, the head's back-off not looked at. By key: the same, less
    those of `blocked_keys`, and of those without a key only what is due. Without order: what is due, longest due first.
    Of those that no order holds back, the ones retried by hand come before all others. What is in flight is left out.
    """
    connection: SqlConnection = database.connection()
    in_flight = request.in_flight
    values: dict[str, object] = {
        "endpoint_pk": request.endpoint_pk,
        "now": request.now,
        "floor": request.floor,
        # What is in flight may be among the first, so as many more are read.
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


def statements() -> list[str]:
    """Return every statement of a read, with its parameters by name."""
    return [
        *_QUEUED.values(),
        *_BY_HAND.values(),
        _DUE_PARKED,
        _EXPIRED,
        _LATER_PARKED,
        _LATER_PENDING,
        _NEXT_EXPIRY,
        _SEQUENCE,
    ]


def _first(found: list[QueuedDelivery], others: list[QueuedDelivery]) -> list[QueuedDelivery]:
    if not found:
        return others
    pks = {delivery.pk for delivery in found}
    return [*found, *(delivery for delivery in others if delivery.pk not in pks)]


def _one(connection: SqlConnection, sql: str, values: dict[str, object]) -> float | None:
    return next((row[0] for row in connection.execute(sql, values)), None)


def _rows(connection: SqlConnection, sql: str, values: dict[str, object]) -> list[QueuedDelivery]:
    return [_delivery(row) for row in connection.execute(sql, values)]


def _delivery(row: SqlRow) -> QueuedDelivery:
    pk, id_, endpoint_pk, event_pk, ordering_key, sequence, status, trigger, *counts, due_at, created_at, ends_at = row
    attempts, refusals, backoff_step = counts
    return QueuedDelivery(
        pk=pk,
        id=id_,
        endpoint_pk=endpoint_pk,
        event_pk=event_pk,
        ordering_key=ordering_key,
        sequence=sequence,
        status=_STATUSES[status],
        trigger=_TRIGGERS[trigger],
        attempts=attempts,
        refusals=refusals,
        backoff_step=backoff_step,
        next_attempt_at=due_at,
        created_at=created_at,
        expires_at=ends_at,
    )


def _not_in_flight(found: list[QueuedDelivery], in_flight: Collection[int]) -> tuple[QueuedDelivery, ...]:
    return tuple([delivery for delivery in found if delivery.pk not in in_flight])

"""An actor's window onto its endpoint's queue: ids and times of what may go next, never a body.

Each read walks a partial index from its beginning, so its cost doesn't depend on how much has ended; the predicates are
literals because SQLite matches a partial index by them.
"""

from collections.abc import Sequence

from peewee import SQL, Database, Query, fn

from webhookd.journal.rows import Window, WindowRequest, row_of
from webhookd.journal.schema import DeliveryTable, EndpointStateTable
from webhookd.models import Ordering, QueuedDelivery

EXPIRED_A_READ = 500

_COLUMNS = [getattr(DeliveryTable, name) for name in QueuedDelivery.__struct_fields__]
_PENDING = SQL("status = 'pending'")
_PARKED = SQL("status = 'parked'")
_TO_BE_SENT = SQL("status IN ('pending', 'parked')")


def read(database: Database, request: WindowRequest) -> Window:
    """Return the part of an endpoint's queue that it may send from next.

    Strict order: the first `limit` pending ones by sequence, the head's back-off not looked at. By key: the same, less
    those of `blocked_keys`, and of those without a key only what is due. Without order: what is due, longest due first.
    What is in flight is left out.
    """
    own = DeliveryTable.endpoint_pk == request.endpoint_pk
    alive = own & (DeliveryTable.expires_at > request.now)
    # What is in flight may be among the first, so as many more are read.
    limit = request.limit + len(request.in_flight)
    pending = _rows(database, _line(request).where(alive & _PENDING).limit(limit))
    due_parked = alive & _PARKED & (DeliveryTable.next_attempt_at <= request.now)
    parked = _rows(
        database, DeliveryTable.select(*_COLUMNS).where(due_parked).order_by(DeliveryTable.next_attempt_at).limit(limit)
    )
    expired = _rows(
        database,
        DeliveryTable.select(*_COLUMNS)
        .where(own & _TO_BE_SENT & (DeliveryTable.expires_at <= request.now))
        .order_by(DeliveryTable.expires_at)
        .limit(EXPIRED_A_READ),
    )
    later = [_earliest(database, own & _PARKED & (DeliveryTable.next_attempt_at > request.now))]
    if request.ordering is not Ordering.STRICT:
        later.append(_earliest(database, own & _PENDING & (DeliveryTable.next_attempt_at > request.now)))
    expiring = DeliveryTable.select(fn.MIN(DeliveryTable.expires_at)).where(
        own & _TO_BE_SENT & (DeliveryTable.expires_at > request.now)
    )
    return Window(
        line=_grounded(pending, request),
        parked=_grounded(parked, request),
        expired=_grounded(expired, request),
        complete=len(pending) < limit and len(parked) < limit,
        next_attempt_at=min((at for at in later if at is not None), default=None),
        next_expiry_at=_one(expiring, database),
        last_sequence=_last_sequence(database, request.endpoint_pk),
    )


def _last_sequence(database: Database, endpoint_pk: int) -> int:
    query = EndpointStateTable.select(EndpointStateTable.last_sequence).where(
        EndpointStateTable.endpoint_pk == endpoint_pk
    )
    return next((sequence for (sequence,) in query.tuples().execute(database)), 0)


def _line(request: WindowRequest) -> Query:
    query = DeliveryTable.select(*_COLUMNS)
    match request.ordering:
        case Ordering.STRICT:
            return query.order_by(DeliveryTable.sequence)
        case Ordering.KEY:
            is_due = DeliveryTable.ordering_key.is_null() & (DeliveryTable.next_attempt_at <= request.now)
            is_free = DeliveryTable.ordering_key.is_null(False)
            if request.blocked_keys:
                is_free &= DeliveryTable.ordering_key.not_in(sorted(request.blocked_keys))
            return query.where(is_due | is_free).order_by(DeliveryTable.sequence)
        case Ordering.NONE:
            return query.where(DeliveryTable.next_attempt_at <= request.now).order_by(
                DeliveryTable.next_attempt_at, DeliveryTable.sequence
            )


def _earliest(database: Database, chosen: object) -> float | None:
    query = DeliveryTable.select(fn.MIN(DeliveryTable.next_attempt_at)).where(chosen)
    return _one(query, database)


def _one(query: Query, database: Database) -> float | None:
    [[at]] = query.tuples().execute(database)
    return at  # type: ignore[no-any-return]  # a column of REAL


def _rows(database: Database, query: Query) -> list[QueuedDelivery]:
    return [row_of(QueuedDelivery, row) for row in query.tuples().execute(database)]


def _grounded(found: Sequence[QueuedDelivery], request: WindowRequest) -> tuple[QueuedDelivery, ...]:
    return tuple(delivery for delivery in found if delivery.pk not in request.in_flight)

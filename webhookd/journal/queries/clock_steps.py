"""Correct the scheduled times of deliveries and endpoints after a step of the clock.

`move` is for a clock that was set while the server ran: all times move with it. `bring_in` is for a clock that was set
back while no server ran: times that are further ahead than any wait can be become earlier. `breaker.shifted` and
`clock_correction.correct` decide the new times; the functions here change the rows.
"""

from collections.abc import Callable

from peewee import SQL, Database, Field, Model, Query, fn

from webhookd.base.models import Credentials, DeliveryError, Endpoint, EndpointState
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.clock_correction import Bounds, Correction, correct
from webhookd.journal.queries import endpoints
from webhookd.journal.queries.dialect import statements, written
from webhookd.journal.queries.locks import lock, lock_line
from webhookd.journal.queries.schema import (
    BACKING_OFF_BY_TIME,
    PARKED,
    UNFINISHED,
    UNFINISHED_PARTS,
    DeliveryTable,
    EndpointStateTable,
    EndpointTable,
    SequenceTable,
)

Loaded = tuple[Endpoint, Credentials, EndpointState]

_ROUNDING_SECONDS = 0.01
_OWN = DeliveryTable.endpoint_pk == SQL(":endpoint_pk")
_LONG_OFF = (DeliveryTable.next_attempt_at > SQL(":retry_at")) & (
    SQL("error IS DISTINCT FROM 'throttled'") | (DeliveryTable.next_attempt_at > SQL(":throttled_at"))
)
# By indexes of their own, so that a query that finds nothing costs nothing. A fresh delivery is due whatever its time.
_WAITING = (BACKING_OFF_BY_TIME, PARKED)
_BEYOND = [
    *(written(DeliveryTable.select(SQL("1")).where(_OWN & part & _LONG_OFF).limit(SQL("1"))) for part in _WAITING),
    written(
        SequenceTable.select(SQL("1")).where(
            (SequenceTable.endpoint_pk == SQL(":endpoint_pk")) & (SequenceTable.last_expires_at > SQL(":expires_at"))
        )
    ),
]


def move(database: Database, seconds: float) -> None:
    """Move every scheduled time by that many seconds."""
    columns = [getattr(EndpointStateTable, name) for name in EndpointState.SHIFTED]
    _add(EndpointTable, seconds, EndpointTable.previous_secret_expires_at).execute(database)
    _add(EndpointStateTable, seconds, *columns).execute(database)
    _add(SequenceTable, seconds, SequenceTable.last_expires_at).execute(database)
    _add(DeliveryTable, seconds, DeliveryTable.next_attempt_at, DeliveryTable.expires_at).where(UNFINISHED).execute(
        database
    )


def load(
    database: Database, vault: Vault, endpoint_pk: int, bounds: Bounds, clock: Callable[[], float]
) -> tuple[Loaded | None, bool]:
    """Return an endpoint with its secrets and state, None if it has been deleted, as of one moment.

    The second value says whether one of its times is further ahead than `bounds` allow.
    """
    credentials = endpoints.credentials(database, vault, endpoint_pk, clock())
    if credentials is None:
        return None, False
    # The clock is read after the first query, which fixes the snapshot: all that it shows is from before this time.
    state = endpoints.state(database, endpoint_pk)
    correction = correct(state, bounds, clock())
    beyond = correction.state != state or is_beyond(database, endpoint_pk, correction)
    return (endpoints.by_pk(database, endpoint_pk)[0], credentials, state), beyond


def bring_in(database: Database, endpoint_pk: int, bounds: Bounds, clock: Callable[[], float]) -> None:
    """Correct the times of an endpoint and of its queue that are further ahead than `bounds` allow."""
    correction = correct(endpoints.changing_state(database, endpoint_pk), bounds, clock())
    endpoints.set_state(database, endpoint_pk, correction.state)
    correct_queue(database, endpoint_pk, correction)


def is_beyond(database: Database, endpoint_pk: int, correction: Correction) -> bool:
    """Whether a time in an endpoint's queue is later than it can be."""
    connection = statements(database)
    values = {
        "endpoint_pk": endpoint_pk,
        "retry_at": correction.retry_at + _ROUNDING_SECONDS,
        "throttled_at": correction.throttled_at + _ROUNDING_SECONDS,
        "expires_at": correction.expires_at + _ROUNDING_SECONDS,
    }
    return any(list(connection.execute(query.on(database), values)) for query in _BEYOND)


def correct_queue(database: Database, endpoint_pk: int, correction: Correction) -> None:
    """Correct the times of the deliveries that an endpoint has queued."""
    queue = (DeliveryTable.endpoint_pk == endpoint_pk) & UNFINISHED
    lock_line(database, endpoint_pk)
    lock(database, queue, DeliveryTable.pk)
    due, now, earlier = DeliveryTable.next_attempt_at, correction.now, correction.earlier_seconds
    is_throttled = DeliveryTable.error == DeliveryError.THROTTLED
    for chosen in _WAITING:
        own = (DeliveryTable.endpoint_pk == endpoint_pk) & chosen
        if earlier:
            _at_most(due, now).where(own & (due > now) & (due <= now + earlier)).execute(database)
            _add(DeliveryTable, -earlier, due).where(own & (due > now + earlier)).execute(database)
        for which, latest in (
            (is_throttled, correction.throttled_at),
            (~is_throttled | DeliveryTable.error.is_null(), correction.retry_at),
        ):
            _at_most(due, latest).where(own & which & (due > latest)).execute(database)
    _correct_expiry(database, endpoint_pk, correction.expires_at)


def _correct_expiry(database: Database, endpoint_pk: int, latest: float) -> None:
    """Have nothing in a queue expire later than that; reads the whole queue, if something in it might."""
    its_last = SequenceTable.last_expires_at
    own = (SequenceTable.endpoint_pk == endpoint_pk) & (its_last > latest)
    if not SequenceTable.update({its_last: round(latest, 3)}).where(own).execute(database):
        return
    expires_at = DeliveryTable.expires_at
    for chosen in UNFINISHED_PARTS:
        queued = (DeliveryTable.endpoint_pk == endpoint_pk) & chosen
        _at_most(expires_at, latest).where(queued & (expires_at > latest)).execute(database)


def _add(table: type[Model], seconds: float, *columns: Field) -> Query:
    return table.update({column: fn.ROUND((column + seconds).cast("numeric"), 3) for column in columns})


def _at_most(column: Field, at: float) -> Query:
    return DeliveryTable.update({column: round(at, 3)})

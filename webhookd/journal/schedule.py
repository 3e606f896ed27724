"""The times that deliveries and endpoints wait for, where the clock that they were taken from turns out to be wrong.

`move` is for a clock that was set while somebody looked: all goes with it. `rein_in` is for one that was set back
unseen: what lies further ahead than any wait can be is brought in.
"""

from collections.abc import Callable

from msgspec import Struct
from peewee import SQL, Database, Field, Model, Query, fn

from webhookd.delivery import breaker
from webhookd.journal import endpoints
from webhookd.journal.bulk import Connection, sql_of
from webhookd.journal.schema import TO_BE_SENT_BY_STATUS, DeliveryTable, EndpointStateTable, EndpointTable
from webhookd.models import Credentials, DeliveryError, Endpoint, EndpointState
from webhookd.secrets import Vault

Loaded = tuple[Endpoint, Credentials, EndpointState]

_ROUNDING_SECONDS = 0.01
_TO_BE_SENT = SQL("status IN ('pending', 'parked')")
_OWN = DeliveryTable.endpoint_pk == SQL(":endpoint_pk")
_LONG_OFF = (DeliveryTable.next_attempt_at > SQL(":retry_at")) & (
    SQL("error IS NOT 'throttled'") | (DeliveryTable.next_attempt_at > SQL(":throttled_at"))
)
# One for each partial index, which finds nothing in no time.
_BEYOND = [
    sql_of(DeliveryTable.select(SQL("1")).where(_OWN & SQL(chosen) & beyond).limit(SQL("1")))
    for chosen, beyond in (
        ("status = 'pending'", _LONG_OFF),
        ("status = 'parked'", _LONG_OFF),
        ("status IN ('pending', 'parked')", DeliveryTable.expires_at > SQL(":expires_at")),
    )
]


class Bounds(Struct, frozen=True, kw_only=True):
    """How far ahead an endpoint's times may lie, in seconds: a retry, one that a receiver asked for, an expiry."""

    retry_seconds: float
    throttled_seconds: float
    age_seconds: float


def move(database: Database, seconds: float) -> None:
    """Move all that is scheduled by so many seconds."""
    _add(DeliveryTable, seconds, DeliveryTable.next_attempt_at, DeliveryTable.expires_at).where(_TO_BE_SENT).execute(
        database
    )
    state = EndpointStateTable
    columns = (state.retry_at, state.paused_until, state.failing_since, state.last_failure_at, state.recovered_at)
    _add(state, seconds, *columns).execute(database)
    _add(EndpointTable, seconds, EndpointTable.previous_secret_expires_at).execute(database)


def load(
    database: Database, vault: Vault, endpoint_pk: int, bounds: Bounds, clock: Callable[[], float]
) -> tuple[Loaded | None, bool]:
    """Return an endpoint with its secrets and state, and whether anything of it lies further ahead than it can."""
    credentials = endpoints.credentials(database, vault, endpoint_pk, clock())
    if credentials is None:
        return None, False
    # After the first query, which fixes what is seen: all of it is from before, however long this waited for its turn.
    now = clock()
    state = endpoints.state(database, endpoint_pk)
    beyond = _within(state, bounds, now) != state or is_beyond(database, endpoint_pk, bounds, now)
    return (endpoints.by_pk(database, endpoint_pk)[0], credentials, state), beyond


def bring_in(database: Database, endpoint_pk: int, bounds: Bounds, clock: Callable[[], float]) -> None:
    """Bring an endpoint's state, and what it has queued, back within `bounds`."""
    now, state = clock(), endpoints.state(database, endpoint_pk)
    endpoints.set_state(database, endpoint_pk, _within(state, bounds, now))
    rein_in(database, endpoint_pk, bounds, now, state.last_failure_at)


def _within(state: EndpointState, bounds: Bounds, now: float) -> EndpointState:
    return breaker.reined_in(state, now=now, retry_seconds=bounds.retry_seconds, pause_seconds=bounds.throttled_seconds)


def is_beyond(database: Database, endpoint_pk: int, bounds: Bounds, now: float) -> bool:
    """Whether something that an endpoint has queued waits for longer than it can."""
    connection: Connection = database.connection()
    values = {
        "endpoint_pk": endpoint_pk,
        "retry_at": now + bounds.retry_seconds + _ROUNDING_SECONDS,
        "throttled_at": now + bounds.throttled_seconds + _ROUNDING_SECONDS,
        "expires_at": now + bounds.age_seconds + _ROUNDING_SECONDS,
    }
    return any(list(connection.execute(query, values)) for query in _BEYOND)


def rein_in(database: Database, endpoint_pk: int, bounds: Bounds, now: float, last_failure_at: float | None) -> None:
    """Bring in what an endpoint has queued to the latest that it can wait for, counted from `now`.

    Where its last failure is still to come, what waits is as far from `now` as it was from that.
    """
    due = DeliveryTable.next_attempt_at
    is_throttled = DeliveryTable.error == DeliveryError.THROTTLED.value
    for chosen in TO_BE_SENT_BY_STATUS:
        own = (DeliveryTable.endpoint_pk == endpoint_pk) & chosen
        if last_failure_at is not None and last_failure_at > now:
            _at_most(due, now).where(own & (due > now) & (due <= last_failure_at)).execute(database)
            _add(DeliveryTable, now - last_failure_at, due).where(own & (due > last_failure_at)).execute(database)
        for which, seconds in (
            (is_throttled, bounds.throttled_seconds),
            (~is_throttled | DeliveryTable.error.is_null(), bounds.retry_seconds),
        ):
            _at_most(due, now + seconds).where(own & which & (due > now + seconds)).execute(database)
    latest = now + bounds.age_seconds
    own = (DeliveryTable.endpoint_pk == endpoint_pk) & _TO_BE_SENT
    _at_most(DeliveryTable.expires_at, latest).where(own & (DeliveryTable.expires_at > latest)).execute(database)


def _add(table: type[Model], seconds: float, *columns: Field) -> Query:
    return table.update({column: fn.ROUND(column + seconds, 3) for column in columns})


def _at_most(column: Field, at: float) -> Query:
    return DeliveryTable.update({column: round(at, 3)})

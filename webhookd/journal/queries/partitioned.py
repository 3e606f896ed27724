"""Events with their bodies, and attempts: what PostgreSQL has in partitions of a day each, and SQLite in one table.

On PostgreSQL a body or an attempt is in the partition of its day, or in a table for rows of any day. A query names the
time by which what it looks for is in a partition, as a value: then the planner leaves out all other partitions.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec.structs import asdict
from peewee import SQL, ColumnBase, Database, Query

from webhookd.base.models import AcceptedEvent
from webhookd.journal.queries.dialect import is_postgres, statements
from webhookd.journal.queries.schema import AttemptTable, EventTable
from webhookd.journal.queries.structs import Rows
from webhookd.journal.record_rows import ATTEMPT_COLUMNS, Row
from webhookd.journal.rows import AttemptRow, EventRow

BODIES = (
    "SELECT event_pk, body FROM bodies WHERE event_pk = ANY(:event_pks) AND accepted_at = ANY(:times) "
    "UNION ALL SELECT event_pk, body FROM kept_bodies WHERE event_pk = ANY(:event_pks)"
)
_COLUMNS = tuple(name for name in AcceptedEvent.__struct_fields__ if name != "body")
_ADD_EVENT = (
    f"INSERT INTO events ({', '.join(_COLUMNS)}, deliveries, body_bytes) "  # noqa: S608 - of names in the code alone
    f"VALUES ({', '.join(f':{name}' for name in _COLUMNS)}, :deliveries, octet_length(:body)) RETURNING pk"
)
_KEEP_BODY = "INSERT INTO kept_bodies (event_pk, accepted_at, body) VALUES (?, ?, ?)"
_ADD_ATTEMPT = (
    f"INSERT INTO attempts ({', '.join(ATTEMPT_COLUMNS)}) "  # noqa: S608 - as above
    f"VALUES ({', '.join('?' * len(ATTEMPT_COLUMNS))})"
)
_KEEP_ATTEMPT = (
    f"INSERT INTO kept_attempts ({', '.join(ATTEMPT_COLUMNS)}, created_at) "  # noqa: S608 - as above
    f"VALUES ({', '.join('?' * (len(ATTEMPT_COLUMNS) + 1))})"
)
# A replay may have created a delivery on a later day than that of its event.
_REPLAYED = (
    "SELECT deliveries.pk, created_at FROM deliveries JOIN events ON events.pk = event_pk "
    "WHERE deliveries.pk = ANY(?) AND floor(created_at / 86400) > floor(accepted_at / 86400)"
)
_DELETE_REPLAYED = "DELETE FROM attempts WHERE delivery_pk = ANY(?) AND created_at = ANY(?)"


class KeptAttemptTable(AttemptTable):
    """An attempt that is in no partition."""

    class Meta:  # noqa: D106 - peewee's own
        table_name = "kept_attempts"


_EVENTS = Rows(EventRow, EventTable)
_ATTEMPTS = {table: Rows(AttemptRow, table) for table in (AttemptTable, KeptAttemptTable)}
_WITHOUT_BODY = [column for column in _EVENTS.columns if column is not EventTable.body]


def select_events(database: Database, *further: ColumnBase) -> Query:
    """Return the query for the columns that `events` makes events of, and further ones, to be narrowed down."""
    return EventTable.select(*(_WITHOUT_BODY if is_postgres(database) else _EVENTS.columns), *further)


def events(database: Database, found: Sequence[dict[str, Any]]) -> list[EventRow]:
    """Return the events that a query of `select_events` has found."""
    if is_postgres(database):
        its_bodies = bodies(database, {row["pk"]: row["accepted_at"] for row in found})
        found = [row | {"body": its_bodies[row["pk"]]} for row in found]
    return [_EVENTS.convert(row) for row in found]


def bodies(database: Database, accepted_at: Mapping[int, float]) -> dict[int, bytes]:
    """Return the bodies of events on PostgreSQL, by row number; `accepted_at` has the time of each event."""
    values = {"event_pks": [*accepted_at], "times": [*accepted_at.values()]}
    return dict(statements(database).execute(BODIES, values)) if accepted_at else {}


def attempts(
    database: Database, delivery_pk: int, created_at: float, *, before: int | None, limit: int
) -> list[AttemptRow]:
    """Return the last attempts of a delivery, newest first; with numbers below `before` if it is given."""
    if not is_postgres(database):
        return _attempts_in(AttemptTable, database, delivery_pk, before=before, limit=limit)
    own = SQL("created_at = %s", (created_at,))
    found = _attempts_in(AttemptTable, database, delivery_pk, own, before=before, limit=limit)
    found += _attempts_in(KeptAttemptTable, database, delivery_pk, before=before, limit=limit)
    return sorted(found, key=lambda row: -row.number)[:limit]


def _attempts_in(
    table: type[AttemptTable], database: Database, delivery_pk: int, *chosen: SQL, before: int | None, limit: int
) -> list[AttemptRow]:
    rows = _ATTEMPTS[table]
    query = rows.select().where(table.delivery_pk == delivery_pk, *chosen)
    if before is not None:
        query = query.where(table.number < before)
    return rows.all(database, query.order_by(table.number.desc()).limit(limit))


def add_event(database: Database, event: AcceptedEvent, deliveries: int) -> int:
    """Store an event other than with a batch of events; return its row number. Its body goes into no partition."""
    values = asdict(event) | {"deliveries": deliveries}
    if not is_postgres(database):
        return int(EventTable.insert(values).execute(database))
    [[pk]] = statements(database).execute(_ADD_EVENT, values)
    statements(database).execute(_KEEP_BODY, (pk, event.accepted_at, event.body))
    return int(pk)


def add_attempt(database: Database, row: Row, created_at: float) -> None:
    """Store an attempt of a delivery that was created at that time, other than with a batch; it is in no partition."""
    if is_postgres(database):
        statements(database).execute(_KEEP_ATTEMPT, (*row, created_at))
    else:
        statements(database).execute(_ADD_ATTEMPT, row)


def delete_bodies(database: Database, event_pks: Sequence[int]) -> None:
    """Delete the bodies of events that are neither in a partition nor deleted with the events themselves."""
    if is_postgres(database):
        statements(database).execute("DELETE FROM kept_bodies WHERE event_pk = ANY(?)", (event_pks,))


def delete_attempts(database: Database, delivery_pks: Sequence[int]) -> None:
    """Delete the attempts of deliveries, except those that are in the partition of the event's day."""
    if not is_postgres(database):
        AttemptTable.delete().where(AttemptTable.delivery_pk.in_(delivery_pks)).execute(database)
        return
    connection = statements(database)
    connection.execute("DELETE FROM kept_attempts WHERE delivery_pk = ANY(?)", (delivery_pks,))
    replayed = list(connection.execute(_REPLAYED, (delivery_pks,)))
    if replayed:
        pks, times = zip(*replayed, strict=True)
        connection.execute(_DELETE_REPLAYED, (list(pks), list(times)))

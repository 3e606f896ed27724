"""Row locks: what a change reads before it writes stays as it is until the change commits.

SQLite has one writer, and there none of this does anything. On PostgreSQL several transactions change rows at the same
time, at READ COMMITTED: each statement sees what was committed before it began. So a change locks rows before it reads
them. No two changes wait for each other, because all take their locks in one order, and those of a table in the order
of its key:

    heads, replays, endpoints, endpoint_state, secrets, events, sequences, deliveries, attempts
"""

from collections.abc import Collection
from typing import TypeVar

from peewee import SQL, ColumnBase, Database, Field, Model, Query, Select, fn

from webhookd.journal.queries.dialect import is_postgres
from webhookd.journal.queries.schema import EventTable, SequenceTable

Q = TypeVar("Q", bound=Query)

_TAKE_TURN = "SELECT 1 FROM heads WHERE name = 'audit' FOR UPDATE"


def take_turn(database: Database) -> None:
    """Wait until no other change of settings is under way, and keep others waiting until this one commits.

    It locks the last entry of the audit log, as each audited change does first.
    """
    if is_postgres(database):
        database.execute_sql(_TAKE_TURN).fetchall()


def lock(database: Database, chosen: ColumnBase, key: Field) -> None:
    """Lock the rows that a condition holds for, before any of them is changed or deleted; `key` is their table's."""
    if is_postgres(database):
        locked = key.model.select(key).where(chosen).order_by(key).for_update().alias("locked")
        list(Select([locked], [fn.COUNT(SQL("*"))]).tuples().execute(database))


def locking(database: Database, query: Q, table: type[Model]) -> Q:
    """Return a query that also locks the rows of `table` that it finds; it must be in the order of that table's key."""
    # The stubs know no `for_update` of queries in general: this one selects.
    return query.for_update(of=table) if is_postgres(database) else query  # type: ignore[attr-defined]


def lock_line(database: Database, endpoint_pk: int) -> None:
    """Lock an endpoint's row of sequences, before its queue is changed other than by an attempt."""
    lock(database, SequenceTable.endpoint_pk == endpoint_pk, SequenceTable.endpoint_pk)


def keep_events(database: Database, event_pks: Collection[int]) -> Collection[int]:
    """Keep retention from deleting these events until the change commits; return those that are still there."""
    if not is_postgres(database):
        return event_pks
    query = EventTable.select(EventTable.pk).where(EventTable.pk.in_(event_pks)).order_by(EventTable.pk)
    query = query.for_update("FOR KEY SHARE")  # type: ignore[arg-type]  # peewee takes the words as well
    return {pk for (pk,) in query.tuples().execute(database)}

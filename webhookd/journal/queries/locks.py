"""Row locks: what a change reads before it writes stays as it is until the change commits.

SQLite has one writer, and there none of this does anything. On PostgreSQL several transactions change rows at the same
time, at READ COMMITTED: each statement sees what was committed before it began. So a change locks rows before it reads
them. No two changes wait for each other, because all take their locks in one order, and those of a table in the order
of its key:

    heads, replays, endpoints, endpoint_state, meta, secrets, sessions, events, sequences, deliveries, attempts

`meta` has the check value of the master key, which a transaction that seals something holds.
"""

from collections.abc import Collection
from typing import TypeVar

from peewee import SQL, ColumnBase, Database, Field, Model, Query, Select, fn

from webhookd.crypto.vault import Vault
from webhookd.journal.errors import StaleKeyError
from webhookd.journal.queries.dialect import is_postgres
from webhookd.journal.queries.schema import EventTable, MetaTable, SequenceTable

Q = TypeVar("Q", bound=Query)

MASTER_KEY_CHECK = "master_key_check"
"""The name of a known value that is sealed with the key that seals everything."""

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


def hold_master_key(database: Database, vault: Vault) -> None:
    """Keep the master key from being changed until this transaction ends; called before anything is sealed.

    Raises StaleKeyError if another node has changed it, and the vault would still seal with the previous one.
    """
    if not is_postgres(database):
        return
    query = MetaTable.select(MetaTable.value).where(MetaTable.name == MASTER_KEY_CHECK)
    query = query.for_update("FOR SHARE")  # type: ignore[arg-type]  # peewee takes the words as well
    for (value,) in list(query.tuples().execute(database)):
        if not vault.seals_like(bytes(value)):
            raise StaleKeyError("another node has changed the master key")


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

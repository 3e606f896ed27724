"""The journal's tables on PostgreSQL, created and changed by numbered steps; `meta` has the number of the last one.

The steps that a database lacks are one transaction, under a lock that one process at a time holds: of any number of
processes that start at once, one makes the tables. A step only adds, so that nodes of older versions can go on with the
tables of this one, and can be started on them. One that does more says so, see `end_older`. Each statement waits only
briefly for a lock, because all later queries of that table wait behind it; the whole transaction is then tried again.
"""

import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from peewee import Database

from webhookd.base.errors import CommandError, JournalError
from webhookd.base.event_types import STARTING_EVENT_TYPES
from webhookd.base.stages import reached
from webhookd.journal.errors import MustRepeatError
from webhookd.journal.postgres import tables
from webhookd.journal.postgres.database import PostgresDatabase
from webhookd.journal.queries.schema import EventTypeTable
from webhookd.observe.logs import get_logger

_LOCK = 0x77686B64  # "whkd"
_LOCK_TIMEOUT = "100ms"
_PAUSES_SECONDS = (0.05, 0.5)
_PATIENCE_SECONDS = 60.0
MOVE_LOCK = 0x77686B6D  # "whkm"
"""The lock that a move of a journal from or to the database holds, so that no server starts meanwhile."""
VERSION, _OLDEST, _ERA, _CLUSTER = "version", "oldest", "era", "cluster"
MARK = "moving"
"""The name in `meta` of what a move writes first, and deletes when the journal is complete."""
OWN_META = (VERSION, _OLDEST, _ERA, _CLUSTER, MARK)
"""The rows of `meta` that a journal in a file doesn't have."""

_HAS_META = """
SELECT count(*) = 2 FROM pg_attribute WHERE attrelid = to_regclass('meta')
AND (attname, atttypid) IN (('name', 'text'::regtype), ('value', 'bytea'::regtype))
"""

_CLUSTER_AND_TIMELINE = """
SELECT system_identifier::numeric * 4294967296
    + ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint
FROM pg_control_system()
"""

_log = get_logger("journal")

Step = Callable[[Database, float], None]


def _first(database: Database, now: float) -> None:
    for script in tables.SCRIPTS:
        for statement in script.split(";\n"):
            if statement.strip():
                database.execute_sql(statement)
    for statement in tables.AUDIT:
        database.execute_sql(statement)
    EventTypeTable.insert_many(
        [
            {"name": name, "description": "", "deprecated": False, "created_at": now, "updated_at": now}
            for name in STARTING_EVENT_TYPES
        ]
    ).execute(database)
    _set(database, _ERA, 0)
    _set(database, _CLUSTER, _cluster(database))
    end_older(database, 1)


_STEPS: tuple[Step, ...] = (_first,)
CURRENT_VERSION = len(_STEPS)


def end_older(database: Database, version: int) -> None:
    """Note, in a step, that only programs that know this version of the tables can use them: it does more than add."""
    _set(database, _OLDEST, version)


def prepare(database: PostgresDatabase, *, now: float, steps: Sequence[Step] = _STEPS) -> None:
    """Create or upgrade the journal's tables if needed, and begin an era if the database has moved. Blocks.

    The tables of a newer version are used as they are, if that has only added to them. Raises JournalError for others
    of a newer version and for tables of another program, and CommandError if the user may not
    create tables or another program keeps a table locked.
    """
    given_up_at = time.monotonic() + _PATIENCE_SECONDS
    while not _is_current(database, len(steps)):
        try:
            with database.translated(), database.atomic():
                _make_current(database, now, steps)
        except MustRepeatError as error:
            if time.monotonic() > given_up_at:
                raise CommandError(f"can't change the tables of {database.name}: {error}") from error
            low, high = _PAUSES_SECONDS
            time.sleep(random.uniform(low, high))  # noqa: S311 - so that others come in between
    reached("migration.committed")


def _is_current(database: PostgresDatabase, newest: int) -> bool:
    with database.translated(), database.atomic():
        if not _value(database, "SELECT pg_try_advisory_xact_lock_shared(%s)", MOVE_LOCK):
            raise CommandError(f"`webhookd migrate` is moving the journal in {database.name}: wait until it has ended")
        version = _version(database, newest)
        return version >= newest and _get(database, _CLUSTER) == _cluster(database)


def _make_current(database: PostgresDatabase, now: float, steps: Sequence[Step]) -> None:
    """Run the missing steps, in a transaction."""
    take_lock(database)
    version = _version(database, len(steps))
    if version < len(steps):
        check_place(database, is_new=version == 0)
        if version:
            _log.info("journal.upgrading", version=version, to=len(steps), database=database.name)
        for number, step in enumerate(steps[version:], start=version + 1):
            step(database, now)
            _set(database, VERSION, number)
            reached("migration.step")
    if _get(database, _CLUSTER) != _cluster(database):
        _begin_era(database)


def take_lock(database: PostgresDatabase) -> None:
    """Be the only one that changes tables until this transaction ends."""
    # Another process may be making a large index: for that, it may take as long as it takes.
    database.execute_sql("SET LOCAL statement_timeout = 0")
    database.execute_sql("SET LOCAL lock_timeout = 0")
    database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
    database.execute_sql(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'")


def read_version(database: Database) -> int:
    """Return the version of the tables, 0 without tables."""
    return (_get(database, VERSION) or 0) if _has_meta(database) else 0


def _has_meta(database: Database) -> bool:
    return bool(_value(database, _HAS_META))


def is_usable(database: Database, newest: int) -> bool:
    """Whether a program that knows the steps up to `newest` can use the tables."""
    return read_version(database) <= newest or (_get(database, _OLDEST) or newest + 1) <= newest


def _version(database: PostgresDatabase, newest: int) -> int:
    """Return the version of the tables, 0 without tables.

    Raises JournalError for one that this program can't use, and CommandError for a journal of which there is a part.
    """
    version = read_version(database)
    if not version and read_mark(database) is not None:
        raise CommandError(
            f"the journal in {database.name} isn't complete, because moving it there was cut off: call `webhookd "
            "migrate` again, or drop its tables"
        )
    if not is_usable(database, newest):
        raise JournalError(
            f"the journal in {database.name} has version {version} and this webhookd knows {newest}: run the newer one"
        )
    return version


def read_mark(database: Database) -> str | None:
    """Return the mark of a move that isn't complete, or None."""
    mark = _value(database, "SELECT (SELECT value FROM meta WHERE name = %s)", MARK) if _has_meta(database) else None
    return None if mark is None else bytes(mark).decode()


def make_tables(database: PostgresDatabase, *, now: float) -> None:
    """Make the tables for a journal that is moved here, without a version; in a transaction with `take_lock`.

    What is moved is of an era of its own: its rows have no numbers of this cluster's transactions.
    """
    check_place(database, is_new=True)
    for step in _STEPS:
        step(database, now)
    _begin_era(database)


def check_place(database: PostgresDatabase, *, is_new: bool) -> None:
    """Raise CommandError or JournalError if the tables can't be made where they would be."""
    schema = _value(database, "SELECT current_schema()")
    if schema is None:
        raise CommandError(
            f"{database.name} has no schema for the tables: create one (CREATE SCHEMA), and name it in the URL "
            "(?options=-csearch_path%3DNAME) if it isn't called as the user is"
        )
    if not _value(database, "SELECT has_schema_privilege(%s, 'CREATE')", schema):
        user = _value(database, "SELECT current_user")
        raise CommandError(
            f"the user {user} may not create tables in the schema {schema} of {database.name}: "
            f'GRANT CREATE ON SCHEMA "{schema}" TO "{user}"'
        )
    taken = (
        "SELECT name FROM unnest(%s::text[]) name WHERE to_regclass(quote_ident(name)) IS NOT NULL ORDER BY 1 LIMIT 1"
    )
    if is_new and (name := _value(database, f"SELECT ({taken})", list(tables.TABLES))) is not None:
        raise JournalError(
            f"the schema {schema} of {database.name} has a table {name} of another program: give webhookd a database "
            "or a schema of its own"
        )


def _begin_era(database: PostgresDatabase) -> None:
    """Note that the rows so far have the transaction numbers of another cluster."""
    era = (_get(database, _ERA) or 0) + 1
    for table in ("events", "attempts", "kept_attempts"):
        # Not the partitions: what is added through their table has its defaults.
        database.execute_sql(f"ALTER TABLE ONLY {table} ALTER COLUMN era SET DEFAULT {era}")
    _set(database, _ERA, era)
    _set(database, _CLUSTER, _cluster(database))
    _log.info("journal.moved", database=database.name, era=era)


def read_era(database: Database) -> int:
    """Return the era whose transaction numbers are those of this cluster."""
    return _get(database, _ERA) or 0


def _cluster(database: Database) -> int:
    """Return what tells a count of transactions from others: after a failover the server may give some out again."""
    return int(_value(database, _CLUSTER_AND_TIMELINE))


def _get(database: Database, name: str) -> int | None:
    value = _value(database, "SELECT (SELECT value FROM meta WHERE name = %s)", name)
    return None if value is None else int(bytes(value))


def _set(database: Database, name: str, value: int) -> None:
    database.execute_sql(
        "INSERT INTO meta (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
        (name, str(value).encode()),
    )


def _value(database: Database, sql: str, *parameters: object) -> Any:
    return database.execute_sql(sql, parameters).fetchone()[0]

"""Drop the partitions of days that retention is done with.

    the events of the day are deleted, in steps (`queries.retention`)
    what is still needed of the day is moved out, in steps
    DETACH … CONCURRENTLY, which waits for the transactions that may still use the partition
    what was added meanwhile is moved out
    DROP

Events and deliveries are deleted when they are older than the retention, to the hour. What is left then of a day are
the events that still have pending deliveries: their bodies and attempts move to the tables for rows of any day. All
else in the partition belongs to nothing any more, and goes with it.

Each step can be repeated, and the next run goes on where one was interrupted, of whichever node. To detach can't be
part of a transaction, so nothing holds the leader's slot meanwhile: two nodes that both take themselves for the leader
may do the same at once, and one of them finds it done.
"""

import time
from calendar import timegm
from contextlib import suppress

import psycopg
from msgspec import Struct
from peewee import Database, PeeweeException

from webhookd.base.stages import reached
from webhookd.journal.errors import MustRepeatError
from webhookd.journal.postgres.database import PostgresDatabase
from webhookd.journal.postgres.partitions import LOCK_TIMEOUT, Partition, attached, day_of, partition_of

MARGIN_SECONDS = 3600.0
"""How much longer than its events a day stays: a delivery may have been created at a node whose clock is behind."""

_DETACHED = """
SELECT relname::text FROM pg_class
WHERE relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = 'bodies'::regclass)
    AND relkind = 'r' AND NOT relispartition AND relname ~ '^(bodies|attempts)_[0-9]{8}$' ORDER BY relname
"""
_IS_PARTITION = "SELECT relispartition FROM pg_class WHERE oid = to_regclass(quote_ident(%s))"
# The events that are left of the day and before it, a number of them at a time.
_LEFT = """
WITH chosen AS MATERIALIZED (
    SELECT pk, accepted_at FROM events
    WHERE (accepted_at, pk) > (%(at)s, %(pk)s) AND accepted_at < %(until)s ORDER BY accepted_at, pk LIMIT %(most)s
), """
_END = """
SELECT (SELECT count(*) FROM moved), accepted_at, pk FROM chosen ORDER BY accepted_at DESC, pk DESC LIMIT 1
"""
_MOVE = {
    "bodies": _LEFT
    + """moved AS (
    DELETE FROM "{name}" USING chosen WHERE event_pk = chosen.pk RETURNING "{name}".*
), kept AS (
    INSERT INTO kept_bodies SELECT * FROM moved ON CONFLICT DO NOTHING
)"""
    + _END,
    # A delivery may have any number of attempts.
    "attempts": _LEFT
    + """found AS MATERIALIZED (
    SELECT row.ctid FROM chosen JOIN deliveries ON event_pk = chosen.pk
    JOIN "{name}" AS row ON delivery_pk = deliveries.pk LIMIT %(most)s
), moved AS (
    DELETE FROM "{name}" WHERE ctid = ANY(ARRAY(SELECT ctid FROM found)) RETURNING *
), kept AS (
    INSERT INTO kept_attempts SELECT * FROM moved ON CONFLICT DO NOTHING
)"""
    + _END,
}
# Those of this user, whose queries may look for a row where it was.
_OLDER_SNAPSHOTS = """
SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND usename = current_user
AND pid <> pg_backend_pid() AND age(backend_xmin) > age(CAST(CAST(%s AS text) AS xid))
"""
_NEXT_TRANSACTION = "SELECT pg_snapshot_xmax(pg_current_snapshot())::xid::text"

Place = tuple[float, int]
"""An event that was looked at: when it was accepted, and its row number."""
FIRST: Place = (0.0, 0)


class MovedOut(Struct, frozen=True, kw_only=True):
    """What a step has moved, and how long it took; `place` is where the next one begins, None after the last."""

    rows: int
    seconds: float
    place: Place | None


def detached(database: Database) -> list[Partition]:
    """Return what was a partition, and has not been dropped."""
    found = []
    for (name,) in database.execute_sql(_DETACHED).fetchall():
        table, _, date = name.partition("_")
        with suppress(ValueError):  # a date that there isn't: not one of these
            found.append(partition_of(table, day_of(timegm(time.strptime(date, "%Y%m%d")))))
    return found


def is_over(partition: Partition, before: float) -> bool:
    """Whether all that is in a partition is older than that time."""
    return partition.ends_at + MARGIN_SECONDS <= before


def move_out(database: Database, partition: Partition, place: Place, most: int) -> MovedOut:
    """Move what is still needed of a partition that is over, of at most so many events after a place, or so many rows.

    Runs in a transaction of the leader, so that no other node deletes an event meanwhile.
    """
    began_at = time.monotonic()
    at, pk = place
    sql = _MOVE[partition.table].format(name=partition.name)
    values = {"at": at, "pk": pk, "until": partition.ends_at + MARGIN_SECONDS, "most": most}
    # It may have been dropped by another node that led before.
    is_there = database.execute_sql("SELECT to_regclass(quote_ident(%s)) IS NOT NULL", (partition.name,)).fetchone()[0]
    found = database.execute_sql(sql, values).fetchone() if is_there else None
    seconds = time.monotonic() - began_at
    if found is None:
        return MovedOut(rows=0, seconds=seconds, place=None)
    rows, *last = found
    return MovedOut(rows=rows, seconds=seconds, place=place if rows == most else (last[0], last[1]))


def next_transaction(database: PostgresDatabase) -> str:
    """Return a transaction number that is greater than those of all changes so far."""
    with database.translated():
        return str(database.execute_sql(_NEXT_TRANSACTION).fetchone()[0])


def has_older_snapshots(database: PostgresDatabase, transaction: str) -> bool:
    """Whether a query may be running that doesn't see the changes before a transaction number."""
    with database.translated():
        return bool(database.execute_sql(_OLDER_SNAPSHOTS, (transaction,)).fetchone()[0])


def detach(database: PostgresDatabase, partition: Partition) -> bool:
    """Try to detach a partition, or to finish that; return whether it is detached, or gone.

    It waits only briefly for transactions that use the partition, and leaves it half detached then.
    """
    with database.translated():
        known = {each.name: each for each in attached(database)}
    found = known.get(partition.name)
    if found is None:
        return True
    how = "FINALIZE" if found.is_leaving else "CONCURRENTLY"
    try:
        with database.translated():
            database.execute_sql(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
            database.execute_sql(f'ALTER TABLE {found.table} DETACH PARTITION "{found.name}" {how}')
    except MustRepeatError:
        return False
    except PeeweeException as error:
        if not _is_done_by_another(error):
            raise
        return False
    return True


def drop(database: PostgresDatabase, partition: Partition) -> bool:
    """Try to drop a partition that was detached; return whether it is gone."""
    try:
        with database.translated(), database.atomic():
            database.execute_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
            database.execute_sql(f'LOCK TABLE "{partition.name}" IN ACCESS EXCLUSIVE MODE')
            if database.execute_sql(_IS_PARTITION, (partition.name,)).fetchone()[0]:
                return False  # it isn't the one that was detached
            database.execute_sql(f'DROP TABLE "{partition.name}"')
    except MustRepeatError:
        return False
    except PeeweeException as error:
        if not _is_done_by_another(error):
            raise
    reached("partition.dropped")
    return True


def _is_done_by_another(error: PeeweeException) -> bool:
    """Whether another process has just detached or dropped it, or begins to."""
    causes = (psycopg.errors.UndefinedTable, psycopg.errors.ObjectNotInPrerequisiteState)
    return isinstance(error.__cause__ or error.__context__, causes)

"""The partitions of bodies and attempts: one a day (UTC), made a week ahead by any node.

A partition is made as a table of its own and then attached, which waits for no reader or writer. `CREATE TABLE …
PARTITION OF` would wait for a backup that reads the table, and every publisher behind it. There is no default
partition: while it has rows, none can be attached without reading them, and none can be detached without waiting.

A row for a day without a partition is no error of its transaction: see `PostgresStorage`. Whatever is older than the
first partition goes into a table that keeps rows of any day (`kept_bodies`, `kept_attempts`), and every query reads
that as well. So it never matters where a row is, and partitions are never made for days that retention has dropped.
"""

import random
import re
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from peewee import Database, PeeweeException

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal.errors import MustRepeatError
from webhookd.journal.postgres.database import PostgresDatabase, reason_of

T = TypeVar("T")

DAY_SECONDS = 86_400
DAYS_AHEAD = 7
KEYS = {"bodies": "accepted_at", "attempts": "created_at"}
"""The partitioned tables, and the time that a row's day goes by."""

LOCK_TIMEOUT = "100ms"
"""How long a change of a table waits for a lock: all later queries of that table may wait behind it."""

_LOCK = 0x77686470  # "whdp"
_TRIES = 20
_RETRY_AFTER_SECONDS = 60
_PAUSES_SECONDS = (0.02, 0.2)
_ATTACHED = """
SELECT parent.relname::text, child.relname::text, pg_get_expr(child.relpartbound, child.oid), inhdetachpending
FROM pg_inherits JOIN pg_class AS parent ON parent.oid = inhparent JOIN pg_class AS child ON child.oid = inhrelid
WHERE inhparent = ANY(ARRAY['bodies', 'attempts']::regclass[])
"""
_TAKEN = "SELECT count(*) > 0 FROM unnest(%s::text[]) AS name WHERE to_regclass(quote_ident(name)) IS NOT NULL"
_BOUNDS = re.compile(r"FOR VALUES FROM \('([^']+)'\) TO \('([^']+)'\)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """A partition of `table`, with the rows from `begins_at` on and before `ends_at`.

    `is_leaving`: it is being detached, and new transactions find it no more.
    """

    table: str
    name: str
    begins_at: float
    ends_at: float
    is_leaving: bool = False


def day_of(at: float) -> int:
    """Return the day of a time, counted from 1970 on."""
    return int(at // DAY_SECONDS)


def partition_of(table: str, day: int) -> Partition:
    """Return the partition of a day, whether it has been made or not."""
    date = time.strftime("%Y%m%d", time.gmtime(day * DAY_SECONDS))
    begins_at = float(day * DAY_SECONDS)
    return Partition(table=table, name=f"{table}_{date}", begins_at=begins_at, ends_at=begins_at + DAY_SECONDS)


def attached(database: Database) -> list[Partition]:
    """Return all partitions in the order of their days, those that are being detached included."""
    found = []
    for table, name, text, is_leaving in database.execute_sql(_ATTACHED).fetchall():
        bounds = _BOUNDS.fullmatch(text)
        if bounds is not None:  # otherwise somebody else has made it
            begins_at, ends_at = float(bounds[1]), float(bounds[2])
            found.append(Partition(table=table, name=name, begins_at=begins_at, ends_at=ends_at, is_leaving=is_leaving))
    return sorted(found, key=lambda each: (each.begins_at, each.table))


def covered_until(partitions: Iterable[Partition], now: float) -> float:
    """Return the time up to which each day from today on has its partitions; it is not after `now` without today's."""
    known = {(each.table, each.begins_at) for each in partitions if not each.is_leaving}
    at = float(day_of(now) * DAY_SECONDS)
    while all((table, at) in known for table in KEYS):
        at += DAY_SECONDS
    return at


def days_ahead(covered: float, now: float) -> int:
    """Return for how many days after today there are partitions; -1 if today has none."""
    return day_of(covered) - day_of(now) - 1


def make_ahead(database: PostgresDatabase, now: float) -> float:
    """Make the missing partitions of today and of a week ahead; return the time up to which they reach.

    Raises MustRepeatError if a lock can't be had, and ConnectionLostError and JournalFullError.
    """
    today = day_of(now)
    make_days(database, range(today, today + DAYS_AHEAD + 1))
    with database.translated():
        return covered_until(attached(database), now)


def make_days(database: PostgresDatabase, days: Sequence[int]) -> None:
    """Make the missing partitions of some days; several processes may do so at the same time.

    Raises MustRepeatError if a lock can't be had, and ConnectionLostError and JournalFullError.
    """
    with database.translated():
        known = {(each.table, each.begins_at) for each in attached(database)}
    for day in days:
        wanted = [partition_of(table, day) for table in KEYS]
        missing = [each for each in wanted if (each.table, each.begins_at) not in known]
        if missing:
            _repeated(lambda missing=missing: _make(database, missing))  # type: ignore[misc]  # it is called here


def make_place(database: PostgresDatabase, table: str, at: float) -> float | None:
    """Make the partition that a row lacks; return None.

    For a row that is older than the first partition, return the time before which rows go into the table that keeps
    them: its day was dropped. Raises MustRepeatError if a lock can't be had, and Rejected JOURNAL_UNREACHABLE if the
    user may not make a partition.
    """
    with database.translated():
        present = [each for each in attached(database) if each.table == table and not each.is_leaving]
    wanted = partition_of(table, day_of(at))
    if present and at < present[0].begins_at:
        return present[0].begins_at
    try:
        is_there = _repeated(lambda: _make(database, [wanted]))
    except PeeweeException as error:
        raise Rejected(
            ErrorCode.JOURNAL_UNREACHABLE,
            f"the database has no partition {wanted.name}, and none can be made: {reason_of(error)}",
            retry_after_seconds=_RETRY_AFTER_SECONDS,
        ) from error
    return None if is_there else wanted.ends_at


def _make(database: PostgresDatabase, wanted: Sequence[Partition]) -> bool:
    """Make partitions that were missing, in one transaction, unless another process has made them.

    Return whether all of them are there: none can be made whose day was detached and is not dropped yet.
    """
    with database.translated(), database.atomic():
        database.execute_sql(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'")
        database.execute_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
        known = {(each.table, each.begins_at) for each in attached(database)}
        missing = [each for each in wanted if (each.table, each.begins_at) not in known]
        names = [each.name for each in missing]
        if database.execute_sql(_TAKEN, (names,)).fetchone()[0]:
            return False
        for each in missing:
            key, begins_at, ends_at = KEYS[each.table], int(each.begins_at), int(each.ends_at)
            # With the check nothing has to be read to attach it, and detaching it adds none.
            database.execute_sql(
                f'CREATE TABLE "{each.name}" (LIKE {each.table} INCLUDING INDEXES INCLUDING STORAGE, '
                f"CHECK ({key} >= {begins_at} AND {key} < {ends_at}))"
            )
            database.execute_sql(
                f'ALTER TABLE {each.table} ATTACH PARTITION "{each.name}" FOR VALUES FROM ({begins_at}) TO ({ends_at})'
            )
    return True


def _repeated(change: Callable[[], T]) -> T:
    """Make a change of tables, again and again while others hold what it needs."""
    tries = 1
    while True:
        try:
            return change()
        except MustRepeatError:
            if tries == _TRIES:
                raise
            tries += 1
            time.sleep(random.uniform(*_PAUSES_SECONDS))  # noqa: S311 - so that others come in between

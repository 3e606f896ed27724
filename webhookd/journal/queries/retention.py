"""Retention: delete events older than `retention_days` whose deliveries have all ended, with deliveries and attempts.

It is done in small writes between other batches, each as large as possible without making commits wait long. The freed
pages go back to the file system.

On PostgreSQL the bodies and attempts of such events stay in the partitions of their days, where nothing finds them,
until the whole day is dropped. Deleted at once are those that are in no partition, and the attempts of replays, whose
day may be long after that of the event.
"""

import time

from msgspec import Struct
from peewee import SQL, Database, fn

from webhookd.journal.queries import partitioned
from webhookd.journal.queries.dialect import is_postgres
from webhookd.journal.queries.locks import lock
from webhookd.journal.queries.schema import UNFINISHED, DeliveryTable, EventTable

FIRST_ROWS = 100
ROWS_A_STEP = range(10, 2001)
QUICK_SECONDS, SLOW_SECONDS = 0.005, 0.01
PAGES_A_STEP = 250


class Pruned(Struct, frozen=True, kw_only=True):
    """How many events and deliveries a step has deleted, and how long it took."""

    rows: int
    seconds: float


def prune(database: Database, before: float, rows: int) -> Pruned:
    """Delete the oldest ended events accepted before that time, with their deliveries: at most `rows` of each.

    An event with a pending or parked delivery stays until that has ended, by its age at the latest. An event with more
    deliveries than a step takes loses its deliveries first, step by step.
    """
    began_at = time.monotonic()
    unfinished = DeliveryTable.select(SQL("1")).where((DeliveryTable.event_pk == EventTable.pk) & UNFINISHED)
    query = (
        EventTable.select(EventTable.pk)
        .where((EventTable.accepted_at < before) & ~fn.EXISTS(unfinished))
        .order_by(EventTable.pk)
        .limit(rows)
    )
    old = [row[0] for row in query.tuples().execute(database)]
    if is_postgres(database):
        # One of their deliveries may have been queued again before they were locked.
        lock(database, EventTable.pk.in_(old), EventTable.pk)
        old = [row[0] for row in query.where(EventTable.pk.in_(old)).tuples().execute(database)]
    theirs = DeliveryTable.select(DeliveryTable.pk).where(DeliveryTable.event_pk.in_(old)).limit(rows)
    deliveries = [row[0] for row in theirs.tuples().execute(database)]
    partitioned.delete_attempts(database, deliveries)
    DeliveryTable.delete().where(DeliveryTable.pk.in_(deliveries)).execute(database)
    if len(deliveries) < rows:  # otherwise some may be left
        partitioned.delete_bodies(database, old)
        EventTable.delete().where(EventTable.pk.in_(old)).execute(database)
        return Pruned(rows=len(old) + len(deliveries), seconds=time.monotonic() - began_at)
    return Pruned(rows=len(deliveries), seconds=time.monotonic() - began_at)


def next_rows(rows: int, seconds: float) -> int:
    """Return how many rows the next step takes, after one of `rows` that took `seconds`."""
    if seconds > SLOW_SECONDS:
        return max(rows // 2, ROWS_A_STEP.start)
    return min(rows * 2, ROWS_A_STEP[-1]) if seconds < QUICK_SECONDS else rows


def give_back_pages(database: Database) -> bool:
    """Return at most 250 freed pages to the file system; return whether there are enough for another step.

    PostgreSQL's own vacuum does that there.
    """
    if is_postgres(database):
        return False
    database.execute_sql(f"PRAGMA incremental_vacuum({PAGES_A_STEP})").fetchall()
    return int(database.execute_sql("PRAGMA freelist_count").fetchone()[0]) >= PAGES_A_STEP

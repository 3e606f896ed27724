"""Forgetting: events whose deliveries have all ended go after `retention_days`, with all that hangs on them.

Done in small writes between other batches; each is made as large as the disk allows without a commit waiting long. The
freed pages go back to the disk.
"""

import time

from msgspec import Struct
from peewee import SQL, Database, fn

from webhookd.journal.queries.schema import AttemptTable, DeliveryTable, EventTable

FIRST_ROWS = 100
ROWS_A_STEP = range(10, 2001)
QUICK_SECONDS, SLOW_SECONDS = 0.005, 0.01
PAGES_A_STEP = 250


class Pruned(Struct, frozen=True, kw_only=True):
    """What one step forgot, in events and deliveries, and how long it took."""

    rows: int
    seconds: float


def prune(database: Database, before: float, rows: int) -> Pruned:
    """Delete the oldest ended events accepted before that time with what hangs on them, `rows` of each kind at most.

    An event with a delivery still to be sent stays until that has ended, by age at the latest. One with more
    deliveries than a step takes loses them first, step by step.
    """
    began_at = time.monotonic()
    unfinished = DeliveryTable.select(SQL("1")).where(
        (DeliveryTable.event_pk == EventTable.pk) & SQL("status IN ('pending', 'parked')")
    )
    query = (
        EventTable.select(EventTable.pk)
        .where((EventTable.accepted_at < before) & ~fn.EXISTS(unfinished))
        .order_by(EventTable.pk)
        .limit(rows)
    )
    old = [row[0] for row in query.tuples().execute(database)]
    theirs = DeliveryTable.select(DeliveryTable.pk).where(DeliveryTable.event_pk.in_(old)).limit(rows)
    deliveries = [row[0] for row in theirs.tuples().execute(database)]
    AttemptTable.delete().where(AttemptTable.delivery_pk.in_(deliveries)).execute(database)
    DeliveryTable.delete().where(DeliveryTable.pk.in_(deliveries)).execute(database)
    if len(deliveries) < rows:  # else some may be left
        EventTable.delete().where(EventTable.pk.in_(old)).execute(database)
        return Pruned(rows=len(old) + len(deliveries), seconds=time.monotonic() - began_at)
    return Pruned(rows=len(deliveries), seconds=time.monotonic() - began_at)


def next_rows(rows: int, seconds: float) -> int:
    """Return how many rows the next step takes, after one of `rows` that took so long."""
    if seconds > SLOW_SECONDS:
        return max(rows // 2, ROWS_A_STEP.start)
    return min(rows * 2, ROWS_A_STEP[-1]) if seconds < QUICK_SECONDS else rows


def give_back_pages(database: Database) -> bool:
    """Return freed pages to the file system, a bounded number at a time; whether there are enough for another step."""
    database.execute_sql(f"PRAGMA incremental_vacuum({PAGES_A_STEP})").fetchall()
    return int(database.execute_sql("PRAGMA freelist_count").fetchone()[0]) >= PAGES_A_STEP

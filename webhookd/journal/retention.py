"""Forgetting: events whose deliveries have all ended go after `retention_days`, with all that hangs on them.

Done in small writes between other batches, so that no commit waits long; the freed pages go back to the disk.
"""

from peewee import SQL, Database, fn

from webhookd.journal.schema import AttemptTable, DeliveryTable, EventTable

EVENTS_A_STEP = 500
_PAGES_A_STEP = 2000


def prune(database: Database, before: float, limit: int = EVENTS_A_STEP) -> int:
    """Delete the oldest ended events accepted before that time, at most `limit`; return how many there were.

    An event with a delivery still to be sent stays until that has ended, by age at the latest.
    """
    unfinished = DeliveryTable.select(SQL("1")).where(
        (DeliveryTable.event_pk == EventTable.pk) & SQL("status IN ('pending', 'parked')")
    )
    query = (
        EventTable.select(EventTable.pk)
        .where((EventTable.accepted_at < before) & ~fn.EXISTS(unfinished))
        .order_by(EventTable.pk)
        .limit(limit)
    )
    old = [row[0] for row in query.tuples().execute(database)]
    if not old:
        return 0
    deliveries = DeliveryTable.select(DeliveryTable.pk).where(DeliveryTable.event_pk.in_(old))
    AttemptTable.delete().where(AttemptTable.delivery_pk.in_(deliveries)).execute(database)
    DeliveryTable.delete().where(DeliveryTable.event_pk.in_(old)).execute(database)
    EventTable.delete().where(EventTable.pk.in_(old)).execute(database)
    return len(old)


def give_back_pages(database: Database) -> None:
    """Return freed pages to the file system, a bounded number at a time."""
    database.execute_sql(f"PRAGMA incremental_vacuum({_PAGES_A_STEP})").fetchall()

"""The deliveries of all endpoints that are older than they may be, and when the next one will be.

One index by `expires_at` is for all endpoints. One that began with the endpoint would tell each actor of its own, but
then each success would write a page of its endpoint's part of it.
"""

from math import nextafter

import msgspec
from peewee import SQL, Database, fn

from webhookd.base.models import QueuedDelivery
from webhookd.journal.queries.dialect import statements, written
from webhookd.journal.queries.schema import UNFINISHED, DeliveryTable
from webhookd.journal.queries.structs import Rows
from webhookd.journal.rows import Expired

A_READ = 500

_NOW = SQL(":now")
EXPIRED = written(
    Rows(QueuedDelivery, DeliveryTable)
    .select()
    .where(UNFINISHED & (DeliveryTable.expires_at <= _NOW) & SQL("(expires_at, pk) > (:expires_at, :pk)"))
    .order_by(DeliveryTable.expires_at, DeliveryTable.pk),
    " LIMIT :limit",
)
NEXT = written(
    DeliveryTable.select(fn.MIN(DeliveryTable.expires_at)).where(
        UNFINISHED & (DeliveryTable.expires_at > SQL(":later_than"))
    )
)


def expired(
    database: Database,
    now: float,
    *,
    after: QueuedDelivery | None = None,
    floor: float = 0.0,
    limit: int = A_READ,
) -> Expired:
    """Return the deliveries that have expired by now, the earliest first; those that follow `after`, if it is given.

    Only what expires at `floor` or later is looked at (see `floors`).
    """
    connection = statements(database)
    expires_at, pk = (floor, 0) if after is None else (after.expires_at, after.pk)
    values = {"now": now, "expires_at": expires_at, "pk": pk, "limit": limit}
    found = msgspec.convert(list(connection.execute(EXPIRED.on(database), values)), list[QueuedDelivery])
    later_than = max(now, nextafter(floor, 0.0))
    [[next_expiry_at]] = connection.execute(NEXT.on(database), {"later_than": later_than})
    return Expired(deliveries=found, complete=len(found) < limit, next_expiry_at=next_expiry_at)

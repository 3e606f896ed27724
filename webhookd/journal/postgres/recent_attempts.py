"""The last attempts of all nodes, for live views: read from the journal, in the order of transactions.

As in the feed of events, only what is below the oldest open transaction is shown, so nothing is added before an attempt
that has been shown. What the journal doesn't have of an attempt is what it has of the delivery and the endpoint now.

An attempt that was just made may be in the partition of any day. To plan a query of 90 partitions takes ten times as
long as to run it, so it is planned once for each connection, for any place.
"""

from collections.abc import Sequence

import msgspec
from peewee import Database

from webhookd.journal.queries.dialect import for_psycopg
from webhookd.observe.attempt_feed import MOST_KEPT, AttemptFacts, FeedPage, Place

# The attempts by the indexes that have them in this order; then what belongs to them.
PLANNED_ONCE = "SET LOCAL plan_cache_mode = force_generic_plan"
NEWEST = f"""
WITH newest AS MATERIALIZED (
    SELECT * FROM (SELECT * FROM attempts UNION ALL SELECT * FROM kept_attempts) AS attempts
    WHERE (era, xid, delivery_pk, number) > (
            CAST(:era AS bigint), CAST(:transaction AS xid8), CAST(:delivery_pk AS bigint), CAST(:number AS bigint)
        )
        AND (era, xid) < (
            (SELECT CAST(convert_from(value, 'UTF8') AS bigint) FROM meta WHERE name = 'era'),
            pg_snapshot_xmin(pg_current_snapshot())
        )
    ORDER BY era DESC, xid DESC, delivery_pk DESC, number DESC LIMIT {MOST_KEPT + 1}
)
SELECT newest.era, CAST(CAST(newest.xid AS text) AS bigint), newest.delivery_pk, newest.number,
    newest.id, endpoints.id AS endpoint_id, endpoints.organization_id, deliveries.id AS delivery_id,
    events.id AS event_id, deliveries.event_type, events.traceparent, deliveries.sequence, newest.number,
    newest.trigger, newest.started_at, newest.duration_seconds,
    greatest(newest.started_at - deliveries.created_at, 0) AS waited_seconds,
    events.body_bytes, newest.remote_address, CAST(NULL AS boolean) AS is_reused,
    newest.response_status, newest.error, newest.detail, newest.retry_after_seconds,
    CASE WHEN newest.error IS NULL THEN 'succeeded' WHEN is_last THEN deliveries.status ELSE 'pending' END AS status,
    CASE WHEN is_last THEN deliveries.refusals ELSE 0 END AS refusals,
    CASE WHEN is_last AND newest.error IS NOT NULL THEN deliveries.next_attempt_at END AS next_attempt_at,
    coalesce(endpoint_state.breaker, 'closed') AS breaker,
    coalesce(endpoint_state.consecutive_faults, 0) AS consecutive_faults
FROM newest JOIN deliveries ON deliveries.pk = newest.delivery_pk AND deliveries.sequence > 0
JOIN events ON events.pk = deliveries.event_pk JOIN endpoints ON endpoints.pk = deliveries.endpoint_pk
LEFT JOIN endpoint_state ON endpoint_state.endpoint_pk = deliveries.endpoint_pk
CROSS JOIN LATERAL (SELECT newest.number = deliveries.attempts AS is_last) AS facts
ORDER BY newest.era, newest.xid, newest.delivery_pk, newest.number
"""
_FIRST: Place = (0, 0, 0, 0)
_PLACE_COLUMNS = len(_FIRST)


def after(database: Database, place: Place | None) -> FeedPage:
    """Return the attempts after a place that an answer has given, or without one the last ones, oldest first.

    They are at most `MOST_KEPT`; if there are more, the older ones are missing, which is a gap after a place.
    """
    # As texts: the driver would give numbers of different size different types, and prepare a statement for each.
    values = [str(each) for each in place or _FIRST]
    connection = database.connection()
    connection.execute(PLANNED_ONCE)
    asked = dict(zip(("era", "transaction", "delivery_pk", "number"), values, strict=True))
    rows = connection.execute(for_psycopg(NEWEST), asked, prepare=True).fetchall()
    has_more = len(rows) > MOST_KEPT
    found = [(tuple(row[:_PLACE_COLUMNS]), _facts(row[_PLACE_COLUMNS:])) for row in rows[-MOST_KEPT:]]
    last = found[-1][0] if found else place or _FIRST
    return FeedPage(attempts=found, last=last, gap=place is not None and has_more)


def _facts(row: Sequence[object]) -> AttemptFacts:
    return msgspec.convert(dict(zip(AttemptFacts.__struct_fields__, row, strict=True)), AttemptFacts)

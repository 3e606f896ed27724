"""The last attempts of all nodes, for live views: read from the journal, in the order of transactions.

As in the feed of events, only what is below the oldest open transaction is shown, so nothing is added before an attempt
that has been shown. What the journal doesn't have of an attempt is what it has of the delivery and the endpoint now.
"""

from collections.abc import Sequence

import msgspec
from peewee import Database

from webhookd.journal.queries.dialect import statements
from webhookd.observe.attempt_feed import MOST_KEPT, AttemptFacts, FeedPage, Place

# The attempts by the index that has them in this order; then what belongs to them.
_NEWEST = """
WITH newest AS MATERIALIZED (
    SELECT * FROM attempts
    WHERE (era, xid, delivery_pk, number) > (:era, CAST(CAST(:transaction AS text) AS xid8), :delivery_pk, :number)
        AND (era, xid) < (
            (SELECT CAST(convert_from(value, 'UTF8') AS bigint) FROM meta WHERE name = 'era'),
            pg_snapshot_xmin(pg_current_snapshot())
        )
    ORDER BY era DESC, xid DESC, delivery_pk DESC, number DESC LIMIT :most
)
SELECT newest.era, CAST(CAST(newest.xid AS text) AS bigint), newest.delivery_pk, newest.number,
    newest.id, endpoints.id AS endpoint_id, endpoints.organization_id, deliveries.id AS delivery_id,
    events.id AS event_id, deliveries.event_type, events.traceparent, deliveries.sequence, newest.number,
    newest.trigger, newest.started_at, newest.duration_seconds,
    greatest(newest.started_at - deliveries.created_at, 0) AS waited_seconds,
    octet_length(events.body) AS body_bytes, newest.remote_address, CAST(NULL AS boolean) AS is_reused,
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
    era, transaction, delivery_pk, number = place or _FIRST
    asked = {
        "era": era,
        "transaction": transaction,
        "delivery_pk": delivery_pk,
        "number": number,
        "most": MOST_KEPT + 1,
    }
    rows = list(statements(database).execute(_NEWEST, asked))
    has_more = len(rows) > MOST_KEPT
    found = [(tuple(row[:_PLACE_COLUMNS]), _facts(row[_PLACE_COLUMNS:])) for row in rows[-MOST_KEPT:]]
    last = found[-1][0] if found else place or _FIRST
    return FeedPage(attempts=found, last=last, gap=place is not None and has_more)


def _facts(row: Sequence[object]) -> AttemptFacts:
    return msgspec.convert(dict(zip(AttemptFacts.__struct_fields__, row, strict=True)), AttemptFacts)

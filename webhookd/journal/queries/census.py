"""Counts of deliveries and endpoints for the metrics, by whole scans of small indexes.

They take some tens of milliseconds for each million queued deliveries, so they must not be taken often.
"""

from peewee import Database

from webhookd.journal.queries.dialect import EngineSQL, hinted
from webhookd.journal.rows import Census

# A partial index holds only the rows that are counted, and the count reads nothing else.
PENDING = hinted("SELECT count(*) FROM deliveries INDEXED BY deliveries_line WHERE status = 'pending'")
PARKED = hinted("SELECT count(*) FROM deliveries INDEXED BY deliveries_parked WHERE status = 'parked'")

# The head of each queue, in both parts of its index, going from endpoint to endpoint however long their queues are.
# Disabled endpoints hold their deliveries on purpose.
OLDEST = hinted("""
WITH RECURSIVE found (pk) AS (
    SELECT min(endpoint_pk) FROM deliveries WHERE status = 'pending'
    UNION ALL
    SELECT (SELECT min(endpoint_pk) FROM deliveries WHERE status = 'pending' AND endpoint_pk > found.pk)
    FROM found WHERE found.pk IS NOT NULL
)
SELECT min((
    SELECT created_at FROM deliveries INDEXED BY deliveries_line
    WHERE status = 'pending' AND endpoint_pk = found.pk AND (backoff_step > 0) = part.column1
    ORDER BY sequence LIMIT 1
))
FROM found CROSS JOIN endpoints ON endpoints.pk = found.pk CROSS JOIN (VALUES (FALSE), (TRUE)) AS part
WHERE endpoints.is_active AND endpoints.deleted_at IS NULL
""")

ENDPOINTS = hinted("""
SELECT endpoints.is_active, endpoint_state.breaker, count(*)
FROM endpoints CROSS JOIN endpoint_state ON endpoint_state.endpoint_pk = endpoints.pk
WHERE endpoints.deleted_at IS NULL GROUP BY 1, 2
""")


def take(database: Database) -> Census:
    """Return the counts, all as of one moment."""
    breakers: dict[str, int] = {}
    active = inactive = 0
    for is_active, breaker, number in database.execute_sql(ENDPOINTS.on(database)):
        breakers[breaker] = breakers.get(breaker, 0) + number
        if is_active:
            active += number
        else:
            inactive += number
    return Census(
        pending=_one(database, PENDING) or 0,
        parked=_one(database, PARKED) or 0,
        oldest_pending_at=_one(database, OLDEST),
        active_endpoints=active,
        inactive_endpoints=inactive,
        breakers=breakers,
    )


def _one(database: Database, sql: EngineSQL) -> int | None:
    value: int | None = database.execute_sql(sql.on(database)).fetchone()[0]
    return value

"""Search, sort and count all webhooks: the lists of the dashboard and which webhooks need attention.

A query reads every webhook that the caller may see, which takes some tens of milliseconds for each ten thousand, and
never all their deliveries: what is queued is found by the partial indexes.
"""

from collections.abc import Sequence
from typing import Any

from peewee import SQL, Database

from webhookd.journal.queries import endpoints
from webhookd.journal.queries.schema import EndpointStateTable, EndpointTable
from webhookd.journal.queries.structs import narrowed
from webhookd.journal.rows import FoundWebhooks, Situation, WebhookKind, WebhookOrder, WebhookSearch

_ESCAPE = "\\"

# How much attention a webhook needs, the most first. A webhook that was disabled by hand needs none for that.
_PARKED = (
    "EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_parked WHERE status = 'parked' AND endpoint_pk = t1.pk)"
)
_WAITING = (
    "EXISTS (SELECT 1 FROM deliveries INDEXED BY deliveries_line WHERE status = 'pending' AND endpoint_pk = t1.pk)"
)
_RANK = f"""CASE
    WHEN NOT t1.is_active AND t1.disabled_reason <> 'manual' THEN 6
    WHEN t2.breaker = 'open' THEN 5
    WHEN t2.breaker = 'half_open' THEN 4
    WHEN t2.paused_until > {{now}} OR t2.consecutive_faults > 0 THEN 3
    WHEN {_PARKED} THEN 2
    WHEN NOT t1.is_active AND {_WAITING} THEN 1
    ELSE 0 END"""

_QUEUED = (
    "(SELECT count(*) FROM deliveries INDEXED BY deliveries_line WHERE status = 'pending' AND endpoint_pk = t1.pk)"
)
_OLDEST = """(SELECT min((
    SELECT created_at FROM deliveries INDEXED BY deliveries_line
    WHERE status = 'pending' AND endpoint_pk = t1.pk AND (backoff_step > 0) = part.column1 ORDER BY sequence LIMIT 1
)) FROM (VALUES (0), (1)) AS part)"""


def find(database: Database, wanted: WebhookSearch, now: float) -> FoundWebhooks:
    """Return a part of the sorted list of webhooks, and how many there are in all."""
    rank = _rank(now)
    query = narrowed(
        endpoints.alive().join(EndpointStateTable, on=(EndpointStateTable.endpoint_pk == EndpointTable.pk)),
        (EndpointTable.organization_id, wanted.organization_id),
    )
    if wanted.text:
        pattern = f"%{_literal(wanted.text)}%"
        query = query.where(
            SQL(
                "(t1.url LIKE ? ESCAPE ? OR t1.description LIKE ? ESCAPE ? OR t1.organization_id LIKE ? ESCAPE ? "
                "OR t1.id LIKE ? ESCAPE ?)",
                [*[pattern, _ESCAPE] * 3, f"{_literal(wanted.text)}%", _ESCAPE],
            )
        )
    match wanted.kind:
        case WebhookKind.TROUBLED:
            query = query.where(SQL(f"({rank}) > 0"))
        case WebhookKind.ON:
            query = query.where(EndpointTable.is_active)
        case WebhookKind.OFF:
            query = query.where(~EndpointTable.is_active)
    total: int = query.count(database)
    column = {
        WebhookOrder.CREATED: "t1.pk",
        WebhookOrder.URL: "t1.url",
        WebhookOrder.TROUBLE: rank,
        WebhookOrder.QUEUED: _QUEUED,
    }[wanted.order]
    direction = "DESC" if wanted.descending else "ASC"
    ordered = query.order_by(SQL(f"{column} {direction}"), SQL(f"t1.pk {direction}"))
    part = endpoints.ROWS.all(database, ordered.limit(wanted.limit).offset(wanted.offset))
    return FoundWebhooks(endpoints=part, total=total)


def situation(database: Database, organization_id: str | None, now: float) -> Situation:
    """Count what is queued, and the webhooks by state: of one organization, or of all."""
    rank = _rank(now)
    where = "t1.deleted_at IS NULL" + ("" if organization_id is None else " AND t1.organization_id = ?")
    parked = (
        "(SELECT count(*) FROM deliveries INDEXED BY deliveries_parked WHERE status = 'parked' AND endpoint_pk = t1.pk)"
    )
    sql = f"""
    SELECT count(*), sum(NOT t1.is_active), sum(({rank}) > 0), sum(t2.breaker <> 'closed' AND t1.is_active),
        sum({_QUEUED}), sum({parked}), min(CASE WHEN t1.is_active THEN {_OLDEST} END)
    FROM endpoints AS t1 CROSS JOIN endpoint_state AS t2 ON t2.endpoint_pk = t1.pk WHERE {where}
    """  # noqa: S608 - put together from the texts above
    parameters: Sequence[Any] = () if organization_id is None else (organization_id,)
    row = database.execute_sql(sql, parameters).fetchone()
    webhooks, off, troubled, is_open, pending, parked_count, oldest = row
    return Situation(
        webhooks=webhooks,
        off=off or 0,
        troubled=troubled or 0,
        open=is_open or 0,
        pending=pending or 0,
        parked=parked_count or 0,
        oldest_pending_at=oldest,
    )


def _rank(now: float) -> str:
    return _RANK.format(now=float(now))


def _literal(text: str) -> str:
    for character in (_ESCAPE, "%", "_"):
        text = text.replace(character, _ESCAPE + character)
    return text

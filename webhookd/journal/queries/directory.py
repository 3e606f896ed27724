"""Search, sort and count all webhooks: the lists of the dashboard and which webhooks need attention.

A query reads every webhook that the caller may see, which takes some tens of milliseconds for each ten thousand, and
never all their deliveries: what is queued is found by the partial indexes.
"""

from collections.abc import Sequence
from functools import reduce
from operator import or_
from typing import Any

from peewee import SQL, ColumnBase, Database, Field, NodeList, Value, fn

from webhookd.base.models import Endpoint
from webhookd.journal.queries.dialect import hinted, statements
from webhookd.journal.queries.schema import EndpointStateTable, EndpointTable
from webhookd.journal.queries.structs import Rows, narrowed
from webhookd.journal.rows import FoundWebhooks, Situation, WebhookKind, WebhookOrder, WebhookSearch

_ESCAPE = "\\"

# The names by which the texts below refer to the two tables.
_ENDPOINTS, _STATES = EndpointTable.alias("endpoint"), EndpointStateTable.alias("state")
_ROWS = Rows(Endpoint, _ENDPOINTS)
_SEARCHED = (_ENDPOINTS.url, _ENDPOINTS.description, _ENDPOINTS.organization_id)

_OWN_PARKED = "FROM deliveries INDEXED BY deliveries_parked WHERE status = 'parked' AND endpoint_pk = endpoint.pk"
_OWN_QUEUED = "FROM deliveries INDEXED BY deliveries_line WHERE status = 'pending' AND endpoint_pk = endpoint.pk"
# How much attention a webhook needs, the most first. A webhook that was disabled by hand needs none for that.
_RANK = f"""CASE
    WHEN NOT endpoint.is_active AND endpoint.disabled_reason <> 'manual' THEN 6
    WHEN state.breaker = 'open' THEN 5
    WHEN state.breaker = 'half_open' THEN 4
    WHEN state.paused_until > {{now}} OR state.consecutive_faults > 0 THEN 3
    WHEN EXISTS (SELECT 1 {_OWN_PARKED}) THEN 2
    WHEN NOT endpoint.is_active AND EXISTS (SELECT 1 {_OWN_QUEUED}) THEN 1
    ELSE 0 END"""
_PARKED = f"(SELECT count(*) {_OWN_PARKED})"
_QUEUED = f"(SELECT count(*) {_OWN_QUEUED})"
_OLDEST = f"""(SELECT min((
    SELECT created_at {_OWN_QUEUED} AND (backoff_step > 0) = part.column1 ORDER BY sequence LIMIT 1
)) FROM (VALUES (FALSE), (TRUE)) AS part)"""  # noqa: S608 - as above


def find(database: Database, wanted: WebhookSearch, now: float) -> FoundWebhooks:
    """Return a part of the sorted list of webhooks, and how many there are in all."""
    rank = _rank(now)
    query = narrowed(
        _ENDPOINTS.select(*_ROWS.columns)
        .join(_STATES, on=(_STATES.endpoint_pk == _ENDPOINTS.pk))
        .where(_ENDPOINTS.deleted_at.is_null()),
        (_ENDPOINTS.organization_id, wanted.organization_id),
    )
    if wanted.text:
        text = _literal(wanted.text)
        is_within = [_is_like(column, f"%{text}%") for column in _SEARCHED]
        query = query.where(reduce(or_, is_within, _is_like(_ENDPOINTS.id, f"{text}%")))
    match wanted.kind:
        case WebhookKind.TROUBLED:
            query = query.where(hinted(f"({rank}) > 0"))
        case WebhookKind.ON:
            query = query.where(_ENDPOINTS.is_active)
        case WebhookKind.OFF:
            query = query.where(~_ENDPOINTS.is_active)
    total: int = query.count(database)
    column = {
        WebhookOrder.CREATED: "endpoint.pk",
        WebhookOrder.URL: "endpoint.url",
        WebhookOrder.TROUBLE: rank,
        WebhookOrder.QUEUED: _QUEUED,
    }[wanted.order]
    direction = "DESC" if wanted.descending else "ASC"
    ordered = query.order_by(hinted(f"{column} {direction}"), SQL(f"endpoint.pk {direction}"))
    part = _ROWS.all(database, ordered.limit(wanted.limit).offset(wanted.offset))
    return FoundWebhooks(endpoints=part, total=total)


def situation(database: Database, organization_id: str | None, now: float) -> Situation:
    """Count what is queued, and the webhooks by state: of one organization, or of all."""
    is_theirs = "" if organization_id is None else "AND endpoint.organization_id = ?"
    sql = f"""
    SELECT count(*), count(*) FILTER (WHERE NOT endpoint.is_active), count(*) FILTER (WHERE ({_rank(now)}) > 0),
        count(*) FILTER (WHERE state.breaker <> 'closed' AND endpoint.is_active), sum({_QUEUED}), sum({_PARKED}),
        min(CASE WHEN endpoint.is_active THEN {_OLDEST} END)
    FROM endpoints AS endpoint CROSS JOIN endpoint_state AS state ON state.endpoint_pk = endpoint.pk
    WHERE endpoint.deleted_at IS NULL {is_theirs}
    """  # noqa: S608 - put together from the texts above
    parameters: Sequence[Any] = () if organization_id is None else (organization_id,)
    [row] = statements(database).execute(hinted(sql).on(database), parameters)
    webhooks, off, troubled, is_open, pending, parked, oldest = row
    return Situation(
        webhooks=webhooks,
        off=off,
        troubled=troubled,
        open=is_open,
        pending=int(pending or 0),  # PostgreSQL adds up to a decimal number
        parked=int(parked or 0),
        oldest_pending_at=oldest,
    )


def _rank(now: float) -> str:
    return _RANK.format(now=float(now))


def _is_like(column: Field, pattern: str) -> ColumnBase:
    """Return the condition that a column is like a pattern, whatever the case of ASCII letters."""
    lower = pattern.encode().lower().decode()
    return NodeList((fn.LOWER(column), SQL("LIKE"), Value(lower), SQL("ESCAPE"), Value(_ESCAPE)))


def _literal(text: str) -> str:
    for character in (_ESCAPE, "%", "_"):
        text = text.replace(character, _ESCAPE + character)
    return text

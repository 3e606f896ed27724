"""The list of webhooks: searched, sorted and paged, each with its status and its last 24 hours."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated
from urllib.parse import urlencode

from msgspec import Meta
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.schemas import Input
from webhookd.base.models import Endpoint
from webhookd.dashboard.charts import sparkline
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, page
from webhookd.dashboard.webhook_states import condition
from webhookd.dispatch.health import EndpointHealth
from webhookd.journal import WebhookKind, WebhookOrder, WebhookSearch

ROWS = 25
_MOST_PAGES = 1_000_000
# Newest, worst and longest queue come first; URLs are sorted from A to Z.
_DESCENDS = {WebhookOrder.CREATED: True, WebhookOrder.TROUBLE: True, WebhookOrder.QUEUED: True, WebhookOrder.URL: False}


class ListOfWebhooks(Input, frozen=True, kw_only=True):
    """Filters, order and page of the list; `reverse` reverses the order."""

    search: Annotated[str, Meta(max_length=200)] = ""
    kind: WebhookKind | None = None
    order: WebhookOrder = WebhookOrder.CREATED
    reverse: bool = False
    page: Annotated[int, Meta(ge=1, le=_MOST_PAGES)] = 1


@dataclass(frozen=True, slots=True)
class ListedWebhook:
    """One webhook of the list."""

    endpoint: Endpoint
    health: EndpointHealth
    word: str
    tone: str
    day: tuple[str, str, str]


async def list_webhooks(visit: Visit) -> Response:
    """Show the list of webhooks; for a search while typing, only the table."""
    values = await _values(visit)
    is_search = visit.request.headers.get("HX-Target") == "webhooks"
    return await visit.render("webhooks/table.html" if is_search else "webhooks/list.html", values)


async def list_parts(visit: Visit) -> Mapping[str, str]:
    """Render the live table."""
    return {"webhooks": visit.part("webhooks/rows.html", await _values(visit))}


async def _values(visit: Visit) -> Mapping[str, object]:
    services, query = visit.services, visit.query(ListOfWebhooks)
    wanted = WebhookSearch(
        organization_id=visit.caller.organization_id,
        text=query.search.strip(),
        kind=query.kind,
        order=query.order,
        descending=_DESCENDS[query.order] is not query.reverse,
        limit=ROWS,
        offset=(query.page - 1) * ROWS,
    )
    found = await services.store.webhooks.search(wanted, visit.now)
    states = await services.router.health(found.endpoints)
    days = await services.statistics.of_webhooks([endpoint.id for endpoint in found.endpoints])
    rows = [
        ListedWebhook(endpoint, health, *condition(endpoint, health), sparkline(days[endpoint.id]))
        for endpoint, health in zip(found.endpoints, states, strict=True)
    ]
    filters = {
        name: value for name, value in (("search", query.search), ("kind", query.kind), ("order", query.order)) if value
    }
    has_more = query.page * ROWS < found.total
    return {
        "query": query,
        "rows": rows,
        "total": found.total,
        "first": wanted.offset + 1,
        "live_query": visit.request.query_string.decode("ascii", "replace"),
        "headings": [
            _heading(order, query, filters) for order in (WebhookOrder.URL, WebhookOrder.TROUBLE, WebhookOrder.QUEUED)
        ],
        "created": _heading(WebhookOrder.CREATED, query, filters),
        "next_path": _path(filters, query.reverse, query.page + 1) if has_more else None,
        "previous_path": _path(filters, query.reverse, query.page - 1) if query.page > 1 else None,
    }


def _heading(order: WebhookOrder, query: ListOfWebhooks, filters: Mapping[str, str]) -> Mapping[str, object]:
    """Return the link of a column's heading: to its order, or to the reverse if the list has this order."""
    is_current = query.order is order
    descends = _DESCENDS[order] is not query.reverse
    reverse = is_current and not query.reverse
    sort = ("descending" if descends else "ascending") if is_current else None
    return {"path": _path({**filters, "order": order.value}, reverse, 1), "sort": sort}


def _path(filters: Mapping[str, str], reverse: bool, number: int) -> str:
    fields = {**filters, **({"reverse": "true"} if reverse else {}), **({"page": str(number)} if number > 1 else {})}
    return f"/webhooks?{urlencode(fields)}" if fields else "/webhooks"


PAGES = (
    page("webhooks", "GET /webhooks", Permission.READ, list_webhooks, label="Webhooks"),
    live("webhooks_live", "GET /webhooks/live", Permission.READ, list_parts),
)

"""One webhook: why nothing is being sent, its breaker, its pace, its queue, its deliveries, its secrets."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

import msgspec
from msgspec import Meta
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import convert
from webhookd.admin.deliveries import list_deliveries
from webhookd.admin.operations import NoBody
from webhookd.admin.schemas import (
    DeliveryQuery,
    DeliveryView,
    Input,
    NoQuery,
)
from webhookd.admin.schemas import Page as ListPage
from webhookd.admin.statistics import StatsView, get_webhook_stats
from webhookd.admin.webhook_schemas import Webhook
from webhookd.admin.webhooks import get_webhook
from webhookd.base.clock import iso
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import DeliveryStatus, Endpoint
from webhookd.dashboard.charts import sparkline
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, answered, page
from webhookd.dashboard.webhook_states import condition

PARTS = ("said", "health", "queue", "latest", "replays")
QUEUE_ROWS = 15
LATEST_ROWS = 10
LIST_ROWS = 50
REPLAYS = 5
_MINUTES = len("2025-01-31T12:00")


async def find(visit: Visit) -> Endpoint:
    """Return the webhook of the path; Rejected NOT_FOUND, also for another organization's."""
    return await visit.services.store.webhooks.get(visit.path["webhookId"], visit.caller.organization_id)


async def show_webhook(visit: Visit) -> Response:
    """Show a webhook."""
    return await visit.render("webhook/page.html", await _values(visit))


async def webhook_parts(visit: Visit) -> Mapping[str, str]:
    """Make what changes of it."""
    values = await _values(visit)
    return {name: visit.part(f"webhook/{name}.html", values) for name in PARTS}


async def _values(visit: Visit) -> Mapping[str, object]:
    services, webhook_id = visit.services, visit.path["webhookId"]
    endpoint = await find(visit)
    [health] = await services.router.health([endpoint])
    word, tone = condition(endpoint, health)
    inside = await services.router.inside(endpoint)
    in_flight = services.router.in_flight(endpoint.pk)
    line = await services.store.deliveries.queue(endpoint.pk, QUEUE_ROWS)
    call = visit.call(NoQuery(), NoBody(), webhookId=webhook_id)
    latest = await answered(
        ListPage,
        list_deliveries(visit.call(DeliveryQuery(limit=LATEST_ROWS), NoBody(), webhookId=webhook_id)),
    )
    days = await services.statistics.of_webhooks([webhook_id])
    bucket = inside.bucket
    return {
        "webhook": await answered(Webhook, get_webhook(call)),
        "endpoint": endpoint,
        "word": word,
        "tone": tone,
        "inside": inside,
        "tokens": None if bucket is None else bucket.filled(visit.now),
        "in_flight": in_flight,
        "line": line,
        "latest": latest.data,
        "stats": await answered(StatsView, get_webhook_stats(call)),
        "day": sparkline(days[webhook_id]),
        "replays": await services.store.replays.of_endpoint(endpoint.pk, REPLAYS),
        "overlaps": endpoint.previous_secret_expires_at is not None and endpoint.previous_secret_expires_at > visit.now,
    }


class DeliveryFilters(Input, frozen=True, kw_only=True):
    """Which deliveries; times are UTC, as a browser's field for them sends it or with their zone."""

    status: DeliveryStatus | None = None
    event: Annotated[str, Meta(max_length=128)] | None = None
    event_id: Annotated[str, Meta(max_length=64)] | None = None
    since: Annotated[str, Meta(max_length=40)] | None = None
    until: Annotated[str, Meta(max_length=40)] | None = None
    cursor: Annotated[str, Meta(max_length=1024)] | None = None


async def show_deliveries(visit: Visit) -> Response:
    """Show a webhook's deliveries, narrowed down by status, type and time."""
    filters, endpoint = visit.query(DeliveryFilters), await find(visit)
    problem = None
    found: ListPage[DeliveryView] = ListPage(data=[], next_cursor=None)
    try:
        found = await answered(ListPage, list_deliveries(visit.call(_wanted(filters), NoBody(), webhookId=endpoint.id)))
    except Rejected as refused:
        if refused.code not in {ErrorCode.VALIDATION_ERROR, ErrorCode.INVALID_CURSOR}:
            raise
        problem = refused.detail
    asked = {name: value for name, value in msgspec.to_builtins(filters).items() if value and name != "cursor"}
    here = f"/webhooks/{endpoint.id}/deliveries"
    return await visit.render(
        "webhook/deliveries.html",
        {
            "endpoint": endpoint,
            "filters": filters,
            "statuses": [("", "all"), *((status.value, status.value) for status in DeliveryStatus)],
            "rows": found.data,
            "problem": problem,
            "first_path": f"{here}?{urlencode(asked)}" if filters.cursor else None,
            "next_path": None
            if found.next_cursor is None
            else f"{here}?{urlencode({**asked, 'cursor': found.next_cursor})}",
        },
        status=HTTPStatus.OK if problem is None else HTTPStatus.BAD_REQUEST,
    )


def _wanted(filters: DeliveryFilters) -> DeliveryQuery:
    document = {
        "limit": LIST_ROWS,
        "status": filters.status,
        "event": filters.event,
        "eventId": filters.event_id,
        "since": with_zone(filters.since),
        "until": with_zone(filters.until),
        "cursor": filters.cursor,
    }
    return convert(document, DeliveryQuery)


def with_zone(text: str | None) -> str | None:
    """Return a time with its zone: what a browser's field sends has none, and is UTC here."""
    if text is None or not text.strip():
        return None
    # Between day and time a space stands for a T; behind the time it was a + that nobody encoded.
    stripped = text.strip()[:_MINUTES].replace(" ", "T") + text.strip()[_MINUTES:].replace(" ", "+")
    has_zone = stripped.upper().endswith("Z") or "+" in stripped or "-" in stripped[_MINUTES - 5 :]
    return stripped if has_zone else f"{stripped}Z"


def field_time(at: float) -> str:
    """Write a time as a browser's field for it takes it, in UTC."""
    return iso(at)[:_MINUTES]


PAGES = (
    page("webhook", "GET /webhooks/{webhookId}", Permission.READ, show_webhook),
    live("webhook_live", "GET /webhooks/{webhookId}/live", Permission.READ, webhook_parts),
    page("webhook_deliveries", "GET /webhooks/{webhookId}/deliveries", Permission.READ, show_deliveries),
)

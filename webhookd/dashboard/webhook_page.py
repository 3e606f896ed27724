"""The page of a webhook: its health, queue, deliveries, settings and secrets; and the list of its deliveries."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

from msgspec import Meta, to_builtins
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import convert
from webhookd.admin.deliveries import list_deliveries
from webhookd.admin.operations import NoBody
from webhookd.admin.schemas import CursorQuery, DeliveryQuery, DeliveryView, NoQuery, Page
from webhookd.admin.statistics import get_webhook_stats
from webhookd.admin.views import iso_or_none, webhook
from webhookd.base.models import DeliveryStatus, Endpoint
from webhookd.dashboard.charts import sparkline
from webhookd.dashboard.form_times import read_range
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, page, page_links
from webhookd.dashboard.webhook_states import condition

PARTS = ("summary", "health", "queue", "latest", "replays")
QUEUE_ROWS = 15
LATEST_ROWS = 10
LIST_ROWS = 50
REPLAYS = 5
OVERLAPS = {"24": "in 24 hours", "1": "in 1 hour", "72": "in 3 days", "168": "in 7 days", "0": "immediately"}


async def find(visit: Visit) -> Endpoint:
    """Return the webhook of the path; Rejected NOT_FOUND, also for a webhook of another organization."""
    return await visit.services.store.webhooks.get(visit.path["webhookId"], visit.caller.organization_id)


async def show_webhook(visit: Visit) -> Response:
    """Show a webhook."""
    return await visit.render("webhook/page.html", await _values(visit))


async def webhook_parts(visit: Visit) -> Mapping[str, str]:
    """Render the live parts."""
    values = await _values(visit)
    return {name: visit.part(f"webhook/{name}.html", values) for name in PARTS}


async def _values(visit: Visit) -> Mapping[str, object]:
    services, webhook_id = visit.services, visit.path["webhookId"]
    endpoint = await find(visit)
    [health] = await services.router.health([endpoint])
    word, tone = condition(endpoint, health)
    inside = await services.router.inside(endpoint)
    lane = services.router.registry.lane(endpoint.pk)
    is_driven_here = health.driver is None or health.driver.is_here
    in_flight = tuple(lane.in_flight) if lane is not None and is_driven_here else ()
    queue = await services.store.deliveries.queue(endpoint.pk, QUEUE_ROWS)
    latest = (await list_deliveries(visit.call(DeliveryQuery(limit=LATEST_ROWS), NoBody()))).value
    days = await services.statistics.of_webhooks([webhook_id])
    bucket = inside.bucket
    return {
        "webhook": webhook(endpoint, health, services.config.delivery),
        "endpoint": endpoint,
        "word": word,
        "tone": tone,
        "inside": inside,
        "tokens": None if bucket is None else bucket.filled(visit.now),
        "in_flight": in_flight,
        "is_driven_here": is_driven_here,
        "queue": queue,
        "latest": latest.data,
        "stats": (await get_webhook_stats(visit.call(NoQuery(), NoBody()))).value,
        "day": sparkline(days[webhook_id]),
        "replays": await services.store.replays.of_endpoint(endpoint.pk, REPLAYS),
        "overlap_choices": list(OVERLAPS.items()),
        "overlaps": endpoint.previous_secret_expires_at is not None and endpoint.previous_secret_expires_at > visit.now,
    }


class DeliveryFilters(CursorQuery, frozen=True, kw_only=True):
    """The filters of a webhook's deliveries; times are UTC, as a browser's field sends them or as ISO-8601."""

    status: DeliveryStatus | None = None
    event: Annotated[str, Meta(max_length=128)] | None = None
    event_id: Annotated[str, Meta(max_length=64)] | None = None
    since: Annotated[str, Meta(max_length=40)] | None = None
    until: Annotated[str, Meta(max_length=40)] | None = None


async def show_deliveries(visit: Visit) -> Response:
    """Show a webhook's deliveries, filtered by status, event and time."""
    filters, endpoint = visit.query(DeliveryFilters), await find(visit)
    since, until, problems = read_range(filters.since, filters.until)
    found: Page[DeliveryView] = Page(data=[], next_cursor=None)
    if not problems:
        times = {"since": iso_or_none(since), "until": iso_or_none(until)}
        query = convert({**to_builtins(filters), **times, "limit": LIST_ROWS}, DeliveryQuery)
        found = (await list_deliveries(visit.call(query, NoBody()))).value
    values = {
        "endpoint": endpoint,
        "filters": filters,
        "statuses": [("", "all"), *((status.value, status.value) for status in DeliveryStatus)],
        "rows": found.data,
        "problems": problems,
        **page_links(f"/webhooks/{endpoint.id}/deliveries", filters, found.next_cursor),
    }
    status = HTTPStatus.BAD_REQUEST if problems else HTTPStatus.OK
    return await visit.render("webhook/deliveries.html", values, status=status)


PAGES = (
    page("webhook", "GET /webhooks/{webhookId}", Permission.READ, show_webhook),
    live("webhook_live", "GET /webhooks/{webhookId}/live", Permission.READ, webhook_parts),
    page("webhook_deliveries", "GET /webhooks/{webhookId}/deliveries", Permission.READ, show_deliveries),
)

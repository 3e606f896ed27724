"""The pages of events: the search, and one event with its payload and its deliveries."""

from http import HTTPStatus
from typing import Annotated
from urllib.parse import urlencode

from msgspec import Meta
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.deliveries import delivery_view
from webhookd.admin.schemas import CursorQuery, EventPattern
from webhookd.base.clock import iso
from webhookd.base.fields import OrganizationId
from webhookd.base.ids import Prefix
from webhookd.dashboard.form_times import read_range
from webhookd.dashboard.pages import Visit, page, page_links
from webhookd.dashboard.payloads import indented, shown
from webhookd.journal import EventRow, FoundEvents

ROWS = 50
DELIVERIES = 100
_SHORTCUTS = (("last hour", 3600), ("last day", 86_400), ("last week", 7 * 86_400))
_ELSEWHERE = {Prefix.DELIVERY: "/deliveries", Prefix.WEBHOOK: "/webhooks"}

Moment = Annotated[str, Meta(max_length=40)]


class EventSearch(CursorQuery, frozen=True, kw_only=True):
    """Filters of the search; an id, or the start of one, overrides the others."""

    q: Annotated[str, Meta(max_length=200)] | None = None
    type: EventPattern | None = None
    organization: OrganizationId | None = None
    since: Moment | None = None
    until: Moment | None = None


async def search(visit: Visit) -> Response:
    """Show the results; the whole id of an object leads to its page."""
    filters = visit.query(EventSearch)
    text = (filters.q or "").strip()
    for prefix, path in _ELSEWHERE.items():
        if text.startswith(f"{prefix.value}_"):
            return await visit.go(f"{path}/{text}")
    # A caller bound to an organization sees only its events, whatever the filter.
    organization_id = visit.caller.organization_id or filters.organization
    since, until, problems = read_range(filters.since, filters.until)
    found = FoundEvents(items=[], next_cursor=None, looked_back_to=None)
    if text:
        rows = await visit.services.store.events.starting_with(organization_id, text, ROWS)
        if any(row.id == text for row in rows) and len(rows) == 1:
            return await visit.go(f"/events/{text}")
        found = FoundEvents(items=rows, next_cursor=None, looked_back_to=None)
    elif not problems:
        found = await visit.services.store.events.search(
            organization_id,
            pattern=filters.type,
            since=since,
            until=until,
            limit=ROWS,
            cursor=filters.cursor,
        )
    return await visit.render(
        "events.html",
        {
            "filters": filters,
            "problems": problems,
            "found": found,
            **page_links("/events", filters, found.next_cursor),
            "types": sorted(visit.services.router.event_types),
            "shortcuts": [
                (label, f"/events?{urlencode({'since': iso(visit.now - seconds)})}") for label, seconds in _SHORTCUTS
            ],
        },
    )


async def event(visit: Visit) -> Response:
    """Show one event with its payload and its deliveries."""
    row = await _event(visit)
    page_query = visit.query(CursorQuery)
    store = visit.services.store
    deliveries = await store.deliveries.of_event(
        row.pk, visit.caller.organization_id, limit=DELIVERIES, cursor=page_query.cursor
    )
    names = {one.id: one.description or one.url for one in await store.webhooks.all()} if deliveries.items else {}
    payload, is_cut = shown(indented(row.body))
    return await visit.render(
        "event.html",
        {
            "event": row,
            "payload": payload,
            "payload_is_cut": is_cut,
            "deliveries": [delivery_view(visit.services, one) for one in deliveries.items],
            "names": names,
            **page_links(f"/events/{row.id}", page_query, deliveries.next_cursor),
        },
    )


async def raw(visit: Visit) -> Response:
    """Return the body of every attempt as a file, which no browser shows as a page."""
    row = await _event(visit)
    headers = {"Content-Disposition": f'attachment; filename="{row.id}.json"'}
    return Response(row.body, HTTPStatus.OK, headers, content_type="text/plain; charset=utf-8")


async def _event(visit: Visit) -> EventRow:
    return await visit.services.store.events.get(visit.path["eventId"], visit.caller.organization_id)


PAGES = (
    page("events", "GET /events", Permission.READ, search, label="Events"),
    page("event", "GET /events/{eventId}", Permission.READ, event),
    page("event_raw", "GET /events/{eventId}/raw", Permission.READ, raw),
)

"""The first page: how the whole server is, and what needs somebody now."""

from collections.abc import Mapping

from quart import Response

from webhookd.admin.auth import Permission
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, page
from webhookd.journal import endpoints


async def overview(visit: Visit) -> Response:
    """Show how the server is."""
    return visit.render("overview.html", await _numbers(visit))


async def overview_parts(visit: Visit) -> Mapping[str, str]:
    """Make what changes of it."""
    return {"numbers": visit.part("overview/numbers.html", await _numbers(visit))}


async def _numbers(visit: Visit) -> Mapping[str, object]:
    return {"webhooks": len(await visit.services.journal.read(endpoints.all))}


PAGES = (
    page("overview", "GET /", Permission.READ, overview, label="Overview"),
    live("overview_live", "GET /live", Permission.READ, overview_parts),
)

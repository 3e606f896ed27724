"""The overview: what needs attention, the state of the server, and its statistics."""

from collections.abc import Callable, Mapping

from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.operations import NoBody
from webhookd.admin.statistics import StatsQuery, get_stats
from webhookd.dashboard import formatting
from webhookd.dashboard.attention import concerns
from webhookd.dashboard.charts import Chart, Wish, chart
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, page
from webhookd.jobs.statistics import Series
from webhookd.journal import Situation
from webhookd.observe.statistics import Counts

PARTS = ("summary", "attention", "numbers", "charts")
CHARTS_KEPT_SECONDS = 5.0
SITUATION_KEPT_SECONDS = 1.5


async def overview(visit: Visit) -> Response:
    """Show the overview."""
    return await visit.render("overview.html", {"span": visit.query(StatsQuery).span.value, **await _values(visit)})


async def overview_parts(visit: Visit) -> Mapping[str, str]:
    """Render the live parts, once for all callers that may see the same."""

    async def make() -> Mapping[str, str]:
        values = await _values(visit)
        return {name: visit.part(f"overview/{name}.html", values) for name in PARTS}

    caller = visit.caller
    key = ("overview", caller.organization_id, caller.role, visit.query(StatsQuery).span)
    return await visit.cache.get(key, SITUATION_KEPT_SECONDS, make)


async def statistics(visit: Visit) -> Response:
    """Show the statistics of the charts as a table."""
    query = visit.query(StatsQuery)
    view = (await get_stats(visit.call(query, NoBody()))).value
    return await visit.render("statistics.html", {"span": query.span.value, "stats": view})


async def _values(visit: Visit) -> Mapping[str, object]:
    services, organization_id, span = visit.services, visit.caller.organization_id, visit.query(StatsQuery).span

    async def look() -> Situation:
        return await services.store.webhooks.situation(organization_id, visit.now)

    async def draw() -> tuple[tuple[Chart, ...], Counts]:
        series = await services.statistics.recent(span, organization_id)
        return charts_of(series), series.total

    situation = await visit.cache.get(("situation", organization_id), SITUATION_KEPT_SECONDS, look)
    charts, total = await visit.cache.get(("charts", organization_id, span), CHARTS_KEPT_SECONDS, draw)
    return {
        "concerns": await concerns(visit, situation),
        "situation": situation,
        "charts": charts,
        "total": total,
        "server": await _server(visit) if organization_id is None else None,
    }


async def _server(visit: Visit) -> Mapping[str, object]:
    footprint = await visit.services.footprints.look()
    return {
        "disk": footprint.disk,
        "longest_stall": visit.services.stalls.longest(),
        "state": visit.services.lifecycle.readiness()[0].value,
    }


def charts_of(series: Series) -> tuple[Chart, ...]:
    """Return the charts of an hour or a day."""
    total = series.total

    def number(name: str, value: Callable[[Counts], int]) -> Wish:
        return Wish(name=name, value=lambda point: value(point.counts), total=formatting.count(value(total)))

    def quantile(share: float) -> Wish:
        return Wish(
            name=f"p{share * 100:.0f}",
            value=lambda point: point.counts.quantile_seconds(share),
            total=formatting.duration(total.quantile_seconds(share)),
        )

    throughput = (
        number("delivered", lambda counts: counts.delivered),
        number("received", lambda counts: counts.events),
    )
    failures = (
        number("attempts", lambda counts: counts.failures),
        number("deliveries", lambda counts: counts.failed),
    )
    return (
        chart("Events and deliveries", series, throughput, formatting.count),
        chart("Failures", series, failures, formatting.count),
        chart("Latency", series, tuple(quantile(share) for share in (0.5, 0.95, 0.99)), formatting.duration),
    )


PAGES = (
    page("overview", "GET /", Permission.READ, overview, label="Overview"),
    page("statistics", "GET /statistics", Permission.READ, statistics),
    live("overview_live", "GET /live", Permission.READ, overview_parts),
)

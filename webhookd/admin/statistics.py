"""The statistics of the last hour or day: of all that a caller may see, and of one webhook."""

from msgspec.structs import asdict

from webhookd.admin.auth import Permission
from webhookd.admin.operations import Answer, Call, NoBody, operation
from webhookd.admin.schemas import Input, NoQuery, Output
from webhookd.base.clock import iso
from webhookd.jobs.statistics import Series, Span
from webhookd.observe.statistics import Counts


class StatsQuery(Input, frozen=True, kw_only=True):
    """How far back: `hour` by minutes, `day` by quarters of an hour."""

    span: Span = Span.HOUR


class LatencyView(Output, frozen=True, kw_only=True):
    """The 50th, 95th and 99th percentile of the duration of attempts, in milliseconds; null without attempts."""

    p50: int | None
    p95: int | None
    p99: int | None


class CountsView(Output, frozen=True, kw_only=True):
    """The counts of a period: `failures` counts failed attempts, `failed` counts failed deliveries."""

    events: int
    delivered: int
    failures: int
    failed: int
    latency_ms: LatencyView


class PointView(CountsView, frozen=True, kw_only=True):
    """The counts of the period that begins at `at`."""

    at: str


class StatsView(Output, frozen=True, kw_only=True):
    """Periods of `seconds` each, oldest first, without a gap; the last one is still running."""

    seconds: int
    total: CountsView
    points: tuple[PointView, ...]


async def get_stats(call: Call[StatsQuery, NoBody]) -> Answer[StatsView]:
    """Read the statistics of the last hour or day."""
    series = await call.services.statistics.recent(call.query.span, call.caller.organization_id)
    return Answer(value=_view(series))


async def get_webhook_stats(call: Call[NoQuery, NoBody]) -> Answer[StatsView]:
    """Read the statistics of the last 24 hours of a webhook."""
    services = call.services
    endpoint = await call.find_webhook()
    found = await services.statistics.of_webhooks([endpoint.id])
    return Answer(value=_view(found[endpoint.id]))


def _view(series: Series) -> StatsView:
    return StatsView(
        seconds=series.seconds,
        total=_counts(series.total),
        points=tuple(PointView(at=iso(point.at), **asdict(_counts(point.counts))) for point in series.points),
    )


def _counts(counts: Counts) -> CountsView:
    return CountsView(
        events=counts.events,
        delivered=counts.delivered,
        failures=counts.failures,
        failed=counts.failed,
        latency_ms=LatencyView(p50=_ms(counts, 0.5), p95=_ms(counts, 0.95), p99=_ms(counts, 0.99)),
    )


def _ms(counts: Counts, share: float) -> int | None:
    seconds = counts.quantile_seconds(share)
    return None if seconds is None else round(seconds * 1000)


OPERATIONS = (
    operation(get_stats, "GET /api/stats", Permission.READ),
    operation(get_webhook_stats, "GET /api/webhooks/{webhookId}/stats", Permission.READ),
)

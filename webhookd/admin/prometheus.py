"""The metrics at `/metrics`, in the text format of Prometheus.

Metrics cost the path of an event nothing: counters and histograms are plain numbers in the modules that count, and most
gauges are read from memory during a scrape. What only the journal knows (the backlog, the circuit breakers) is counted
in the background by `run`. A full count reads the whole backlog, so it takes at most 1 % of the time, and a metric says
when it was made. Of several nodes only the leader counts and has these metrics, so that a sum over all nodes is right.
An exposition is cached for a second.

No label has a value that a caller can choose: there are no labels for endpoints, organizations or event types.
"""

import platform
import resource
import time
from collections.abc import Iterable, Iterator
from typing import Protocol

import trio
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from webhookd.admin.lifecycle import Lifecycle, Readiness
from webhookd.admin.metric_families import counter, counters, gauge, gauges, histogram
from webhookd.admin.node_metrics import NodeMetrics
from webhookd.base.clock import Clock
from webhookd.base.errors import ErrorCode, ReadTimeoutError
from webhookd.base.models import BreakerState, DeliveryError
from webhookd.base.version import VERSION
from webhookd.dispatch.router import Router
from webhookd.journal import SQLITE_VERSION, Census, Store
from webhookd.observe.footprint import Footprint, Footprints
from webhookd.observe.logs import get_logger
from webhookd.observe.loop_watch import Stalls
from webhookd.observe.measures import SUCCESS, Measures

KEPT_SECONDS = 1.0
CENSUS_SECONDS = 2.0
CENSUS_SHARE = 0.01
CENSUS_PAUSE_SECONDS = 600.0

# EXPIRED is the error of a delivery that was never sent, which has a counter of its own.
_OUTCOMES = (SUCCESS, *(error.value for error in DeliveryError if error is not DeliveryError.EXPIRED))
_REFUSALS = (
    ErrorCode.VALIDATION_ERROR,
    ErrorCode.MALFORMED_JSON,
    ErrorCode.UNKNOWN_EVENT_TYPE,
    ErrorCode.PAYLOAD_TOO_LARGE,
    ErrorCode.CONFLICT,
    ErrorCode.QUOTA_EXCEEDED,
    ErrorCode.JOURNAL_FULL,
    ErrorCode.JOURNAL_UNREACHABLE,
    ErrorCode.SHUTTING_DOWN,
)

_log = get_logger("metrics")


class Connections(Protocol):
    """What the metrics need from the connections to receivers."""

    @property
    def idle_connections(self) -> int:
        """The number of idle connections."""
        ...

    @property
    def opened(self) -> int:
        """The number of requests on a new connection."""
        ...

    @property
    def reused(self) -> int:
        """The number of requests on a kept connection."""
        ...


class Producers(Protocol):
    """What the metrics need from the ingest socket."""

    @property
    def connections(self) -> int:
        """The number of connected producers."""
        ...


class LogStream(Protocol):
    """What the metrics need from the log's output."""

    @property
    def dropped(self) -> int:
        """The number of dropped lines, because nobody read them or the disk was full."""
        ...


class Exporter(Collector):
    """Makes expositions; `run` it in the background to count the backlog."""

    media_type = CONTENT_TYPE_PLAIN_0_0_4

    def __init__(
        self,
        measures: Measures,
        *,
        store: Store,
        router: Router,
        connections: Connections,
        lifecycle: Lifecycle,
        ingest: Producers,
        log: LogStream,
        stalls: Stalls,
        footprints: Footprints,
        clock: Clock,
        max_in_flight: int,
    ) -> None:
        self._measures = measures
        self._store = store
        self._router = router
        self._connections = connections
        self._lifecycle = lifecycle
        self._ingest = ingest
        self._log = log
        self._stalls = stalls
        self._clock = clock
        self._max_in_flight = max_in_flight
        self._census: tuple[float, Census] | None = None
        self._kept: tuple[float, bytes] | None = None
        # Not the library's default registry, which the whole process shares.
        self._registry = CollectorRegistry()
        self._registry.register(self)
        self._footprints = footprints
        self._footprint: Footprint | None = None
        self._exposing = trio.Lock()
        self._started_at = clock.now()
        self.nodes = NodeMetrics(store)

    async def expose(self) -> bytes:
        """Return an exposition, which may be a second old."""
        async with self._exposing:  # concurrent scrapes get the same exposition
            now = trio.current_time()
            if self._kept is None or now - self._kept[0] >= KEPT_SECONDS:
                self._footprint = await self._footprints.look(fresh_seconds=0)
                self._kept = (now, generate_latest(self._registry))
            return self._kept[1]

    async def run(self) -> None:
        """Count the backlog at intervals until canceled."""
        while True:
            if not self._store.ownership.is_leader:
                self._census = None
                await trio.sleep(CENSUS_SECONDS)
                continue
            began_at, counted_at = trio.current_time(), self._clock.now()
            try:
                taken = await self._store.take_census()
            except ReadTimeoutError:
                _log.warning("metrics.census_too_slow", pause_seconds=CENSUS_PAUSE_SECONDS)
                await trio.sleep(CENSUS_PAUSE_SECONDS)
                continue
            self._census = (counted_at, taken)
            await trio.sleep(max(CENSUS_SECONDS, (trio.current_time() - began_at) / CENSUS_SHARE))

    def describe(self) -> Iterable[Metric]:
        """Return nothing: at registration the parts don't exist yet."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        yield from self._events()
        yield from self._sending()
        yield from self._writing()
        yield from self._server()
        yield from self._process()
        if self._census is not None and self._store.ownership.is_leader:
            yield from self._waiting(*self._census)
        yield from self.nodes.collect()

    def _events(self) -> Iterator[Metric]:
        measures = self._measures
        yield counter("events_accepted", "Events that are on disk", measures.accepted)
        yield counter(
            "events_duplicate", "Events answered with the result of their first submission", measures.duplicates
        )
        refused = {code.value: 0 for code in _REFUSALS} | measures.refused
        yield counters("events_refused", "Events that were not taken, by error code", "code", refused)
        yield gauge("ingest_connections", "Producers connected to the ingest socket", self._ingest.connections)

    def _sending(self) -> Iterator[Metric]:
        measures, registry = self._measures, self._router.registry
        attempts = dict.fromkeys(_OUTCOMES, 0) | measures.attempts
        yield counters("attempts", "Requests made, by what came of them", "outcome", attempts)
        yield counter("deliveries_failed", "Deliveries given up for good", measures.failed_deliveries)
        yield histogram("attempt_duration_seconds", "Time from the start of an attempt to its end", measures.durations)
        yield histogram("delivery_lag_seconds", "Time from an event's acceptance to its first attempt", measures.lags)
        yield gauge("requests_in_flight", "Requests that wait for their answer", registry.slots.taken)
        yield gauge("requests_in_flight_limit", "How many there may be", self._max_in_flight)
        waiting = "Webhooks that have something to send while their owner may have no more requests in flight"
        yield gauge("requests_waiting", waiting, registry.slots.waiting)
        yield gauge("actors_running", "Webhooks that have something to be sent, or had a moment ago", registry.actors)
        yield counter("actor_crashes", "Crashes of an actor, each a bug in webhookd", registry.crashes)
        yield gauge("webhooks_halted", "Webhooks that crashed five times in five minutes", len(registry.halted()))
        found = self._router.sweeps_that_found_work
        yield counter("sweeps_found_work", "Endpoints whose work no wake-up had told of", found)
        uses = {"new": self._connections.opened, "reused": self._connections.reused}
        yield counters("connections_used", "Connections that requests went over", "connection", uses)
        yield gauge("connections_idle", "Connections kept for the next request", self._connections.idle_connections)

    def _writing(self) -> Iterator[Metric]:
        measures, footprint = self._measures, self._footprint
        assert footprint is not None  # noqa: S101 - `expose` has set it
        yield histogram("commit_duration_seconds", "Time that a batch took to be on disk", measures.commits)
        yield histogram("commit_batch_size", "Operations in a batch", measures.batches)
        failed = measures.commits_without_room
        yield counter("commits_failed", "Batches that the disk had no room for", failed)
        yield gauge("commit_queue_length", "Operations that wait for the next batch", self._store.queue_length)
        yield gauge(
            "journal_full",
            "1 while the journal takes no events: no room on the disk, or max_bytes is reached",
            int(self._store.is_full or self._store.is_at_bound),
        )
        if (disk := footprint.disk) is not None:
            yield gauge("journal_bytes", "Size of the journal's file", disk.journal_bytes)
            yield gauge("wal_bytes", "Size of the journal's write-ahead log", disk.log_bytes)
            yield gauge("journal_disk_free_bytes", "Room on the journal's file system", disk.free_bytes)

    def _server(self) -> Iterator[Metric]:
        state, _ = self._lifecycle.readiness()
        yield gauge("ready", "1 while the server takes work", int(state in {Readiness.OK, Readiness.DEGRADED}))
        yield gauge("degraded", "1 while /readyz says degraded", int(state is Readiness.DEGRADED))
        yield histogram("loop_delay_seconds", "How late the event loop's heartbeat was", self._stalls.delays)
        longest = self._stalls.longest()
        yield gauge(
            "loop_longest_stall_seconds",
            "The longest time of the last hour for which the loop did one thing, 0 where none took 20 ms",
            0 if longest is None else longest.seconds,
        )
        yield counter("log_lines_dropped", "Lines of the log that its reader didn't take", self._log.dropped)
        build = GaugeMetricFamily(
            "webhookd_build_info", "1, with the versions in use", labels=("version", "python", "sqlite")
        )
        build.add_metric((VERSION, platform.python_version(), SQLITE_VERSION), 1)
        yield build

    def _process(self) -> Iterator[Metric]:
        footprint = self._footprint
        assert footprint is not None  # noqa: S101 - as above
        # The library's collector needs /proc/stat, and reports nothing if the service manager hides it.
        yield CounterMetricFamily("process_cpu_seconds", "CPU time, all threads", value=time.process_time())
        if footprint.resident_bytes is not None:
            yield GaugeMetricFamily("process_resident_memory_bytes", "Memory in RAM", value=footprint.resident_bytes)
        yield GaugeMetricFamily("process_start_time_seconds", "When the server started", value=self._started_at)
        if footprint.descriptors is not None:
            yield GaugeMetricFamily("process_open_fds", "Open descriptors", value=footprint.descriptors)
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        yield GaugeMetricFamily("process_max_fds", "How many there may be", value=most)

    def _waiting(self, counted_at: float, taken: Census) -> Iterator[Metric]:
        backlog = {"pending": taken.pending, "parked": taken.parked}
        yield gauges("backlog_deliveries", "Deliveries still to be sent", "status", backlog)
        oldest = taken.oldest_pending_at
        age = 0.0 if oldest is None else max(0.0, self._clock.now() - oldest)
        yield gauge("oldest_pending_age_seconds", "Age of the oldest pending delivery of an active webhook", age)
        webhooks = {"active": taken.active_endpoints, "inactive": taken.inactive_endpoints}
        yield gauges("webhooks", "Webhooks there are", "state", webhooks)
        breakers = {state.value: 0 for state in BreakerState} | dict(taken.breakers)
        yield gauges("breakers", "Webhooks by the state of their circuit breaker", "state", breakers)
        yield gauge("backlog_counted_timestamp_seconds", "When the backlog and the breakers were counted", counted_at)

"""The cases by name, each with its load and its targets: two cores, events of 1 KiB, every commit synced."""

from collections.abc import Callable
from dataclasses import dataclass

from tests.bench import (
    crowd,
    health,
    ingest,
    latency,
    neighbours,
    nodes,
    pages,
    scale,
    secure,
    sizes,
    syscalls,
    throughput,
)
from tests.bench.load import Load
from tests.bench.report import Result, Target
from tests.bench.throughput import Scene

CPU = Target(bound=2.6, is_ratio=True)


@dataclass(frozen=True, slots=True)
class Case:
    """A named measurement."""

    name: str
    title: str
    run: Callable[[Load], Result]


def _ratio(bound: float) -> Target:
    return Target(bound=bound, at_least=True, is_ratio=True)


def _strict(load: Load) -> Result:
    targets = {"deliveries": _ratio(0.40), "cpu": CPU, "resident": Target(bound=90)}
    return throughput.measure(Scene(endpoints=50), load, deliveries=20_000, targets=targets)


def _burst(load: Load) -> Result:
    # A tenth of it is over before the first second has ended.
    targets = {} if load.is_quick else {"first": Target(bound=3_000, at_least=True)}
    return throughput.measure(Scene(endpoints=50, ahead=None), load, deliveries=20_000, targets=targets)


def _none(load: Load) -> Result:
    scene = Scene(endpoints=1, settings={"ordering": "none", "concurrency": 32})
    targets = {"deliveries": _ratio(0.35), "cpu": CPU}
    return throughput.measure(scene, load, deliveries=20_000, targets=targets)


def _fanout(load: Load) -> Result:
    targets = {"deliveries": _ratio(0.40), "cpu": CPU}
    return throughput.measure(Scene(endpoints=50, to_all=True), load, deliveries=20_000, targets=targets)


def _latency(load: Load) -> Result:
    return latency.at_rate(load, 500, {50: Target(bound=5), 99: Target(bound=25)})


def _latency_300(load: Load) -> Result:
    return latency.at_rate(load, 300, {})


def _ingest(load: Load) -> Result:
    return ingest.over_socket(load, held=False, target=_ratio(0.20))


def _held(load: Load) -> Result:
    return ingest.over_socket(load, held=True, target=None)


def _ack(load: Load) -> Result:
    return ingest.acknowledgement(load, Target(bound=10))


def _http(load: Load) -> Result:
    return ingest.over_http(load, lines_target=Target(bound=3000, at_least=True), posts_target=_ratio(0.8))


def _idle(load: Load) -> Result:
    bounds = {
        10_000: (Target(bound=120), Target(bound=3)),
        100_000: (Target(bound=300), Target(bound=10)),
    }
    return scale.idle(load, bounds)


def _backlog(load: Load) -> Result:
    return scale.backlog(load, memory=Target(bound=64), ready=Target(bound=3), first=Target(bound=4))


def _history(load: Load) -> Result:
    return scale.history(load, throughput=_ratio(0.9), listing=Target(bound=2, is_ratio=True))


def _pages(load: Load) -> Result:
    return pages.of_commits(load, target=Target(bound=50))


def _neighbours(load: Load) -> Result:
    return neighbours.among_failing(load, Target(bound=1.2, is_ratio=True))


def _crowd(load: Load) -> Result:
    return crowd.next_to_a_crowd(load, Target(bound=250))


def _health(load: Load) -> Result:
    return health.while_busy(load, slowest=Target(bound=250), longest=Target(bound=100))


def _tls(load: Load) -> Result:
    return secure.against_clear_text(load, _ratio(0.8))


def _nodes(load: Load) -> Result:
    return nodes.several(load, _ratio(0.8))


CASES = {
    case.name: case
    for case in (
        Case("strict", "50 strict endpoints, each event to one of them, sustained", _strict),
        Case("burst", "the same without a bound, accepted as fast as possible", _burst),
        Case("none", "1 endpoint without order, 32 in flight", _none),
        Case("fanout", "each event to 50 strict endpoints", _fanout),
        Case("latency", "500 events a second in an open loop, 50 strict endpoints", _latency),
        Case("latency-300", "300 events a second in an open loop, 50 strict endpoints", _latency_300),
        Case("ingest", "events over the socket, pipelined, without a webhook", _ingest),
        Case("ingest-held", "events over the socket, pipelined, for one webhook that holds them", _held),
        Case("ack", "1,000 events a second over the socket in an open loop", _ack),
        Case("http", "events over HTTP: a stream of lines, and single posts over 16 connections", _http),
        Case("crowd", "single posts of one organization next to 240,000 deliveries of another", _crowd),
        Case("health", "a probe of /healthz every 20 ms during deliveries to 50 strict endpoints", _health),
        Case("idle", "endpoints registered and nothing to send", _idle),
        Case("backlog", "a start on a backlog of 1,000,000 deliveries for 1,000 endpoints", _backlog),
        Case("history", "50 strict endpoints with a history of 5,000,000 deliveries", _history),
        Case("pages", "pages that a commit writes under a backlog of 1,000,000 deliveries for 50 endpoints", _pages),
        Case("neighbours", "healthy endpoints among failing ones, 500 events a second in an open loop", _neighbours),
        Case("tls", "1,000 strict endpoints over TLS with kept connections", _tls),
        Case("sizes", "bytes of an event, a delivery and an attempt in a database on PostgreSQL", sizes.on_postgresql),
        Case("nodes", "1, 2 and 4 nodes on one PostgreSQL, 2,000 endpoints", _nodes),
        Case("syscalls", "system calls a delivery, counted by strace", syscalls.of_deliveries),
    )
}

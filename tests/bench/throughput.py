"""Measure how many deliveries a second the server makes, and its CPU time and memory.

Events are sent over the socket, at most a bound ahead of the receiver, so that the rate is sustainable; without the
bound it is a burst, and what arrives while its events are still being accepted is a figure of its own. The yardstick
runs before and after each repeat, and the ratios are to the mean of the two.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.generator import Producer, event_line, producer
from tests.bench.load import Load
from tests.bench.receivers import Receiver, cheapest
from tests.bench.report import Figure, Result, Target, compared
from tests.bench.server import POLL_SECONDS, BrokenCaseError, CpuTime, Server, serving
from tests.bench.yardsticks import Posted, bare_posts

AHEAD = 2000  # deliveries that are accepted and have not arrived
BLOCK = 100  # deliveries whose events are sent at once
YARDSTICK_REQUESTS = 50_000
STALL_SECONDS = 20.0
FIRST_SECONDS = 1.0  # of a burst
MEMORY_SECONDS = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """The endpoints, and whether each event is for one of them in turn or for all of them; a burst has no `ahead`."""

    endpoints: int
    settings: dict[str, object] = field(default_factory=dict)
    to_all: bool = False
    ahead: int | None = AHEAD

    def lines(self) -> Sequence[bytes]:
        """Return the events that are sent in turn."""
        if self.to_all:
            return [event_line()]
        return [event_line(organization=f"o{number}") for number in range(self.endpoints)]

    @property
    def deliveries_an_event(self) -> int:
        """The number of deliveries of an event."""
        return self.endpoints if self.to_all else 1


@dataclass(frozen=True, slots=True)
class Pass:
    """The figures of one run of deliveries: `meanwhile` arrived before the last event was acknowledged."""

    per_second: float
    first_second: int
    meanwhile: int
    cpu: CpuTime  # in microseconds a delivery
    resident_mebibytes: float
    lost: int


def deliver(server: Server, receiver: Receiver, scene: Scene, deliveries: int) -> Pass:
    """Send events for `deliveries` deliveries and wait until the last has arrived."""
    watch = _Watch(server, receiver)
    events = deliveries // scene.deliveries_an_event
    cpu, began = server.cpu_seconds(), time.monotonic()
    with producer(server.socket) as sender:
        _send(sender, scene, events, watch)
        sender.finish()
    meanwhile = watch.arrived()
    expected = events * scene.deliveries_an_event
    seconds = watch.wait(expected) - began
    arrived = watch.arrived()
    spent = server.cpu_seconds().microseconds_each(cpu, arrived)
    return Pass(
        arrived / seconds,
        watch.first_second,
        meanwhile,
        spent,
        watch.resident_mebibytes,
        lost=max(expected - arrived, 0),
    )


class _Watch:
    """Counts what has arrived since its creation, in all and in the first second, and measures the server's memory."""

    def __init__(self, server: Server, receiver: Receiver) -> None:
        self.first_second = 0
        self.resident_mebibytes = 0.0
        self._began = time.monotonic()
        self._server = server
        self._receiver = receiver
        self._before = receiver.count()
        self._looked_at = 0.0

    def arrived(self) -> int:
        if time.monotonic() - self._looked_at > MEMORY_SECONDS:
            self._looked_at = time.monotonic()
            self.resident_mebibytes = max(self.resident_mebibytes, self._server.resident_mebibytes())
        arrived = self._receiver.count() - self._before
        if time.monotonic() - self._began < FIRST_SECONDS:
            self.first_second = arrived
        return arrived

    def wait(self, expected: int) -> float:
        """Wait until `expected` deliveries have arrived or none arrives any more; return the time of the last one."""
        arrived, at = self.arrived(), time.monotonic()
        while arrived < expected and time.monotonic() - at < STALL_SECONDS:
            time.sleep(POLL_SECONDS)
            if (now := self.arrived()) > arrived:
                arrived, at = now, time.monotonic()
        return at


def _send(sender: Producer, scene: Scene, events: int, watch: _Watch) -> None:
    lines = scene.lines()
    fan_out = scene.deliveries_an_event
    block = max(BLOCK // fan_out, 1)
    for first in range(0, events, block):
        last = min(first + block, events)
        enough = 0 if scene.ahead is None else last * fan_out - scene.ahead
        watch.wait(enough)
        if watch.arrived() < enough:
            raise BrokenCaseError("no more deliveries arrive")
        sender.send([lines[number % len(lines)] for number in range(first, last)])


def measure(scene: Scene, load: Load, *, deliveries: int, targets: dict[str, Target]) -> Result:
    """Measure a scene on a new journal."""
    with (
        cheapest() as receiver,
        TemporaryDirectory(prefix="webhookd-bench-") as directory,
        serving(Path(directory)) as server,
    ):
        server.add_webhooks(receiver.url, scene.endpoints, in_organizations=not scene.to_all, **scene.settings)
        result = Result(receiver=receiver.name)
        passes, around = repeat(server, receiver, scene, load, load.of(deliveries))
        server.settle()
        report(result, passes, around, targets)
        result.figures += [
            Figure(
                what="resident memory under load",
                unit="MiB",
                values=tuple(one.resident_mebibytes for one in passes),
                target=targets.get("resident"),
            ),
            Figure(what="peak memory", unit="MiB", values=(server.peak_mebibytes(),)),
        ]
        if scene.ahead is None:
            result.figures += _of_burst(passes, load.of(deliveries), targets)
    return result


def _of_burst(passes: Sequence[Pass], deliveries: int, targets: dict[str, Target]) -> list[Figure]:
    first = tuple(float(one.first_second) for one in passes)
    meanwhile = tuple(one.meanwhile * 1000 / deliveries for one in passes)
    return [
        Figure(what="deliveries in the first second", unit="", values=first, target=targets.get("first")),
        Figure(what="deliveries while 1,000 events are accepted", unit="", values=meanwhile),
    ]


def repeat(
    server: Server, receiver: Receiver, scene: Scene, load: Load, deliveries: int
) -> tuple[list[Pass], list[Posted]]:
    """Deliver several times between yardsticks; return the passes and the yardsticks before, between and after."""
    deliver(server, receiver, scene, deliveries // 10)
    around = [bare_posts(receiver.port, load.of(YARDSTICK_REQUESTS))]
    passes = []
    for _ in range(load.repeats):
        passes.append(deliver(server, receiver, scene, deliveries))
        around.append(bare_posts(receiver.port, load.of(YARDSTICK_REQUESTS)))
    return passes, around


def report(result: Result, passes: Sequence[Pass], around: Sequence[Posted], targets: dict[str, Target]) -> None:
    """Add the figures of the passes to a result."""
    rates, costs = [one.per_second for one in passes], [one.cpu.all_threads for one in passes]
    requests, cpu = [one.per_second for one in around], [one.cpu_microseconds for one in around]
    result.lost += sum(one.lost for one in passes)
    result.yardsticks |= {"Y, requests/s": requests, "Y, µs of CPU": cpu}
    result.figures += [
        compared("deliveries", "/s", rates, "Y", requests, target=targets.get("deliveries")),
        compared("CPU a delivery, all threads", "µs", costs, "Y", cpu, target=targets.get("cpu")),
        Figure(what="CPU a delivery, the event loop's thread", unit="µs", values=tuple(one.cpu.loop for one in passes)),
    ]

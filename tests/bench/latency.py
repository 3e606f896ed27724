"""Measure the time from an event's planned time to its request at the receiver, in an open loop."""

import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from tests.bench.generator import Played, event_line, play
from tests.bench.load import Load
from tests.bench.receivers import Sink, sink
from tests.bench.report import Figure, Result, Target, latency_figures
from tests.bench.server import POLL_SECONDS, CpuTime, Server, serving

ENDPOINTS = 50
WARM_UP_SECONDS = 2
ARRIVE_SECONDS = 30.0


def at_rate(load: Load, per_second: int, targets: dict[float, Target]) -> Result:
    """Measure at a rate over 50 strict endpoints on a new journal."""
    with (
        sink("record") as receiver,
        TemporaryDirectory(prefix="webhookd-bench-") as directory,
        serving(Path(directory)) as server,
    ):
        server.add_webhooks(receiver.url, ENDPOINTS)
        result = Result(receiver=receiver.name)
        organizations = tuple(f"o{number}" for number in range(ENDPOINTS))
        rate = Rate(per_second=per_second, organizations=organizations, healthy=ENDPOINTS)
        play_through(server, receiver, rate, WARM_UP_SECONDS * per_second)
        measured = play_through(server, receiver, rate, load.of(20 * per_second))
        server.settle()
        result.void = measured.played.void()
        result.lost = measured.lost
        result.figures += latency_figures("event in to request", measured.seconds, targets)
        result.figures += latency_figures("event in to its result", measured.played.answer_seconds(), {})
        result.figures += [
            Figure(what="CPU a delivery, all threads", unit="µs", values=(measured.cpu.all_threads,)),
            Figure(what="CPU a delivery, the event loop's thread", unit="µs", values=(measured.cpu.loop,)),
            Figure(what="peak memory", unit="MiB", values=(server.peak_mebibytes(),)),
        ]
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Events a second, and the organizations that get them in turn; the first `healthy` ones have healthy endpoints."""

    per_second: float
    organizations: tuple[str, ...]
    healthy: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """The figures of an open loop: the latency of each event that arrived, and the server's CPU time (µs an event)."""

    played: Played
    seconds: tuple[float, ...]
    lost: int
    cpu: CpuTime


def play_through(server: Server, receiver: Sink, rate: Rate, events: int) -> Measured:
    """Send events at a rate, and wait until those for healthy endpoints have arrived."""
    batch = uuid4().hex
    ids = [f"{batch}-{number}" for number in range(events)]
    lines = [
        event_line(organization=rate.organizations[number % len(rate.organizations)], event_id=event_id)
        for number, event_id in enumerate(ids)
    ]
    awaited = sum(number % len(rate.organizations) < rate.healthy for number in range(events))
    before = receiver.count()
    cpu = server.cpu_seconds()
    played = play(server.socket, lines, rate.per_second)
    spent = server.cpu_seconds().microseconds_each(cpu, events)
    deadline = time.monotonic() + ARRIVE_SECONDS
    while receiver.count() - before < awaited and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    arrivals = receiver.arrivals()
    seconds = tuple(
        arrivals[event_id] - planned
        for event_id, planned in zip(ids, played.planned, strict=True)
        if event_id in arrivals
    )
    return Measured(played=played, seconds=seconds, lost=awaited - len(seconds), cpu=spent)

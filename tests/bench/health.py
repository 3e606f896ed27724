"""Measure health checks while the server is busy, and the longest stall of its event loop."""

import http.client
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from tests.bench.load import Load
from tests.bench.receivers import cheapest
from tests.bench.report import Figure, Result, Target, latency_figures
from tests.bench.server import serving
from tests.bench.throughput import Scene, deliver

ENDPOINTS = 50
DELIVERIES = 20_000
PAUSE_SECONDS = 0.02
PATIENCE_SECONDS = 30.0


class Stall(msgspec.Struct, rename="camel"):
    """The longest stall of the event loop."""

    seconds: float
    cpu_seconds: float
    task: str | None


class Loop(msgspec.Struct, rename="camel"):
    """The answer of `GET /api/loop`."""

    longest_stall: Stall | None


def while_busy(load: Load, *, slowest: Target, longest: Target) -> Result:
    """Request `/healthz` every 20 ms while the server delivers as fast as it can to 50 strict endpoints."""
    with (
        cheapest() as receiver,
        TemporaryDirectory(prefix="webhookd-bench-") as directory,
        serving(Path(directory)) as server,
    ):
        server.add_webhooks(receiver.url, ENDPOINTS)
        result = Result(receiver=receiver.name)
        with _probing(server.api_port) as seconds:
            passes = [deliver(server, receiver, Scene(endpoints=ENDPOINTS), load.of(DELIVERIES)) for _ in "12"]
        server.settle()
        stall = server.control.get("/api/loop", Loop).longest_stall
    result.lost = sum(one.lost for one in passes)
    result.figures += latency_figures("/healthz", seconds, {})
    result.figures += [
        Figure(what="/healthz, the slowest", unit="ms", values=(max(seconds) * 1000,), target=slowest),
        Figure(
            what="the loop's longest stall",
            unit="ms",
            values=(0.0 if stall is None else stall.seconds * 1000,),
            target=longest,
        ),
        Figure(what="deliveries meanwhile", unit="/s", values=tuple(one.per_second for one in passes)),
    ]
    if stall is not None:
        result.notes.append(
            f"the longest stall was a step of {stall.task or 'no single task'}, "
            f"{stall.cpu_seconds * 1000:.0f} ms of it CPU time"
        )
    result.notes.append(f"{len(seconds)} probes")
    return result


@contextmanager
def _probing(port: int) -> Iterator[Sequence[float]]:
    """Send probes during the block; yield the list of seconds that each took."""
    seconds: list[float] = []
    is_over = threading.Event()

    def probe() -> None:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_SECONDS)) as connection:
            while not is_over.wait(PAUSE_SECONDS):
                began = time.monotonic()
                connection.request("GET", "/healthz")
                connection.getresponse().read()
                seconds.append(time.monotonic() - began)

    thread = threading.Thread(target=probe)
    thread.start()
    try:
        yield seconds
    finally:
        is_over.set()
        thread.join()

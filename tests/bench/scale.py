"""Measure large journals: many idle endpoints, a long backlog, a long history.

The journals are filled beforehand (see `seed`), so that the measured server has not done this work.
"""

import http.client
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.load import Load
from tests.bench.receivers import cheapest, sink
from tests.bench.report import Figure, Result, Target, compared, percentile
from tests.bench.seed import Content, Group, seed
from tests.bench.server import BrokenCaseError, Server, WebhookPage, serving
from tests.bench.throughput import Scene, deliver
from webhookd.cli.control import connect

NOWHERE = "http://127.0.0.1:9/"
IDLE_SECONDS = 3.0
BACKLOG_ENDPOINTS = 1000
BACKLOG_SECONDS = 10.0
HISTORY_ENDPOINTS = 50
ASKS = 20
LISTS = {
    "deliveries": "/api/webhooks/{webhook}/deliveries?limit=100",
    "failed deliveries": "/api/webhooks/{webhook}/deliveries?limit=100&status=failed",
    "webhooks with their health": "/api/webhooks?limit=100",
    "events": "/api/events?limit=100",
}


def idle(load: Load, bounds: dict[int, tuple[Target, Target]]) -> Result:
    """Measure memory and the start with many endpoints and nothing to send."""
    result = Result(receiver="none: nothing is sent")
    for registered, (memory, start) in bounds.items():
        count = load.of(registered)
        resident, server = _resting(Content(groups=(Group(count=count, url=NOWHERE),)))
        result.figures += [
            Figure(what=f"{count:,} endpoints, resident", unit="MiB", values=(resident,), target=memory),
            Figure(what=f"{count:,} endpoints, start", unit="s", values=(server.ready_seconds,), target=start),
        ]
    return result


def _resting(content: Content) -> tuple[float, Server]:
    """Start a server on a journal with nothing to send; return its resident memory at rest, in MiB, and the server."""
    with TemporaryDirectory(prefix="webhookd-bench-") as directory:
        seed(Path(directory), content)
        with serving(Path(directory)) as server:
            time.sleep(IDLE_SECONDS)
            return server.resident_mebibytes(), server


def backlog(load: Load, *, memory: Target, ready: Target, first: Target) -> Result:
    """Measure a start on a backlog: the time until it is ready and until the first delivery, and the peak memory.

    The memory is compared with that of a server with the same endpoints and no backlog, and with one that delivers a
    hundredth of the backlog, which shows how much of it the deliveries themselves need.
    """
    queued = load.of(1_000_000)
    with sink("record") as receiver:
        result = Result(receiver=receiver.name)
        groups = (Group(count=BACKLOG_ENDPOINTS, url=receiver.url),)
        at_rest, _ = _resting(Content(groups=groups))
        peaks = {}
        for deliveries in (queued // 100, queued):
            with TemporaryDirectory(prefix="webhookd-bench-") as name:
                directory = Path(name)
                seed(directory, Content(groups=groups, deliveries=deliveries, fan_out=10))
                receiver.arrivals()
                before = receiver.count()
                with serving(directory, abandon=True) as server:
                    time.sleep(BACKLOG_SECONDS)
                    sent, began = receiver.count() - before, min(receiver.arrivals().values())
                    peaks[deliveries] = server.peak_mebibytes()
    result.figures += [
        Figure(what=f"{queued:,} deliveries queued, ready", unit="s", values=(server.ready_seconds,), target=ready),
        Figure(what="first delivery", unit="s", values=(began - server.started_at,), target=first),
        Figure(
            what="peak memory above the same endpoints at rest",
            unit="MiB",
            values=(peaks[queued] - at_rest,),
            target=memory,
        ),
        Figure(
            what=f"peak memory above working off {queued // 100:,}",
            unit="MiB",
            values=(peaks[queued] - peaks[queued // 100],),
        ),
    ]
    result.notes.append(f"{sent:,} of them were sent in the first {BACKLOG_SECONDS:g} s; the rest was not awaited")
    return result


def history(load: Load, *, throughput: Target, listing: Target) -> Result:
    """Measure deliveries and lists on a journal with a long history, between measurements on one with a short one."""
    short, long = 10_000, load.of(5_000_000)
    scene = Scene(endpoints=HISTORY_ENDPOINTS)
    rates: dict[int, list[float]] = {short: [], long: []}
    answers: dict[str, dict[int, list[float]]] = {name: {short: [], long: []} for name in LISTS}
    with cheapest() as receiver, ExitStack() as stack:
        result = Result(receiver=receiver.name)
        groups = (Group(count=HISTORY_ENDPOINTS, url=receiver.url),)
        servers = {}
        for rows in (short, long):
            directory = Path(stack.enter_context(TemporaryDirectory(prefix="webhookd-bench-")))
            seed(directory, Content(groups=groups, deliveries=rows, fan_out=HISTORY_ENDPOINTS, are_sent=True))
            servers[rows] = stack.enter_context(serving(directory))
        for rows in (short, *(long, short) * load.repeats):
            deliver(servers[rows], receiver, scene, load.of(2_000))
            measured = deliver(servers[rows], receiver, scene, load.of(20_000))
            servers[rows].settle()
            result.lost += measured.lost
            rates[rows].append(measured.per_second)
            for name, target in LISTS.items():
                answers[name][rows].append(_milliseconds(servers[rows], target))
    result.notes.append(f"{long:,} sent deliveries, each with its attempt, compared with {short:,}")
    other = f"with {short:,}"
    result.yardsticks[f"{other}, deliveries/s"] = rates[short]
    result.figures.append(compared("deliveries", "/s", rates[long], other, rates[short], target=throughput))
    for name, times in answers.items():
        result.yardsticks[f"{other}, list of {name}, ms"] = times[short]
        result.figures.append(compared(f"list of {name}, p50", "ms", times[long], other, times[short], target=listing))
    return result


def _milliseconds(server: Server, target: str) -> float:
    """Request a list several times over one connection; return the median time of the answer."""
    [webhook] = server.control.get("/api/webhooks?limit=1", WebhookPage).data
    connection = http.client.HTTPConnection("localhost")
    connection.sock = connect(server.directory / "control.sock")
    seconds = []
    for _ in range(ASKS):
        began = time.perf_counter()
        connection.request("GET", target.format(webhook=webhook.id))
        response = connection.getresponse()
        text = response.read()
        seconds.append(time.perf_counter() - began)
        if response.status != 200:
            raise BrokenCaseError(f"{target} was answered with {response.status}: {text[:200]!r}")
    connection.close()
    return percentile(seconds, 50) * 1000

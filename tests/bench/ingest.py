"""Measure how many events a second are acknowledged, after their commit, over the socket and over HTTP."""

import http.client
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.generator import event_line, play, producer
from tests.bench.load import Load
from tests.bench.report import Figure, Result, Target, compared, latency_figures
from tests.bench.server import BrokenCaseError, Server, serving
from tests.bench.yardsticks import bare_rows, empty_app, post_loop, posted_request

NOBODY = "none: nothing is sent"
BLOCK = 200
POSTING_CONNECTIONS = 16


@contextmanager
def _fresh() -> Iterator[Server]:
    with TemporaryDirectory(prefix="webhookd-bench-") as directory, serving(Path(directory)) as server:
        yield server


def over_socket(load: Load, *, held: bool, target: Target | None) -> Result:
    """Measure the socket, pipelined, without a webhook or with one that holds its events."""
    result = Result(receiver=NOBODY)
    samples = [bare_rows(deliveries_each=int(held))]
    rates, costs = [], []
    with _fresh() as server:
        if held:
            server.add_webhooks("http://127.0.0.1:9999/", 1, isActive=False)
        _pipeline(server, load.of(5_000), held=held)
        for _ in range(load.repeats):
            cpu, began, events = server.cpu_seconds(), time.monotonic(), load.of(40_000)
            _pipeline(server, events, held=held)
            rates.append(events / (time.monotonic() - began))
            costs.append(server.cpu_seconds().microseconds_each(cpu, events))
            samples.append(bare_rows(deliveries_each=int(held)))
        peak = server.peak_mebibytes()
    result.yardsticks["D, events/s"] = samples
    result.figures += [
        compared("events acknowledged", "/s", rates, "D", samples, target=target),
        Figure(what="CPU an event, all threads", unit="µs", values=tuple(cost.all_threads for cost in costs)),
        Figure(what="CPU an event, the event loop's thread", unit="µs", values=tuple(cost.loop for cost in costs)),
        Figure(what="peak memory", unit="MiB", values=(peak,)),
    ]
    return result


def _pipeline(server: Server, events: int, *, held: bool) -> None:
    block = [event_line(organization="o0" if held else None)] * BLOCK
    with producer(server.socket) as sender:
        for _ in range(events // BLOCK):
            sender.send(block)
        sender.finish()


def acknowledgement(load: Load, target: Target) -> Result:
    """Measure the time from an event's planned time to its result, at 1,000 events a second in an open loop."""
    with _fresh() as server:
        play(server.socket, [event_line()] * 1000, 1000)
        played = play(server.socket, [event_line()] * load.of(20_000), 1000)
    return Result(
        receiver=NOBODY,
        void=played.void(),
        figures=latency_figures("event in to its result", played.answer_seconds(), {99: target}),
    )


def over_http(load: Load, *, lines_target: Target, posts_target: Target) -> Result:
    """Measure a stream of lines over one connection, and single posts over several next to an empty handler."""
    result = Result(receiver=NOBODY)
    with _fresh() as server, empty_app() as empty_port:
        streamed = [_stream(server, load.of(20_000)) for _ in range(load.repeats)]
        result.figures.append(Figure(what="NDJSON, events", unit="/s", values=tuple(streamed), target=lines_target))
        headers = {"authorization": f"Bearer {server.admin_key}", "content-type": "application/json"}
        request = posted_request("/api/events", headers, event_line().rstrip())
        count = load.of(4_000)
        samples = [post_loop(empty_port, request, count, POSTING_CONNECTIONS).per_second]
        posted = []
        for _ in range(load.repeats):
            posted.append(post_loop(server.api_port, request, count, POSTING_CONNECTIONS).per_second)
            samples.append(post_loop(empty_port, request, count, POSTING_CONNECTIONS).per_second)
        peak = server.peak_mebibytes()
    result.yardsticks["N, posts/s"] = samples
    result.figures += [
        compared("single posts", "/s", posted, "N", samples, target=posts_target),
        Figure(what="peak memory", unit="MiB", values=(peak,)),
    ]
    return result


def _stream(server: Server, events: int) -> float:
    """Post a stream of lines; return how many a second were acknowledged."""
    body = event_line() * events
    connection = http.client.HTTPConnection("127.0.0.1", server.api_port, timeout=60)
    headers = {
        "authorization": f"Bearer {server.admin_key}",
        "content-type": "application/x-ndjson",
        "content-length": str(len(body)),
    }
    began = time.monotonic()
    connection.putrequest("POST", "/api/events")
    for name, value in headers.items():
        connection.putheader(name, value)
    connection.endheaders()
    # Results arrive while lines are still being sent, and the server stops reading if they are not read.
    sending = threading.Thread(target=connection.sock.sendall, args=(body,))
    sending.start()
    response = connection.getresponse()
    results = response.read().splitlines()
    sending.join()
    seconds = time.monotonic() - began
    connection.close()
    if len(results) != events or not all(line.endswith(b'"ok":true}') for line in results):
        raise BrokenCaseError(f"{len(results)} results for {events} lines: {results[-1:]}")
    return events / seconds

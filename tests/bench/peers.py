"""Measure Svix or Outpost next to webhookd, in the same run: `python -m tests.bench.peers svix URL --key-file FILE`.

The peer runs already, with its databases and queues, on this machine; docs/peers.md says how to start it. The driver
creates endpoints, posts events to the peer and to webhookd in turn in the same way, counts what arrives at receivers of
the benchmark, and deletes what it created. Each figure of the peer is compared with webhookd's before and after it.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit

from rich.console import Console

from tests.bench.apis import PEERS, Api, Peer, Webhookd
from tests.bench.posting import Pace, play_posts, post_ahead
from tests.bench.processes import Processes
from tests.bench.receivers import Receiver, Sink, cheapest, sink
from tests.bench.report import Figure, Result, compared, percentile
from tests.bench.run import WIDTH, Runnable, machine, run_all, write
from tests.bench.server import POLL_SECONDS, BrokenCaseError, Server, serving
from tests.bench.throughput import AHEAD, Scene, deliver

OVER_HTTP, OVER_SOCKET = "webhookd over HTTP", "webhookd over its socket"
PERCENTILES = (50, 99, 99.9)
WARM_UP_SHARE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The load, which is the same for the peer and for webhookd."""

    endpoints: int
    deliveries: int
    repeats: int
    connections: int
    rate: int  # events a second of the open loop
    seconds: int  # of the open loop
    patience_seconds: float  # without an arrival, after which the rest counts as lost


@dataclass(frozen=True, slots=True)
class Measured:
    """A server that is measured, with its processes and the receiver of its deliveries."""

    api: Api
    processes: Processes


@dataclass(frozen=True, slots=True)
class Pass:
    """The figures of one run of deliveries."""

    per_second: float
    cpu_microseconds: float  # a delivery
    mebibytes: float | None  # the most that was seen; None if this user may not see it
    lost: int


def deliveries(peer: Peer, processes: Processes, options: Options, *, together: bool) -> Result:
    """Measure deliveries a second: each event to one endpoint in turn, or `together` to all of them."""
    each = options.endpoints if together else 1
    events = max(options.deliveries // each, 1)
    scene = Scene(endpoints=options.endpoints, to_all=together)
    with (
        cheapest() as receiver,
        cheapest() as other_receiver,
        _added(peer, other_receiver.url, options, together=together),
        _webhookd() as server,
    ):
        own, other = Measured(Webhookd(server), Processes([server.pid])), Measured(peer, processes)
        own.api.add(receiver.url, options.endpoints, together=together)
        for measured, at in ((own, receiver), (other, other_receiver)):
            _deliver(measured, at, max(events // WARM_UP_SHARE, 1), each, options)
        around, over_socket, passes = [], [], []
        for number in range(options.repeats + 1):
            around.append(_deliver(own, receiver, events, each, options))
            over_socket.append(deliver(server, receiver, scene, events * each))
            if number < options.repeats:
                passes.append(_deliver(other, other_receiver, events, each, options))
        server.settle()
    result = Result(receiver=f"{receiver.name}, one for each")
    result.lost = sum(one.lost for one in (*passes, *around)) + sum(one.lost for one in over_socket)
    rates, costs = [one.per_second for one in passes], [one.cpu_microseconds for one in passes]
    own_rates, own_costs = [one.per_second for one in around], [one.cpu_microseconds for one in around]
    socket_rates = [one.per_second for one in over_socket]
    result.yardsticks |= {
        f"{OVER_HTTP}, deliveries/s": own_rates,
        f"{OVER_SOCKET}, deliveries/s": socket_rates,
        f"{OVER_HTTP}, µs of CPU": own_costs,
        f"{OVER_SOCKET}, µs of CPU": [one.cpu.all_threads for one in over_socket],
    }
    result.figures += [
        _compared(f"{peer.name}: deliveries", "/s", rates, OVER_HTTP, own_rates),
        _compared(f"{peer.name}: deliveries", "/s", rates, OVER_SOCKET, socket_rates),
        _compared(f"{peer.name}: CPU a delivery", "µs", costs, OVER_HTTP, own_costs),
    ]
    _add_memory(result, peer, passes, around)
    result.notes.append(f"CPU and memory of {peer.name}: {processes.describe()}")
    return result


def latency(peer: Peer, processes: Processes, options: Options) -> Result:
    """Measure the time from an event's planned time to its request at the receiver, in an open loop over HTTP."""
    events = options.rate * options.seconds
    with (
        sink("record") as receiver,
        sink("record") as other_receiver,
        _added(peer, other_receiver.url, options, together=False),
        _webhookd() as server,
    ):
        own, other = Measured(Webhookd(server), Processes([server.pid])), Measured(peer, processes)
        own.api.add(receiver.url, options.endpoints, together=False)
        for measured, at in ((own, receiver), (other, other_receiver)):
            _play(measured, at, max(events // WARM_UP_SHARE, 1), options)
        before = _play(own, receiver, events, options)
        played = _play(other, other_receiver, events, options)
        after = _play(own, receiver, events, options)
        server.settle()
    result = Result(receiver=f"{receiver.name}, one for each")
    result.lost = before.lost + played.lost + after.lost
    result.void = before.void or played.void or after.void
    for percent in PERCENTILES:
        own_values = [percentile(one.seconds, percent) * 1000 for one in (before, after)]
        value = percentile(played.seconds, percent) * 1000
        what = f"event in to request, p{percent:g}"
        result.figures.append(_compared(f"{peer.name}: {what}", "ms", [value], OVER_HTTP, own_values))
        result.yardsticks[f"{OVER_HTTP}, {what}, ms"] = own_values
    own_costs = [before.cpu_microseconds, after.cpu_microseconds]
    result.figures.append(
        _compared(f"{peer.name}: CPU a delivery", "µs", [played.cpu_microseconds], OVER_HTTP, own_costs)
    )
    result.yardsticks[f"{OVER_HTTP}, µs of CPU"] = own_costs
    result.notes.append(f"CPU of {peer.name}: {processes.describe()}")
    return result


@contextmanager
def _webhookd() -> Iterator[Server]:
    with TemporaryDirectory(prefix="webhookd-bench-") as directory, serving(Path(directory)) as server:
        yield server


@contextmanager
def _added(peer: Peer, url: str, options: Options, *, together: bool) -> Iterator[None]:
    """Have the endpoints during the block."""
    try:
        peer.add(url, options.endpoints, together=together)
        yield
    finally:
        peer.remove()


def _deliver(measured: Measured, receiver: Receiver, events: int, each: int, options: Options) -> Pass:
    """Post events and wait until their deliveries have arrived."""
    requests = [measured.api.request(number) for number in range(events)]
    pace = Pace(
        connections=options.connections,
        ahead=AHEAD,
        deliveries_an_event=each,
        patience_seconds=options.patience_seconds,
    )
    seen: list[float | None] = []
    cpu = measured.processes.cpu_seconds()
    arrived = post_ahead(
        measured.api.address,
        requests,
        pace,
        receiver.count,
        lambda: seen.append(measured.processes.memory_mebibytes()),
    )
    spent = measured.processes.cpu_seconds() - cpu
    if not arrived.deliveries:
        raise BrokenCaseError(f"no delivery of {measured.api.name} arrived in {options.patience_seconds:g} s")
    known = [value for value in seen if value is not None]
    return Pass(
        arrived.deliveries / arrived.seconds,
        spent / arrived.deliveries * 1e6,
        max(known, default=None),
        max(events * each - arrived.deliveries, 0),
    )


def _add_memory(result: Result, peer: Peer, passes: Sequence[Pass], around: Sequence[Pass]) -> None:
    own = [one.mebibytes for one in around if one.mebibytes is not None]
    values = [one.mebibytes for one in passes if one.mebibytes is not None]
    if len(values) < len(passes) or len(own) < len(around):
        result.notes.append(f"memory of {peer.name}: run this as root, or as the user of its processes")
        return
    result.figures.append(_compared(f"{peer.name}: memory under load", "MiB", values, OVER_HTTP, own))
    result.yardsticks[f"{OVER_HTTP}, MiB"] = own


def _compared(what: str, unit: str, values: Sequence[float], yardstick: str, around: Sequence[float]) -> Figure:
    """Compare with webhookd before and after each value, unless the kernel counted no CPU time for it."""
    if not all(around):
        return Figure(what=what, unit=unit, values=tuple(values), yardstick=yardstick)
    return compared(what, unit, values, yardstick, around)


@dataclass(frozen=True, slots=True)
class Timed:
    """The figures of an open loop."""

    seconds: Sequence[float]
    cpu_microseconds: float  # an event
    void: str
    lost: int


def _play(measured: Measured, receiver: Sink, events: int, options: Options) -> Timed:
    """Post events at the rate and wait until all have arrived, or none arrives any more."""
    requests = [measured.api.request(number) for number in range(events)]
    before, cpu = receiver.count(), measured.processes.cpu_seconds()
    played, answers = play_posts(measured.api.address, requests, options.rate)
    arrived, at = receiver.count() - before, time.monotonic()
    while arrived < events and time.monotonic() - at < options.patience_seconds:
        time.sleep(POLL_SECONDS)
        if (now := receiver.count() - before) > arrived:
            arrived, at = now, time.monotonic()
    spent = measured.processes.cpu_seconds() - cpu
    arrivals = receiver.arrivals()
    ids = [json.loads(answer)["id"] for answer in answers]
    seconds = [
        arrivals[event_id] - planned
        for event_id, planned in zip(ids, played.planned, strict=True)
        if event_id in arrivals
    ]
    if not seconds:
        raise BrokenCaseError(
            f"of {arrived} requests of {measured.api.name} at the receiver none has an event's id in a known header"
        )
    return Timed(seconds, spent / events * 1e6, played.void(), events - len(seconds))


def main(arguments: Sequence[str]) -> int:
    """Run the chosen cases; return the exit status, 1 if a case broke or lost deliveries."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peer", choices=PEERS, help="which API the server speaks")
    parser.add_argument("url", metavar="URL", help="its base URL: of Svix http://HOST:8071, of Outpost …:3333/api/v1")
    parser.add_argument("names", nargs="*", metavar="NAME", help="one-to-one, fan-out or latency (all)")
    parser.add_argument("--key-file", type=Path, required=True, help="a file with the API's key or token")
    parser.add_argument(
        "--pid",
        type=int,
        action="append",
        required=True,
        help="a process of the peer, its databases and queues; those below it count too; repeatable",
    )
    for name, default, unit in (
        ("endpoints", 50, "endpoints"),
        ("deliveries", 20_000, "deliveries of a repeat"),
        ("repeats", 3, "repeats"),
        ("connections", 32, "connections that post events"),
        ("rate", 300, "events a second in latency"),
        ("seconds", 20, "seconds of latency"),
        ("patience", 20, "seconds without an arrival, after which the rest counts as lost"),
    ):
        parser.add_argument(f"--{name}", type=_positive, default=default, metavar="N", help=f"{unit} ({default})")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE; - prints them")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write a table to FILE; - prints it")
    given = parser.parse_intermixed_args(arguments)
    if urlsplit(given.url).scheme != "http" or urlsplit(given.url).hostname is None:
        parser.error(f"{given.url} is no http:// URL")
    options = Options(
        endpoints=given.endpoints,
        deliveries=given.deliveries,
        repeats=given.repeats,
        connections=given.connections,
        rate=given.rate,
        seconds=given.seconds,
        patience_seconds=given.patience,
    )
    try:
        key = given.key_file.read_text().strip()
        about_processes = (processes := Processes(given.pid)).describe()
    except OSError as error:
        parser.error(str(error))
    except BrokenCaseError as error:
        parser.error(f"--pid: {error}")
    cases = _cases(PEERS[given.peer](given.url, key), processes, options)
    if unknown := [name for name in given.names if name not in cases]:
        parser.error(f"unknown case: {', '.join(unknown)}; there are {', '.join(cases)}")
    chosen = {name: cases[name] for name in given.names or cases}
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    about = machine()
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    outcome = run_all(console, chosen)
    load = {name: getattr(given, name) for name in ("endpoints", "deliveries", "repeats", "connections", "rate")}
    about_peer = {"peer": given.peer, "processes": about_processes, "load": load}
    write(
        outcome,
        chosen,
        {"machine": about, **about_peer},
        as_json_to=given.json,
        as_markdown_to=given.markdown,
    )
    return int(outcome.has_failed)


def _cases(peer: Peer, processes: Processes, options: Options) -> Mapping[str, Runnable]:
    number = options.endpoints
    return {
        "one-to-one": Runnable(
            f"{number} endpoints, each event to one of them, sustained",
            partial(deliveries, peer, processes, options, together=False),
        ),
        "fan-out": Runnable(
            f"each event to {number} endpoints", partial(deliveries, peer, processes, options, together=True)
        ),
        "latency": Runnable(
            f"{options.rate} events a second in an open loop, {number} endpoints",
            partial(latency, peer, processes, options),
        ),
    }


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 1 on")
    return int(text)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Measure nodes on one PostgreSQL: what each adds, what a delivery costs, and the way from one node to another.

The database is a server of its own on the disk, with each commit synced. It runs on the same machine as the nodes, and
so do the receivers: once all cores are busy, one more node adds nothing. So the growth is also measured with so small a
bound on requests in flight that this machine isn't the limit, and how many cores are busy is a figure.
"""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

from tests.bench.generator import event_line, play, producer
from tests.bench.load import Load
from tests.bench.processes import Processes
from tests.bench.receivers import Receiver, cheapest, sink
from tests.bench.report import Figure, Result, Target, latency_figures
from tests.bench.server import POLL_SECONDS, BrokenCaseError, Server, SkippedCaseError, serving
from tests.bench.throughput import Pass, Scene, deliver
from tests.postgres_server import PostgresServer, find_programs

ENDPOINTS = 2_000
GROWN = (1, 2, 4, 1)
EVENTS = {8: 10, 2: 5}  # each for all endpoints, by the bound on requests in flight of a node
STALL_SECONDS = 30.0
FANOUT = Scene(endpoints=50, to_all=True)
FANOUT_DELIVERIES = 10_000
PER_SECOND = 300
SECONDS = 20
WARM_UP_SECONDS = 2
_SLOTS = 256
_SETTINGS = {
    "shared_buffers": "256MB",
    "max_wal_size": "2GB",
    "autovacuum_naptime": "1min",
    "shared_preload_libraries": "pg_stat_statements",
}


def several(load: Load, target: Target) -> Result:
    """Measure one, two and four nodes, the cost of a delivery next to SQLite's, and wake-ups across nodes."""
    result = Result(receiver="tests.bench.sink; nginx where it is installed for the cost")
    with _server() as server:
        with _new_database(server) as place, sink("wait") as receiver:
            _grow(load, place, receiver, result, target)
        with _new_database(server) as place:
            _compare_cost(load, place, result)
        with _new_database(server) as place:
            _wake(load, place, result)
    return result


class _Place:
    """A new database, and a directory of its nodes."""

    def __init__(self, server: PostgresServer, name: str, directory: Path) -> None:
        self._server = server
        self._name = name
        self._directory = directory
        self._processes = Processes([server.pid])

    @contextmanager
    def nodes(self, number: int, *, max_in_flight: int | None = None) -> Iterator[list[Server]]:
        """Run nodes; yield them once each has its share."""
        with ExitStack() as stack:
            running = []
            for at in range(number):
                directory = self._directory / f"node-{at}"
                directory.mkdir(exist_ok=True)
                journal = self._journal(directory.name)
                if max_in_flight is not None:
                    journal += f"[delivery]\nmax_in_flight = {max_in_flight}\n"
                running.append(stack.enter_context(serving(directory, journal=journal)))
            _await_shares(running)
            yield running

    def cpu_seconds(self) -> float:
        """Return the CPU time of the database's server."""
        return self._processes.cpu_seconds()

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        """Return the rows of a query of the superuser."""
        with self._server.administer(self._name) as connection:
            return connection.execute(sql).fetchall()

    def count_statements(self) -> None:
        """Have the server count statements from now on."""
        with self._server.administer(self._name) as connection:
            connection.execute("CREATE EXTENSION pg_stat_statements")
            connection.execute("SELECT pg_stat_statements_reset()")

    def _journal(self, name: str) -> str:
        return (
            f'url = "{self._server.url(self._name)}"\nnode_name = "{name}"\n'
            f'[secrets]\nmaster_key_file = "{self._directory / "master.key"}"\n'
        )


@contextmanager
def _server() -> Iterator[PostgresServer]:
    programs = find_programs(os.environ)
    if programs is None:
        raise SkippedCaseError("postgresql is not installed")
    if not list(programs.parent.glob("lib*/**/pg_stat_statements.so")):
        raise SkippedCaseError("the extension pg_stat_statements of PostgreSQL is not installed")
    with PostgresServer(programs, _SETTINGS, on_disk=True) as server:
        yield server


@contextmanager
def _new_database(server: PostgresServer) -> Iterator[_Place]:
    with TemporaryDirectory(prefix="webhookd-bench-") as directory, server.database() as name:
        yield _Place(server, name, Path(directory))


def _await_shares(nodes: Sequence[Server]) -> None:
    most = -(-_SLOTS // len(nodes))
    deadline = time.monotonic() + STALL_SECONDS
    while time.monotonic() < deadline:
        found = nodes[0].control.get("/api/nodes", dict[str, Any])["nodes"]
        slots = [each["slots"] for each in found]
        if sum(slots) == _SLOTS and max(slots) <= most:
            return
        time.sleep(0.1)
    raise BrokenCaseError(f"the nodes have not shared the slots after {STALL_SECONDS:.0f} s")


@dataclass(frozen=True, slots=True)
class Grown:
    """The deliveries a second of some nodes, and how many cores of the machine were busy meanwhile."""

    nodes: int
    per_second: float
    busy_cores: float


def growth_figures(bound: int, grown: Sequence[Grown], target: Target | None) -> list[Figure]:
    """Return the rate of each number of nodes, for several as a ratio to as many times that of a single one."""
    single = [one.per_second for one in grown if one.nodes == 1]
    figures = []
    for number in sorted({one.nodes for one in grown}):
        rates = tuple(one.per_second for one in grown if one.nodes == number)
        busy = mean(one.busy_cores for one in grown if one.nodes == number)
        what = f"{number} node{'s' if number > 1 else ''}, {bound} in flight each, {busy:.1f} cores busy"
        if number == 1:
            figures.append(Figure(what=what, unit="/s", values=rates))
        else:
            ratios = tuple(rate / (number * mean(single)) for rate in rates)
            yardstick = f"{number} times 1 node"
            figures.append(
                Figure(what=what, unit="/s", values=rates, yardstick=yardstick, ratios=ratios, target=target)
            )
    return figures


def _grow(load: Load, place: _Place, receiver: Receiver, result: Result, target: Target) -> None:
    with place.nodes(1) as [node]:
        node.add_webhooks(receiver.url, ENDPOINTS, in_organizations=False)
    for bound, full in EVENTS.items():
        events = max(load.of(full), 1)
        grown = []
        for number in GROWN:
            with place.nodes(number, max_in_flight=bound) as nodes:
                _spread(nodes[0], receiver, 1)  # opens the connections
                began, cpu = time.monotonic(), _busy_seconds()
                arrived = _spread(nodes[0], receiver, events)
                seconds = time.monotonic() - began
                grown.append(Grown(number, arrived / seconds, (_busy_seconds() - cpu) / seconds))
                result.lost += events * ENDPOINTS - arrived
                nodes[0].settle()
        # Only where this machine isn't the limit.
        result.figures += growth_figures(bound, grown, target if bound == min(EVENTS) else None)
    result.notes.append(f"{ENDPOINTS:,} endpoints, receivers that answer after 5 ms, each event to all endpoints")


def _spread(node: Server, receiver: Receiver, events: int) -> int:
    """Publish events, each for all endpoints; return how many deliveries have arrived when no more come."""
    before = receiver.count()
    with producer(node.socket) as sender:
        sender.send([event_line()] * events)
        sender.finish()
    arrived, at = 0, time.monotonic()
    while arrived < events * ENDPOINTS and time.monotonic() - at < STALL_SECONDS:
        time.sleep(POLL_SECONDS)
        if (now := receiver.count() - before) > arrived:
            arrived, at = now, time.monotonic()
    return arrived


def _busy_seconds() -> float:
    """Return for how long the cores of this machine have been busy."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    idle = int(fields[3]) + int(fields[4])  # proc_stat(5): idle and iowait
    return (sum(map(int, fields[:8])) - idle) / os.sysconf("SC_CLK_TCK")


def _compare_cost(load: Load, place: _Place, result: Result) -> None:
    """Compare a node with a server on SQLite that has the same load, in turns."""
    deliveries = load.of(FANOUT_DELIVERIES)
    on_file: list[Pass] = []
    on_server: list[Pass] = []
    of_database: list[float] = []
    with (
        cheapest() as receiver,
        TemporaryDirectory(prefix="webhookd-bench-") as directory,
        serving(Path(directory)) as file,
        place.nodes(1) as [node],
    ):
        for server in (file, node):
            server.add_webhooks(receiver.url, FANOUT.endpoints, in_organizations=False)
            deliver(server, receiver, FANOUT, deliveries // 10)
            server.settle()
        place.count_statements()
        [[logged]] = place.ask("SELECT wal_bytes FROM pg_stat_wal")
        for _ in range(load.repeats):
            on_file.append(deliver(file, receiver, FANOUT, deliveries))
            file.settle()
            began = place.cpu_seconds()
            on_server.append(deliver(node, receiver, FANOUT, deliveries))
            of_database.append((place.cpu_seconds() - began) * 1e6 / deliveries)
            node.settle()
        result.lost += sum(one.lost for one in (*on_file, *on_server))
        [[statements]] = place.ask("SELECT sum(calls) FROM pg_stat_statements")
        [[logged_at_end]] = place.ask("SELECT wal_bytes FROM pg_stat_wal")
    number = deliveries * load.repeats
    all_threads = [one.cpu.all_threads for one in on_server], [one.cpu.all_threads for one in on_file]
    loop = [one.cpu.loop for one in on_server], [one.cpu.loop for one in on_file]
    for what, (values, others) in (("all threads", all_threads), ("the event loop's thread", loop)):
        ratios = tuple(value / other for value, other in zip(values, others, strict=True))
        result.yardsticks[f"SQLite, {what} (µs)"] = others
        result.figures.append(
            Figure(
                what=f"fan-out: CPU a delivery, {what}",
                unit="µs",
                values=tuple(values),
                yardstick="SQLite",
                ratios=ratios,
            )
        )
    result.figures += [
        Figure(what="fan-out: CPU of the database a delivery", unit="µs", values=tuple(of_database)),
        Figure(what="fan-out: statements a delivery", unit="", values=(float(statements) / number,)),
        Figure(
            what="fan-out: bytes of write-ahead log a delivery",
            unit="B",
            values=(float(logged_at_end - logged) / number,),
        ),
        Figure(what="fan-out: deliveries", unit="/s", values=tuple(one.per_second for one in on_server)),
    ]


def _wake(load: Load, place: _Place, result: Result) -> None:
    """Measure from an event at one node to its request, for endpoints of that node and of another one."""
    organizations = [f"o{number}" for number in range(FANOUT.endpoints)]
    with sink("record") as receiver, place.nodes(2) as nodes:
        nodes[0].add_webhooks(receiver.url, len(organizations))
        found = place.ask(
            "SELECT organization_id, nodes.name FROM endpoints JOIN slots ON slot = endpoints.pk % 256 "
            "JOIN nodes ON nodes.id = slots.node"
        )
        own = {organization for organization, name in found if name == "node-0"}
        for seconds in (WARM_UP_SECONDS, load.of(SECONDS * 10) / 10):
            ids = [f"{uuid4().hex}-{organizations[at % len(organizations)]}" for at in range(int(seconds * PER_SECOND))]
            lines = [event_line(organization=each.rpartition("-")[2], event_id=each) for each in ids]
            before = receiver.count()
            played = play(nodes[0].socket, lines, PER_SECOND)
            deadline = time.monotonic() + STALL_SECONDS
            while receiver.count() - before < len(ids) and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
            arrivals = receiver.arrivals()
        result.void = played.void()
        result.lost += len(set(ids) - arrivals.keys())
        planned = dict(zip(ids, played.planned, strict=True))
        for what, is_own in (("to the same node", True), ("to another node", False)):
            taken = [at - planned[each] for each, at in arrivals.items() if (each.rpartition("-")[2] in own) == is_own]
            result.figures += latency_figures(f"event in to request, {PER_SECOND}/s, {what}", taken, {})

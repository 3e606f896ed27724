"""Three nodes on one PostgreSQL with producers and receivers, to which a scenario does something."""

import os
import random
import socket
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import httpx
import psycopg
import trio

from tests.e2e.harness import CONFIG
from tests.nodes.audit import audit
from tests.nodes.launcher import program
from tests.nodes.namespaces import DATABASE_ADDRESS, Network, listen_in, network
from tests.nodes.node import Node
from tests.nodes.producers import FAST, HELD, PACED, Ledger, Producer, client_of
from tests.nodes.receivers import Life, Receivers, Watched, webhooks
from tests.nodes.witness import Witness
from tests.patience import PATIENCE_SECONDS, until
from tests.postgres_server import PostgresServer, find_programs, server_or_skip
from webhookd.journal.server import LeaseTimes

T = TypeVar("T")

QUICK, REAL = 0.2, 1.0
"""How long leases last, as a factor."""
NODES = 3
PRODUCERS = 3
_SLOTS = 256
_PAUSE_SECONDS = 0.05
_LOOK_SECONDS = 0.1
_LINES = 30
_FEED_SECONDS = 0.1
_CONFIG = CONFIG.replace(
    'path = "webhookd.db"\n', 'url = "{url}"\nnode_name = "{name}"\n[secrets]\nmaster_key_file = "{key}"\n'
)
_LIMIT_SECONDS = 5 * PATIENCE_SECONDS
_INTERRUPTIONS = ("node.out_of_time", "node.fenced", "node.lost_slots")


@dataclass(kw_only=True)
class Report:
    """What a play has found: counts, measured times by what they are, and broken promises."""

    acknowledged: int = 0
    refused: int = 0
    requests: int = 0
    repeated: int = 0
    late: int = 0
    seconds: dict[str, float] = field(default_factory=dict)
    drawn: tuple[str, ...] = ()
    """The faults of a random schedule."""
    problems: list[str] = field(default_factory=list)


async def eventually(is_so: Callable[[], object], *, seconds: float = PATIENCE_SECONDS) -> None:
    """Wait until `is_so`, which asks the database, returns true; raise trio.TooSlowError if it never does."""
    with trio.fail_after(seconds):
        while not is_so():
            await trio.sleep(_LOOK_SECONDS)


class Play:
    """The nodes, the database, the producers and the receivers; `network` is the last node's, if it has a cable."""

    def __init__(
        self,
        nodes: Sequence[Node],
        server: PostgresServer,
        operator: ThreadPoolExecutor,
        database: str,
        receivers: Receivers,
        *,
        scale: float,
        cable: Network | None,
        nursery: trio.Nursery,
        seed: int,
    ) -> None:
        self.nodes = nodes
        self.server = server
        self.witness = Witness(server, database)
        self.ledger = Ledger()
        self.watched = webhooks()
        self.report = Report()
        self.scale = scale
        self.times = LeaseTimes().scaled(scale)
        self.network = cable
        self.dice = random.Random(seed)  # noqa: S311 - not for security
        self.plan = random.Random(seed)  # noqa: S311 - as above; what runs meanwhile takes nothing from it
        self._receivers = receivers
        self._nursery = nursery
        self.feed_seconds = _FEED_SECONDS
        """The pause between two looks at the feed."""
        self._feed: list[str] = []
        self._is_following = True
        self._one_reader = trio.Lock()
        self._producing = 0
        self._operator = operator
        receivers.submitted_at = lambda event: self.ledger.submitted[event].at

    @property
    def living(self) -> list[Node]:
        """The nodes that run and aren't stopped."""
        return [node for node in self.nodes if node.life is not None and not node.is_stopped]

    async def begin(self) -> None:
        """Start the nodes, and return once each has its share and webhooks get events."""
        await self.nodes[0].begin()
        self.witness.begin()
        async with trio.open_nursery() as nursery:
            for node in self.nodes[1:]:
                nursery.start_soon(node.begin)
        for event_type in (FAST, PACED, HELD):
            await self._change("PUT", f"/api/event-types/{event_type}", {"description": ""})
        for watched in self.watched:
            await self.add(watched)
        await self.balanced()
        self._nursery.start_soon(self._follow_feed)

    async def add(self, watched: Watched) -> None:
        """Create a webhook."""
        self._receivers.watched[watched.path] = watched
        created = await self.living[0].webhook(f"{self._receivers.url}{watched.path}", **watched.settings)
        watched.id = created["id"]
        [[pk]] = self.witness.ask("SELECT pk FROM endpoints WHERE id = %s", watched.id)
        watched.pk = int(str(pk))
        if watched not in self.watched:
            self.watched.append(watched)

    async def retire(self, watched: Watched) -> None:
        """Delete a webhook that has got nothing."""
        await self._change("DELETE", f"/api/webhooks/{watched.id}")
        self.watched.remove(watched)

    async def _change(self, method: str, target: str, body: object = None) -> None:
        await trio.to_thread.run_sync(lambda: self.living[0].control._ask(method, target, body, Any))

    def produce(self, pause_seconds: float = _PAUSE_SECONDS) -> None:
        """Start the producers."""
        for number in range(PRODUCERS):
            producer = Producer(
                f"p{number}", self.nodes, self.ledger, self.dice.randrange(2**32), patience_seconds=5 * self.scale + 1
            )
            self._producing += 1
            self._nursery.start_soon(self._produce, producer, pause_seconds)

    async def _produce(self, producer: Producer, pause_seconds: float) -> None:
        await producer.run(pause_seconds)
        self._producing -= 1

    async def balanced(self) -> None:
        """Return once each node that runs has its share, and nobody else has a slot."""
        share = -(-_SLOTS // len(self.living))

        def is_balanced() -> bool:
            shares = self.witness.shares()
            held = [shares.get(node.process_id, 0) for node in self.living]
            return sum(held) == _SLOTS and max(held) <= share

        await eventually(is_balanced)

    async def flowing(self) -> float:
        """Return once each webhook has got an event that was submitted after this call; how many seconds that took."""
        began, monotonic = time.time(), time.monotonic()
        flowing = [watched for watched in self.watched if watched.event_type != HELD]
        await until(lambda: all(watched.newest_at > began for watched in flowing))
        return time.monotonic() - monotonic

    async def taken_from(self, process: str) -> float:
        """Return once other nodes have all the slots of a process; how many seconds that took."""
        began = time.monotonic()
        await eventually(lambda: not self.witness.slots_of(process))
        return time.monotonic() - began

    def note(self, what: str, seconds: float) -> None:
        """Keep the longest time of its kind."""
        self.report.seconds[what] = max(seconds, self.report.seconds.get(what, 0.0))

    def expect(self, claim: bool, otherwise: str) -> None:
        """Note a problem unless the claim holds."""
        if not claim:
            self.report.problems.append(otherwise)

    async def operate(self, act: Callable[[], T]) -> T:
        """Do something to the database's server, without blocking the event loop."""
        return await trio.to_thread.run_sync(lambda: self._operator.submit(act).result())

    def has_ended(self, connection: int) -> bool:
        """Whether a connection to a receiver is closed."""
        return connection in self._receivers.ended

    async def finish(self) -> None:
        """Stop the producers, have everything delivered, stop the nodes, and check all promises."""
        self.ledger.is_closing = True
        await until(lambda: not self._producing)
        for watched in self.watched:
            watched.is_erratic = watched.hangs = False
        await eventually(self._is_idle, seconds=_LIMIT_SECONDS)
        self._is_following = False
        await eventually(self._is_settled)
        while await self._read_feed():
            pass
        for node in self.nodes:
            if node.life is not None:
                self.expect(await node.leave() == 0, f"{node.directory.name} ended with a status other than 0")
        found = audit(
            self.witness,
            self.ledger,
            self.watched,
            self._feed,
            interruptions=sum(node.times_logged(event) for node in self.nodes for event in _INTERRUPTIONS),
        )
        self.report.problems += found.problems
        self.report.repeated, self.report.late = found.repeated, found.late
        self.report.acknowledged, self.report.refused = len(self.ledger.acknowledged), self.ledger.refused
        self.report.requests = sum(len(watched.exchanges) for watched in self.watched)

    async def _follow_feed(self) -> None:
        while self._is_following:
            await self._read_feed()
            await trio.sleep(self.feed_seconds)

    async def _read_feed(self) -> bool:
        """Read the next page of the feed at some node; return whether there may be more."""
        async with self._one_reader:
            if not self.living:
                return True
            after = f"&after={self._feed[-1]}" if self._feed else ""
            async with client_of(self.dice.choice(self.living), 5 * self.scale + 1) as client:
                try:
                    answer = await client.get(f"http://it/api/events?limit=100{after}")
                except httpx.HTTPError:
                    return True
            if answer.status_code != 200:
                self.expect(
                    answer.status_code == 503, f"the feed was answered with {answer.status_code}: {answer.text}"
                )
                return True
            found = [row["id"] for row in answer.json()["data"]]
            self._feed += found
            return bool(found)

    def _is_settled(self) -> bool:
        """Whether every event is old enough for the feed."""
        return self.witness.ask("SELECT max(xid) < pg_snapshot_xmin(pg_current_snapshot()) FROM events") == [(True,)]

    def _is_idle(self) -> bool:
        return self.witness.ask("SELECT count(*) FROM deliveries WHERE status IN ('pending', 'parked')") == [(0,)]


Body = Callable[[Play], Awaitable[None]]


async def play(
    directory: Path,
    body: Body,
    *,
    scale: float = QUICK,
    plant: str | None = None,
    has_cable: bool = False,
    seed: int = 0,
) -> Report:
    """Run three nodes, do `body` to them, have everything delivered, and return what was found.

    The last node is at the end of a cable if it `has_cable`. A play that doesn't go on has a problem, too.
    """
    with (
        # A server that a thread has started ends with it: so this thread ends last.
        ThreadPoolExecutor(1) as operator,
        _places(directory, has_cable=has_cable) as (server, cable),
        server.database() as database,
    ):
        nodes = _nodes(directory, server.url(database), database, cable, scale=scale, plant=plant)
        async with trio.open_nursery() as nursery:
            receivers = Receivers(_sockets(nodes, cable), seed)
            await nursery.start(receivers.run)
            it = Play(
                nodes, server, operator, database, receivers, scale=scale, cable=cable, nursery=nursery, seed=seed
            )
            try:
                with trio.fail_after(_LIMIT_SECONDS):
                    await it.begin()
                    await body(it)
                    await it.finish()
            except Exception as error:  # noqa: BLE001 - the root of a play: it is reported
                it.expect(False, f"it did not go on: {''.join(traceback.format_exception(error))}")
                with suppress(psycopg.Error):  # the database may be away
                    it.report.problems += it.witness.problems()
                    it.report.problems.append(f"slots by process: {it.witness.shares()}")
                it.report.problems += [f"{node.directory.name}: {line}" for node in nodes for line in _last_lines(node)]
            finally:
                with trio.CancelScope(shield=True):
                    for node in nodes:
                        await node.end()
            nursery.cancel_scope.cancel()
    return it.report


@contextmanager
def _places(directory: Path, *, has_cable: bool) -> Iterator[tuple[PostgresServer, Network | None]]:
    """Run a database server during the block, in a namespace of its own if there is a cable to it."""
    if not has_cable:
        with server_or_skip() as server:
            yield server, None
        return
    with network(f"webhookd-{os.getpid()}-{directory.name}"[-50:]) as cable:
        programs = find_programs(os.environ)
        assert programs is not None
        with PostgresServer(programs, {"listen_addresses": DATABASE_ADDRESS}, wrapper=cable.database_command) as server:
            server.access.write_text(f"{server.access.read_text()}\nhost all all {DATABASE_ADDRESS}/30 trust\n")
            with server.administer() as connection:
                connection.execute("SELECT pg_reload_conf()")
            yield server, cable


def _nodes(
    directory: Path, url: str, database: str, cable: Network | None, *, scale: float, plant: str | None
) -> list[Node]:
    nodes = []
    for number in range(NODES):
        own = directory / f"node-{number}"
        own.mkdir()
        is_far = cable is not None and number == NODES - 1
        stops = own / "stop-at"
        command = program(
            scale=scale, stops=stops, plant=plant, namespace=cable.node if cable is not None and is_far else None
        )
        place = f"postgresql://webhookd@{DATABASE_ADDRESS}/{database}?sslmode=disable" if is_far else url
        config = _CONFIG.format(url=place, name=own.name, key=directory / "master.key")
        nodes.append(Node(own, config, command, stops))
    return nodes


def _sockets(nodes: Sequence[Node], cable: Network | None) -> list[tuple[socket.socket, Callable[[], Sequence[Life]]]]:
    """Listen on the loopback of each namespace, on the same port: the URL of a webhook is the same for each node."""
    near = listen_in(None, 0)
    if cable is None:
        return [(near, lambda: _lives(nodes))]
    far = listen_in(cable.node, near.getsockname()[1])
    return [(near, lambda: _lives(nodes[:-1])), (far, lambda: _lives(nodes[-1:]))]


def _last_lines(node: Node) -> list[str]:
    """Return the end of a node's log, without its deliveries."""
    return [line for line in node.log().splitlines() if '"delivery.attempted"' not in line][-_LINES:]


def _lives(nodes: Sequence[Node]) -> list[Life]:
    return [node.life for node in nodes if node.life is not None]

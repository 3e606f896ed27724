"""One life of the server, from its start to a stop or crash: its real parts and a simulated disk.

A crash works like kill -9: at some step of disk or network the journal's files are copied, and the next life starts
from the copy. What the old life still does before it is cancelled changes only files that are not read again, and
receivers ignore it.
"""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import trio
from trio.testing import lockstep_stream_pair, memory_stream_pair

from tests.open_file import writing_database
from tests.senders import TaskSender
from tests.simulation.model import World
from tests.simulation.receivers import SimulatedSender
from tests.world import steady
from webhookd.base.clock import Timeline
from webhookd.base.ids import IdFactory
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.dispatch.router import Router
from webhookd.ingest.connection import ProducerConnection
from webhookd.journal import Store, open_store
from webhookd.observe.measures import Measures

T = TypeVar("T")
FILE = "journal.db"
RETENTION_DAYS = 30
WRITE_TIMEOUT_SECONDS = 30.0
DISABLE_AFTER_SECONDS = (
    43_200.0  # longer than any outage in the simulation, and shorter than the largest change of a clock
)


@dataclass(frozen=True)
class Parts:
    """The parts of a server; a planted bug replaces one of them."""

    journal: Callable[[Store, World], Store] = lambda journal, _: journal
    sender: Callable[[TaskSender, World], TaskSender] = lambda sender, _: sender
    router: type[Router] = Router
    clock: type[Timeline] = Timeline
    connection: type[ProducerConnection] = ProducerConnection


@dataclass(frozen=True, slots=True)
class Life:
    """A running server."""

    journal: Store
    router: Router
    ids: IdFactory
    edges: trio.Nursery
    connections: list[ProducerConnection]
    connection: type[ProducerConnection]

    def connect(self, *, in_lockstep: bool = False) -> trio.abc.Stream:
        """Return a producer's end of a new connection; in lockstep a send waits until the other end has read."""
        mine, other = lockstep_stream_pair() if in_lockstep else memory_stream_pair()
        connection = self.connection(
            other,
            self.router,
            max_event_bytes=262_144,
            write_timeout_seconds=WRITE_TIMEOUT_SECONDS,
            refused=lambda _: None,
        )
        self.connections.append(connection)
        self.edges.start_soon(connection.run)
        return mine


class SimulatedDisk:
    """Runs the journal's calls in the event loop, each after the time that a disk would take."""

    def __init__(self, world: World, seconds: tuple[float, ...]) -> None:
        self._world = world
        self._seconds = seconds

    async def run(self, function: Callable[[], T]) -> T:
        self._world.step()
        await trio.sleep(self._world.dice.choice(self._seconds))
        result = function()
        self._world.step()
        return result


@asynccontextmanager
async def living(
    world: World, path: Path, parts: Parts, resume: Callable[[World, Store], Awaitable[None]]
) -> AsyncIterator[Life]:
    """Run a server on the journal in `path` until the block ends, which cuts off requests in flight.

    `resume` reads the journal before anything is sent.
    """
    ids = IdFactory(world.clock.now, world.dice.randbytes)
    clock = parts.clock(world.clock)
    async with (
        open_store(
            path / FILE,
            clock=clock,
            ids=ids,
            write_runner=SimulatedDisk(world, (0.0, 0.0, 0.002, 0.03)),
            read_runner=SimulatedDisk(world, (0.0, 0.0, 0.0, 0.001, 0.01)),
        ) as opened,
        trio.open_nursery() as writing,
    ):
        journal = parts.journal(opened, world)
        await writing.start(opened.run)
        slots = world.dice.choice((2, 512))
        world.is_crowded = slots == 2
        sender = parts.sender(SimulatedSender(world, world.life), world)
        router = parts.router(
            store=journal,
            sender=sender,
            vault=Vault(Secret(bytes(32))),
            clock=clock,
            ids=ids,
            config=steady(max_in_flight=slots, warn_after_seconds=30, disable_after_seconds=DISABLE_AFTER_SECONDS),
            sample=world.dice.random,
            measures=Measures(),
        )
        await resume(world, opened)
        await router.begin()
        async with trio.open_nursery() as sending:
            sender.nursery = sending
            await sending.start(router.run)
            sending.start_soon(journal.retention.run, RETENTION_DAYS, clock.trusted)
            try:
                async with trio.open_nursery() as edges:
                    yield Life(journal, router, ids, edges, [], parts.connection)
                    edges.cancel_scope.cancel()
            finally:
                router.registry._is_draining = True  # as in the server before its actors end
                sending.cancel_scope.cancel()
        writing.cancel_scope.cancel()


def limit_pages(journal: Store, pages: int | None) -> None:
    """Limit the journal to its current size plus `pages`, or remove the limit (None)."""
    database: Any = writing_database(journal)
    if pages is not None:
        pages += int(database.execute_sql("PRAGMA page_count").fetchone()[0])
    database.execute_sql(f"PRAGMA max_page_count = {pages or 1_000_000}").fetchall()


def copy_files(source: Path, target: Path) -> None:
    """Copy the journal as a killed process leaves it, with everything that was written."""
    target.mkdir()
    for name in (FILE, FILE + "-wal"):
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)

"""Several nodes in one process, each with a store, a router and actors of its own, on one database."""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import trio

from tests.patience import until
from tests.world import World, WorldSender, steady, world
from webhookd.base.clock import DatabaseClock, SteadyClock, SystemClock
from webhookd.base.database_url import parse
from webhookd.base.models import Endpoint
from webhookd.journal import Server, Store, ThreadRunner
from webhookd.journal.ownership import SLOTS
from webhookd.journal.server import LeaseTimes

QUICK = LeaseTimes().scaled(0.2)
PATIENT = replace(QUICK, lease=70.0, limit=55.0, settle=60.0, outdated=50.0)
"""No node loses its lease, or refuses keys, because the machine is busy."""


class Nodes:
    """Starts nodes on one database, and stops them; their requests go to one sender."""

    def __init__(
        self, url: str, path: Path, nursery: trio.Nursery, choose: Callable[[Server], None], times: LeaseTimes
    ) -> None:
        self.sender = WorldSender()
        self.config = steady()
        self.make_clock: Callable[[], SteadyClock] = lambda: DatabaseClock(SystemClock())
        self.before_router: Callable[[Store], Awaitable[None]] | None = None
        self.all: list[World] = []
        self._server = Server(url=parse(url), times=times)
        self._path = path
        self._nursery = nursery
        self._choose = choose
        self._stops: dict[World, tuple[trio.Event, trio.Event]] = {}

    async def start(self, **given: Any) -> World:
        """Start a node; `given` are attributes of its `Server`."""
        self._choose(replace(self._server, node_name=f"node-{len(self.all) + 1}", **given))
        started: World = await self._nursery.start(self._run)
        self.all.append(started)
        return started

    async def stop(self, node: World) -> None:
        """Stop a node, which gives back its slots."""
        stopping, stopped = self._stops[node]
        stopping.set()
        await stopped.wait()
        self.all.remove(node)

    async def two(self) -> tuple[World, World]:
        """Start two nodes, each of which has half of the slots; the first one leads."""
        nodes = await self.start(), await self.start()
        await self.shared()
        one, other = nodes if nodes[0].journal.ownership.is_leader else nodes[::-1]
        return one, other

    async def _run(self, *, task_status: trio.TaskStatus[World]) -> None:
        opening = world(
            self._path,
            config=self.config,
            sender=self.sender,
            reads=ThreadRunner(3),
            writes=ThreadRunner(1),
            machine=self.make_clock(),
            before_router=self.before_router,
        )
        stopping, stopped = trio.Event(), trio.Event()
        async with opening as node:
            self.sender.nursery = self._nursery  # which outlives each node
            self._stops[node] = stopping, stopped
            task_status.started(node)
            await stopping.wait()
        stopped.set()

    def have_sent(self, url: str, number: int) -> bool:
        """Whether so many requests have been sent to a URL."""
        return len(self.sender.events(url)) == number

    async def shared(self) -> None:
        """Wait until each node has an equal share of the slots."""
        most = -(-SLOTS // len(self.all))
        await until(lambda: sum(len(slots_of(each)) for each in self.all) == SLOTS)
        await until(lambda: all(len(slots_of(each)) <= most for each in self.all))


async def endpoint_of(owner: World, at: World) -> Endpoint:
    """Return a webhook that one node drives and that was added at another."""
    for number in range(SLOTS):
        endpoint = await at.endpoint(url=f"https://receiver.example/{number}")
        if owner.journal.ownership.owns(endpoint.pk):
            return endpoint
    raise AssertionError("it drives none")


def slots_of(node: World) -> frozenset[int]:
    from webhookd.journal.postgres.membership import Membership  # noqa: PLC0415 - the driver isn't always installed

    ownership = node.journal.ownership
    assert isinstance(ownership, Membership)
    return ownership.slots


Open = Callable[..., AbstractAsyncContextManager[Nodes]]

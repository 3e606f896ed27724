"""A server without sockets in virtual time: real journal, real router and actors, a scripted sender.

A `World` runs under the autojump clock, with the journal's calls inline. `WorldSender` answers by its script and
records each request with its time, in seconds since the world began.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec
import trio

from tests.memory_store import open_memory_store
from tests.senders import TaskSender
from tests.virtual_clock import VirtualClock
from webhookd.base.clock import SteadyClock, Timeline
from webhookd.base.event_format import decode_event
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import DeliveryError, Endpoint, NewEvent, Outcome, PolicyOverrides, PublishResult
from webhookd.base.secret import Secret
from webhookd.config import Config, DeliveryConfig
from webhookd.crypto.vault import Vault
from webhookd.delivery.request import Request
from webhookd.delivery.signing import generate_secret, secret_hint
from webhookd.dispatch.router import Router
from webhookd.journal import InlineRunner, NewEndpoint, Runner, Server, Store, open_store
from webhookd.journal.rows import DeliveryDetail, DeliveryRow
from webhookd.observe.measures import Measures

OK = 200
RARELY_SECONDS = 86_400.0
T = TypeVar("T")
PLACE_OF: Callable[[Path], Path | Server] = lambda directory: directory / "journal.db"  # noqa: E731 - replaced by tests
"""Returns the journal of a world in a directory."""
Answer = int | DeliveryError | Outcome
Script = Callable[["Sent"], Answer]


@dataclass(frozen=True, slots=True)
class Sent:
    """One request, `at` seconds after the world began; `event` is the event's id, `number` that of the attempt."""

    at: float
    url: str
    event: str
    number: int
    headers: dict[str, str]
    body: bytes


@dataclass
class WorldSender(TaskSender):
    """Answers each request with the result of `script`, after `seconds` or the result of `seconds_of`.

    Before that it waits for the event that `held_by` returns, if it returns one.
    """

    script: Script = lambda _: OK
    seconds: float = 0.0
    seconds_of: Callable[["Sent"], float] | None = None
    held_by: Callable[["Sent"], trio.Event | None] = lambda _: None
    sent: list[Sent] = field(default_factory=list)
    in_flight: dict[str, int] = field(default_factory=dict)
    most_in_flight: dict[str, int] = field(default_factory=dict)
    began_at: float = 0.0

    async def send(self, request: Request) -> Outcome:
        url, timeout_seconds = request.url, request.timeout_seconds
        names = dict(request.headers)
        sent = Sent(
            round(trio.current_time() - self.began_at, 3),
            url,
            names["webhook-id"],
            int(names["x-webhook-attempt"]),
            names,
            request.body,
        )
        self.sent.append(sent)
        self.in_flight[url] = self.in_flight.get(url, 0) + 1
        self.most_in_flight[url] = max(self.most_in_flight.get(url, 0), self.in_flight[url])
        seconds = self.seconds if self.seconds_of is None else self.seconds_of(sent)
        try:
            with trio.move_on_after(timeout_seconds) as patience:
                await trio.sleep(seconds)
                if (held_by := self.held_by(sent)) is not None:
                    await held_by.wait()
        finally:
            self.in_flight[url] -= 1
        if patience.cancelled_caught:
            return Outcome(duration_seconds=timeout_seconds, error=DeliveryError.TIMEOUT)
        answer = self.script(sent)
        if isinstance(answer, Outcome):
            return answer
        if isinstance(answer, DeliveryError):
            return Outcome(duration_seconds=seconds, error=answer, detail=answer.value)
        return Outcome(duration_seconds=seconds, status=answer, remote_address="192.0.2.1:443")

    def events(self, url: str | None = None) -> list[str]:
        return [sent.event for sent in self.sent if url in {None, sent.url}]

    def times(self, url: str | None = None) -> list[float]:
        return [sent.at for sent in self.sent if url in {None, sent.url}]


class HeldRunner(InlineRunner):
    """Runs nothing between `hold` and `free`, so that submitted operations queue."""

    def __init__(self) -> None:
        self._free = trio.Event()
        self._free.set()

    async def run(self, function: Callable[[], T]) -> T:
        await self._free.wait()
        return await super().run(function)

    def hold(self) -> None:
        if self._free.is_set():  # a new event would leave the current waiters waiting for ever
            self._free = trio.Event()

    def free(self) -> None:
        self._free.set()


class World:
    """The parts of a running server, and shortcuts for tests."""

    def __init__(
        self,
        journal: Store,
        router: Router,
        sender: WorldSender,
        vault: Vault,
        config: Config,
        *,
        clock: Timeline,
        measures: Measures,
        stop_writing: Callable[[], None],
    ) -> None:
        self.journal = journal
        self.router = router
        self.sender = sender
        self.vault = vault
        self.config = config
        self.measures = measures
        self.stop_writing = stop_writing
        self.clock = clock
        self.ids = IdFactory(self.clock.now)

    async def endpoint(
        self,
        url: str = "https://a.example/",
        *,
        events: tuple[str, ...] = ("*",),
        overrides: PolicyOverrides | None = None,
        organization_id: str | None = None,
        is_active: bool = True,
        headers: Mapping[str, str] | None = None,
    ) -> Endpoint:
        secret = generate_secret()
        return await self.router.create_endpoint(
            NewEndpoint(
                id=self.ids.new(Prefix.WEBHOOK),
                url=url,
                events=events,
                secret=Secret(secret),
                secret_hint=secret_hint(secret),
                created_at=self.clock.now(),
                overrides=overrides or PolicyOverrides(),
                organization_id=organization_id,
                is_active=is_active,
                headers=tuple((name, Secret(value)) for name, value in (headers or {}).items()),
            )
        )

    async def publish(self, event_id: str, *, key: str | None = None, **fields: object) -> PublishResult:
        document = {"type": "user.created", "data": {}, "id": event_id, **fields}
        if key is not None:
            document["orderingKey"] = key
        await self.router.room()
        return await self.router.publish(new_event(document)).wait()

    async def deliveries(self, endpoint: Endpoint) -> list[DeliveryRow]:
        """Return an endpoint's deliveries, oldest first."""
        page = await self.journal.deliveries.page(
            endpoint.pk,
            status=None,
            event=None,
            event_id=None,
            since=None,
            until=None,
            limit=1000,
            cursor=None,
        )
        return page.items[::-1]

    async def detail(self, delivery_id: str) -> DeliveryDetail:
        return await self.journal.deliveries.get(delivery_id, None)


def new_event(document: object) -> NewEvent:
    return decode_event(msgspec.json.encode(document), max_bytes=262_144)


def steady(**delivery: object) -> Config:
    """Return a configuration whose back-off has no jitter."""
    return Config(delivery=DeliveryConfig(**{"retry_jitter": 0.0, **delivery}))  # type: ignore[arg-type]  # a test's own


@asynccontextmanager
async def world(
    path: Path | None,
    *,
    config: Config | None = None,
    sender: WorldSender | None = None,
    reads: Runner | None = None,
    writes: Runner | None = None,
    measures: Measures | None = None,
    machine: SteadyClock | None = None,
    sweep_seconds: float = RARELY_SECONDS,
    before_router: Callable[[Store], Awaitable[None]] | None = None,
) -> AsyncIterator[World]:
    """Run a world until the block ends, which works like a crash; its journal is in `path`, or in memory if None.

    The router looks for work without an actor each `sweep_seconds`: a test of days would look thousands of times, and a
    wake-up that was lost would not show. `before_router` is called once the journal runs, and waited for.
    """
    config = config or steady()
    sender = sender or WorldSender()
    sender.began_at = trio.current_time()
    machine = machine or VirtualClock()
    ids = IdFactory(machine.now)
    vault = Vault(Secret(bytes(32)))
    inline = InlineRunner()
    measures = measures or Measures()
    async with (
        open_memory_store(ids)
        if path is None
        else open_store(
            PLACE_OF(path),
            clock=machine,
            ids=ids,
            write_runner=writes or inline,
            read_runner=reads or inline,
            measures=measures,
        ) as journal,
        trio.open_nursery() as writing,
    ):
        writer = trio.CancelScope()

        async def write(*, task_status: trio.TaskStatus[None]) -> None:  # noqa: ASYNC128 - `journal.run` says so
            with writer:
                await journal.run(task_status=task_status)

        await writing.start(write)
        if before_router is not None:
            await before_router(journal)
        clock = Timeline(machine)
        router = Router(
            store=journal,
            sender=sender,
            vault=vault,
            clock=clock,
            ids=ids,
            config=config,
            sample=lambda: 0.5,
            measures=measures,
            sweep_seconds=sweep_seconds,
        )
        await router.begin()
        async with trio.open_nursery() as sending:
            sender.nursery = sending
            await sending.start(router.run)
            yield World(
                journal, router, sender, vault, config, clock=clock, measures=measures, stop_writing=writer.cancel
            )
            sending.cancel_scope.cancel()
        writing.cancel_scope.cancel()

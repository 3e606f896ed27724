"""Kill one server many times under load while receivers and producers keep running, then let it deliver everything.

The seed chooses the moments of the kills: during a start, as soon as it is ready, when an answer arrives, or within
half a second of work; sometimes twice in a row. At the last kill no producer sends any more, so that no new event
wakes the pending deliveries.
"""

import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from tests.e2e.harness import CONFIG, PROGRAM, Server
from tests.killing.audit import audit
from tests.killing.producers import HttpProducer, Ledger, Producer, SocketProducer
from tests.killing.receivers import Lives, Watched, receivers
from tests.launcher import program

ROOT = Path(__file__).parents[2]
POSTING = 2
"""The number of producers that use HTTP."""
STALLED_SECONDS = 10.0
_LONGEST_SECONDS = 0.5
_EXTRA = 40


@dataclass(kw_only=True)
class Report:
    """The counts of a run, and the broken promises."""

    kills: int = 0
    acknowledged: int = 0
    answered_again: int = 0
    requests: int = 0
    sent_again: int = 0
    problems: list[str] = field(default_factory=list)


async def run(
    directory: Path,
    *,
    seed: int,
    cycles: int,
    connections: int,
    faults: Sequence[str] = (),
    stalled_seconds: float = STALLED_SECONDS,
) -> Report:
    """Run a server in an empty directory, kill it `cycles` + 1 times, let it deliver everything, and check it."""
    dice = random.Random(seed)  # noqa: S311 - not for security
    server = Server(directory, CONFIG, {"PYTHONPATH": str(ROOT)})
    server.starts_python = True  # so that kills also hit the start of the interpreter
    lives, ledger, report = Lives(), Ledger(), Report()
    killer = _Killer(server, lives, ledger, program(*faults) if faults else PROGRAM, dice)
    try:
        async with trio.open_nursery() as nursery:
            watched = list(receivers(seed, lives))
            for each in watched:
                await nursery.start(each.receiver.run)
            await killer.start()
            await _create_webhooks(server, watched)
            async with trio.open_nursery() as producing:
                for number in range(connections):
                    kind: type[Producer] = HttpProducer if number < POSTING else SocketProducer
                    producer = kind(number, ledger, seed * 1000 + number)
                    path = server.directory / ("control.sock" if kind is HttpProducer else "ingest.sock")
                    producing.start_soon(producer.run, path)  # type: ignore[attr-defined]  # both subclasses have it
                for _ in range(cycles):
                    await killer.cycle()
                await trio.sleep(_LONGEST_SECONDS)
                ledger.is_closing = True
            # No producer sends any more, so only the start can wake the pending deliveries.
            await killer.burst_and_kill()
            for each in watched:
                each.recover()
            await killer.start()
            stalled = await _deliver_everything(server, watched, stalled_seconds)
            status = await server.stop()
            report.problems += stalled + ([] if status == 0 else [f"it ended with status {status}"])
            nursery.cancel_scope.cancel()
    finally:
        await server.end()  # noqa: ASYNC102 - it shields what it waits for
    found = audit(directory / "webhookd.db", ledger, watched)
    report.problems += found.problems
    report.kills, report.sent_again = killer.kills, found.sent_again
    report.acknowledged, report.answered_again = len(ledger.acknowledged), ledger.repeated
    report.requests = sum(len(each.exchanges) for each in watched)
    return report


async def _create_webhooks(server: Server, watched: Sequence[Watched]) -> None:
    for each in watched:
        settings = {"ordering": each.ordering, "concurrency": each.concurrency}
        created = await server.webhook(each.receiver.url, **settings)
        each.webhook_id, each.secret = created["id"], created["secret"]


async def _deliver_everything(server: Server, watched: Sequence[Watched], stalled_seconds: float) -> list[str]:
    """Wait until no delivery is pending; return a problem for each webhook that stays idle with pending deliveries."""
    progress_at, seen = trio.current_time(), -1
    while True:
        healths = {each["id"]: each["health"] for each in (await server.get("/api/webhooks"))["data"]}
        left = {name: health["queued"] + health["parked"] + health["sending"] for name, health in healths.items()}
        if not any(left.values()):
            return []
        requests = sum(len(each.exchanges) for each in watched)
        if requests != seen:
            progress_at, seen = trio.current_time(), requests
        elif trio.current_time() - progress_at > stalled_seconds:
            names = {each.webhook_id: each.name for each in watched}
            return [
                f"nothing is sent any more, and {count} deliveries to {names[name]} are pending: "
                f"{healths[name]['reason']}"
                for name, count in left.items()
                if count
            ]
        await trio.sleep(0.05)


class _Killer:
    """Starts and kills the server; each of `_moments` is a function that returns when it is time for a kill."""

    def __init__(
        self, server: Server, lives: Lives, ledger: Ledger, webhookd: Sequence[str], dice: random.Random
    ) -> None:
        self.kills = 0
        self._server = server
        self._lives = lives
        self._ledger = ledger
        self._program = webhookd
        self._dice = dice
        self._start_seconds = 1.0
        self._moments: Sequence[Callable[[], Awaitable[None]]] = (
            self._ready,
            self._answering,
            self._answering,
            self._working,
            self._working,
        )

    async def start(self) -> None:
        """Start the server and wait until it is ready."""
        began = trio.current_time()
        self._lives.count += 1
        await self._server.start(self._program)
        self._start_seconds = trio.current_time() - began

    async def cycle(self) -> None:
        """Let the server work for a moment, kill it, and start it again; sometimes kill it during that start too."""
        await self._dice.choice(self._moments)()
        await self._kill()
        while self._dice.random() < 0.25:
            self._lives.count += 1
            with trio.move_on_after(self._dice.random() * self._start_seconds):
                await self._server.start(self._program)
            await self._kill()
        await self.start()

    async def burst_and_kill(self) -> None:
        """Submit more events than can be delivered at once, and kill the server when the last is answered."""
        last = SocketProducer(999, self._ledger, self._dice.getrandbits(32))
        for _ in range(_EXTRA):
            last._make()
        await last.run(self._server.socket)
        await self._kill()

    async def _kill(self) -> None:
        self.kills += 1
        await self._server.kill()

    async def _ready(self) -> None:
        await trio.sleep(self._dice.random() * 0.02)

    async def _answering(self) -> None:
        await trio.sleep(self._dice.random() * _LONGEST_SECONDS)
        with trio.move_on_after(_LONGEST_SECONDS):
            await self._ledger.next_answer()

    async def _working(self) -> None:
        await trio.sleep(self._dice.random() * _LONGEST_SECONDS)

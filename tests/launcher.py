"""Starts the real command line with one fault planted in it: `python -m tests.launcher --plant "acks early" serve …`.

For harnesses that run the server as a process: each must catch what it is for. The product has no switch for any of
these; a part of it is replaced before it starts. `--checkpoint-pages` is no fault: it has the journal bring its log
into its file so often that a short run shows it many times. Nor is `--steps`: it has each long step of the event loop
written to a file.
"""

import argparse
import math
import random
import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

import msgspec
import trio
from peewee import Database

from webhookd import server
from webhookd.admin import framing
from webhookd.base.models import AcceptedEvent, Message, Outcome, PublishResult, Target
from webhookd.cli import main
from webhookd.delivery.http.sender import Sender
from webhookd.journal import Store, Ticket, Window, WindowRequest
from webhookd.journal import store as facade
from webhookd.journal.queries import deliveries
from webhookd.journal.queries.bulk import BulkInsert, SqlConnection
from webhookd.journal.sqlite import backup, batch, copies, database
from webhookd.journal.sqlite.batch import Batches
from webhookd.journal.sqlite.copies import UnfinishedFile

_SOMETIMES = 0.1
LONG_STEP_SECONDS = 0.1


def _rarely() -> bool:
    return random.random() < _SOMETIMES  # noqa: S311 - a test's dice


class AcksEarly(Store):
    """Acknowledges an event before its commit."""

    def publish(
        self, event: AcceptedEvent, targets: tuple[Target, ...], *args: Any, **kwargs: Any
    ) -> Ticket[PublishResult]:
        super().publish(event, targets, *args, **kwargs)
        early: Ticket[PublishResult] = Ticket()
        early.succeed(PublishResult(id=event.id, deliveries=len(targets), duplicate=False))
        return early


class SwapsOrder(Store):
    """Hands out a queue with its first two deliveries the wrong way round."""

    async def window(self, request: WindowRequest) -> Window:
        window = await super().window(request)
        return msgspec.structs.replace(window, pending=(*reversed(window.pending[:2]), *window.pending[2:]))


class AltersBodies(Store):
    """Writes the body anew instead of sending the bytes that came in."""

    async def message(self, event_pk: int, upcoming: Callable[[], Iterable[int]] = tuple) -> Message:
        message = await super().message(event_pk, upcoming)
        return msgspec.structs.replace(message, body=msgspec.json.encode(msgspec.json.decode(message.body)))


class SkipsSequences(Batches):
    """Leaves a number out of an endpoint's sequence, once in a while."""

    def _last_sequences(self, endpoint_pks: set[int]) -> dict[int, int]:
        found = super()._last_sequences(endpoint_pks)
        for endpoint_pk in endpoint_pks & found.keys():
            found[endpoint_pk] += _rarely()
        return found


class LosesAttempts(BulkInsert):
    """Leaves an attempt out of the record, once in a while."""

    def run(self, connection: SqlConnection, rows: Sequence[tuple[object, ...]]) -> None:
        super().run(connection, [row for row in rows if not _rarely()])


class SendsTwice(Sender):
    """Makes a request a second time, once in a while."""

    async def send(self, **request: Any) -> Outcome:
        outcome = await super().send(**request)
        return await super().send(**request) if _rarely() else outcome


class SyncsNoCopy(UnfinishedFile):
    """Gives a copy its name before it is on disk."""

    def sync(self) -> None:
        """Do nothing."""


class Steps(trio.abc.Instrument):
    """Writes down each step of a task that kept the loop for long, by the CPU time of the loop's thread.

    What others did to the machine meanwhile isn't in that.
    """

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 - for as long as the process lives
        self._cpu = self._at = math.inf  # in the step in which it is installed

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._cpu, self._at = time.thread_time(), time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        cpu = time.thread_time() - self._cpu
        if cpu > LONG_STEP_SECONDS:
            step = LongStep(task=task.name, cpu_seconds=cpu, seconds=time.perf_counter() - self._at)
            self._file.write(msgspec.json.encode(step) + b"\n")


class LongStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step that kept the loop for long."""

    task: str
    cpu_seconds: float
    seconds: float


def _watch_steps(path: str) -> None:
    serve = server.serve

    async def watched(*args: Any, **kwargs: Any) -> None:
        trio.lowlevel.add_instrument(Steps(path))
        await serve(*args, **kwargs)

    _replace(server, "serve", watched)


def _search_heads_slowly() -> None:
    value = re.compile(rb":[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
    check = framing._check_plain

    def check_slowly(text: bytearray, start: int, end: int, *, is_whole: bool) -> None:
        check(text, start, end, is_whole=is_whole)
        value.findall(text, start, end)

    _replace(framing, "_check_plain", check_slowly)


def _replace(module: ModuleType, name: str, by: object) -> None:
    assert name in vars(module), f"{module.__name__} has no {name} any more"
    vars(module)[name] = by


def _sync_normally() -> None:
    def open_writer(*args: Any, **kwargs: Any) -> Database:
        opened = database.open_writer(*args, **kwargs)
        opened.connection().execute("PRAGMA synchronous = NORMAL")  # type: ignore[no-untyped-call]  # peewee's
        return opened

    _replace(facade, "open_writer", open_writer)


def _sync_no_copy() -> None:
    for module in (copies, backup):
        _replace(module, "UnfinishedFile", SyncsNoCopy)


def _lose_attempts() -> None:
    _replace(batch, "_INSERT_ATTEMPT", LosesAttempts("attempts", batch._ATTEMPT_COLUMNS))


PLANTS = MappingProxyType(
    {
        "acks early": lambda: _replace(facade, "Store", AcksEarly),
        "forgets what was pending": lambda: _replace(deliveries, "backlog", lambda _database: []),
        "swaps the order": lambda: _replace(facade, "Store", SwapsOrder),
        "skips a sequence": lambda: _replace(facade, "Batches", SkipsSequences),
        "loses an attempt": _lose_attempts,
        "sends twice": lambda: _replace(server, "Sender", SendsTwice),
        "alters bodies": lambda: _replace(facade, "Store", AltersBodies),
        "synchronous = NORMAL": _sync_normally,
        "syncs no directory": lambda: _replace(copies, "sync_directory", lambda _path: None),
        "syncs no copy": _sync_no_copy,
        "searches heads slowly": _search_heads_slowly,
    }
)


def program(
    *, plant: str | None = None, checkpoint_pages: int | None = None, steps: Path | None = None
) -> tuple[str, ...]:
    """Return the command that starts webhookd so; its own arguments go behind it."""
    command = [sys.executable, "-m", "tests.launcher"]
    if plant is not None:
        command += ["--plant", plant]
    if checkpoint_pages is not None:
        command += ["--checkpoint-pages", str(checkpoint_pages)]
    if steps is not None:
        command += ["--steps", str(steps)]
    return tuple(command)


def _launch() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.launcher", description=__doc__, add_help=False)
    parser.add_argument("--plant", choices=PLANTS)
    parser.add_argument("--checkpoint-pages", type=int)
    parser.add_argument("--steps", metavar="FILE")
    options, rest = parser.parse_known_args()
    if options.plant is not None:
        PLANTS[options.plant]()
    if options.checkpoint_pages is not None:
        _replace(database, "_CHECKPOINT_PAGES", options.checkpoint_pages)
    if options.steps is not None:
        _watch_steps(options.steps)
    sys.argv[1:] = rest
    main()


if __name__ == "__main__":
    _launch()

"""The program with a fault in it, for the harnesses to find: `python -m tests.planted NAME serve --config FILE`.

Several names are joined by `+`. Each fault stands for a wrong line in the source. It is put into this process alone,
before the server starts; the product has no switch for any of them.
"""

import sys
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, TypeVar

import trio
from peewee import Database

from webhookd import cli, server
from webhookd.admin.guard import Guard
from webhookd.base.errors import JournalError
from webhookd.base.models import DeliveryError, PublishResult
from webhookd.dispatch import lane
from webhookd.ingest import IngestServer
from webhookd.journal import store as facade
from webhookd.journal.operations import Publish, Record, Submission
from webhookd.journal.planning import full
from webhookd.journal.queries import retention
from webhookd.journal.sqlite import writer
from webhookd.journal.sqlite.batch import Batches
from webhookd.journal.sqlite.copies import Pages
from webhookd.journal.sqlite.reserve import Reserve
from webhookd.journal.sqlite.write_ahead_log import WriteAheadLog
from webhookd.journal.sqlite.writer import Writer
from webhookd.observe.logs import get_logger

T = TypeVar("T")
Plant = Callable[[], None]
_PLANTS: dict[str, Plant] = {}


def program(*names: str) -> Sequence[str]:
    """Return the command that runs webhookd with these faults."""
    assert _PLANTS.keys() >= set(names)
    return (sys.executable, "-m", "tests.planted", "+".join(names))


def show(faults: Iterable[str], finds: Callable[[Path, str], bool]) -> int:
    """Print of each fault whether a harness finds it; return the status: 1 where it misses one."""
    status = 0
    for fault in faults:
        with TemporaryDirectory(prefix="webhookd-") as directory:
            is_found = finds(Path(directory), fault)
        print(f"{fault}: {'found' if is_found else 'NOT FOUND'}", flush=True)
        status = status if is_found else 1
    return status


def _plants(name: str) -> Callable[[Plant], Plant]:
    def register(plant: Plant) -> Plant:
        _PLANTS[name] = plant
        return plant

    return register


def _put(where: ModuleType | type, name: str, what: object) -> None:
    assert hasattr(where, name)
    setattr(where, name, what)


def main() -> None:
    """Plant what the first argument names, and run the command line with the rest."""
    for name in sys.argv.pop(1).split("+"):
        _PLANTS[name]()
    whole = [sys.executable, "-m", "webhookd"]
    if sys.argv[1:4] == whole:  # where this wraps the command
        del sys.argv[1:4]
    cli.main()


@_plants("waits for producers")
def _wait_for_producers() -> None:
    class Patient(IngestServer):
        async def drain(self, deadline_seconds: float) -> None:
            await super().drain(deadline_seconds + 3600)

    _put(server, "IngestServer", Patient)


@_plants("waits for clients")
def _wait_for_clients() -> None:
    class Patient(Guard):
        async def drain(self, deadline_seconds: float) -> None:
            await super().drain(deadline_seconds + 3600)

    _put(server, "Guard", Patient)


@_plants("drops what is queued")
def _drop_what_is_queued() -> None:
    class Hasty(Writer):
        """Acknowledges an event before its commit, and forgets what waits when the server stops."""

        def submit(self, operation: Submission) -> None:
            super().submit(operation)
            if isinstance(operation, Publish):
                early = PublishResult(id=operation.event.id, deliveries=len(operation.targets), duplicate=False)
                operation.ticket.succeed(early)

        def refuse_events(self) -> None:
            super().refuse_events()
            self._queue.drop_events(behind=True)

    _put(facade, "Writer", Hasty)


@_plants("records no interruption")
def _record_no_interruption() -> None:
    class Forgetful(Writer):
        def submit(self, operation: Submission) -> None:
            if isinstance(operation, Record) and operation.record.error is DeliveryError.INTERRUPTED:
                operation.ticket.succeed(None)
            else:
                super().submit(operation)

    _put(facade, "Writer", Forgetful)


@_plants("goes on after a failed sync")
def _go_on_after_a_failed_sync() -> None:
    class Trusting(Writer):
        def _commit(self, batch: Sequence[Submission]) -> Sequence[Submission]:
            try:
                return super()._commit(batch)
            except JournalError:
                return ()

    _put(facade, "Writer", Trusting)


@_plants("has no reserve")
def _have_no_reserve() -> None:
    class Nothing(Reserve):
        def make(self) -> bool:
            return True

    _put(facade, "Reserve", Nothing)


@_plants("never looks for room")
def _never_look_for_room() -> None:
    class Lost(Reserve):
        is_given_up = False

        def make(self) -> bool:
            return not self.is_given_up and super().make()

        def release(self) -> None:
            self.is_given_up = True
            super().release()

    _put(facade, "Reserve", Lost)


@_plants("stops in a copy")
def _stop_in_a_copy() -> None:
    """Begin to copy the journal and never go on, so that it can be killed in the middle; this is no fault."""
    step = Pages.step

    def step_once(self: Pages, pages: int | None = None) -> bool:
        if self.copied:
            threading.Event().wait()
        return step(self, pages)

    _put(Pages, "step", step_once)


@_plants("counts what it forgets")
def _count_what_is_forgotten() -> None:
    """Log of each commit that forgets how many steps it held and what they took; this is no fault."""
    prune, give_back, commit = retention.prune, retention.give_back_pages, Batches.commit
    rows: list[int] = []
    pages: list[int] = []

    def counted(database: Database, before: float, limit: int) -> retention.Pruned:
        pruned = prune(database, before, limit)
        rows.append(pruned.rows)
        return pruned

    def free_pages(database: Database) -> int:
        found: Any = database.execute_sql("PRAGMA freelist_count")  # type: ignore[no-untyped-call]  # peewee's stubs
        return int(found.fetchone()[0])

    def counted_pages(database: Database) -> bool:
        before = free_pages(database)
        are_left = give_back(database)
        pages.append(before - free_pages(database))
        return are_left

    def committing(self: Batches, operations: Sequence[Submission]) -> None:
        rows.clear()
        pages.clear()
        commit(self, operations)
        if rows or pages:
            get_logger("tests").info("tests.forgot", steps=len(rows) + len(pages), rows=sum(rows), pages=sum(pages))

    _put(retention, "prune", counted)
    _put(retention, "give_back_pages", counted_pages)
    _put(Batches, "commit", committing)


@_plants("forgets in one step")
def _forget_in_one_step() -> None:
    _put(retention, "FIRST_ROWS", 1_000_000_000)


@_plants("never cuts the log")
def _never_cut_the_log() -> None:
    class Growing(WriteAheadLog):
        def after_commit(self) -> None:
            return

    _put(facade, "WriteAheadLog", Growing)


@_plants("waits for readers")
def _wait_for_readers() -> None:
    class Waiting(WriteAheadLog):
        def cut(self) -> bool:
            return self._checkpoint("TRUNCATE")

    _put(facade, "WriteAheadLog", Waiting)


@_plants("small intake")
def _make_intake_small() -> None:
    """Make the server one that is easily overloaded; this is no fault."""

    commit_next = Writer._commit_next

    async def commit_late(self: Writer) -> None:
        """Wait until more is there than is taken, and then until some of that was refused."""
        with trio.move_on_after(0.2):
            while len(self._queue) < writer.MAX_QUEUED:
                await trio.sleep(0.005)
            await trio.sleep(1.5 * writer.PATIENCE_SECONDS)
        await commit_next(self)

    _put(Writer, "_commit_next", commit_late)
    _put(writer, "MAX_BATCH_COST", 10)
    _put(writer, "MAX_QUEUED", 20)
    _put(writer, "PATIENCE_SECONDS", 0.1)


@_plants("acknowledges what it refuses")
def _acknowledge_what_is_refused() -> None:
    class Polite(Writer):
        async def room(self, flow: Hashable) -> None:
            await trio.lowlevel.checkpoint()

        def submit(self, operation: Submission) -> None:
            if isinstance(operation, Publish) and len(self._queue) >= writer.MAX_QUEUED:
                operation.ticket.succeed(PublishResult(id=operation.event.id, deliveries=0, duplicate=False))
            else:
                super().submit(operation)

    _put(facade, "Writer", Polite)


@_plants("stores what it refuses")
def _store_what_is_refused() -> None:
    class Greedy(Writer):
        async def room(self, flow: Hashable) -> None:
            await trio.lowlevel.checkpoint()

        def submit(self, operation: Submission) -> None:
            if isinstance(operation, Publish) and len(self._queue) >= writer.MAX_QUEUED:
                operation.ticket.fail(full())
            super().submit(operation)

    _put(facade, "Writer", Greedy)


@_plants("remembers the whole backlog")
def _remember_the_backlog() -> None:
    _put(lane, "MIN_WINDOW", 1_000_000)


if __name__ == "__main__":
    main()

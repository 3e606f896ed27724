"""The faults that harnesses plant in the server, by name; `tests.launcher` starts webhookd with them.

Each fault stands for a mistake in the source. It replaces a part of webhookd in the process that runs it, before the
server starts; the product has no switch for any of them. Three plants are no faults: "small intake", "hangs in a copy"
and "counts deleted rows" make the server easier to overload, to kill at a moment, and to observe.
"""

import random
import re
import threading
from collections.abc import Callable, Hashable, Iterable, Sequence
from types import ModuleType
from typing import Any, TypeVar

import msgspec
import trio
from peewee import Database

from webhookd import server
from webhookd.admin import framing
from webhookd.admin.guard import Guard
from webhookd.base.errors import JournalError
from webhookd.base.models import AcceptedEvent, DeliveryError, Message, Outcome, PublishResult, QueuedDelivery, Target
from webhookd.delivery.http.sender import Sender
from webhookd.delivery.request import Cancelable, Done, Request
from webhookd.dispatch import lane
from webhookd.ingest import IngestServer
from webhookd.journal import Store, Ticket, Window, WindowRequest, writer
from webhookd.journal import store as facade
from webhookd.journal.history import Deliveries
from webhookd.journal.operations import Publish, Record, Submission
from webhookd.journal.planning import full
from webhookd.journal.queries import retention
from webhookd.journal.queries.dialect import SqlConnection
from webhookd.journal.record_rows import ATTEMPT_COLUMNS
from webhookd.journal.sqlite import backup, batch, copies, database, storage
from webhookd.journal.sqlite.batch import Batches
from webhookd.journal.sqlite.bulk import BulkInsert
from webhookd.journal.sqlite.copies import Pages, UnfinishedFile
from webhookd.journal.sqlite.reserve import Reserve
from webhookd.journal.sqlite.storage import SqliteStorage
from webhookd.journal.sqlite.write_ahead_log import WriteAheadLog
from webhookd.journal.writer import Writer
from webhookd.observe.logs import get_logger

C = TypeVar("C", bound=type)
Plant = Callable[[], None]
PLANTS: dict[str, Plant] = {}
"""Each plant's name, and the function that plants it in this process."""
_RARE = 0.1


def replace(where: ModuleType | type, name: str, by: object) -> None:
    """Replace an attribute of a module or class, which must exist."""
    assert hasattr(where, name), f"{where.__name__} has no {name}"
    setattr(where, name, by)


def _plant(name: str) -> Callable[[Plant], Plant]:
    """Register a function as a plant."""

    def register(plant: Plant) -> Plant:
        PLANTS[name] = plant
        return plant

    return register


def _plant_class(name: str, attribute: str, *modules: ModuleType) -> Callable[[C], C]:
    """Register a class as a plant: it replaces `attribute` of these modules."""

    def register(by: C) -> C:
        @_plant(name)
        def replace_class() -> None:
            for module in modules:
                replace(module, attribute, by)

        return by

    return register


def _is_rare() -> bool:
    return random.random() < _RARE  # noqa: S311 - not for security


# Faults of the shutdown


@_plant_class("waits for producers", "IngestServer", server)
class PatientIngestServer(IngestServer):
    async def drain(self, deadline_seconds: float) -> None:
        await super().drain(deadline_seconds + 3600)


@_plant_class("waits for clients", "Guard", server)
class PatientGuard(Guard):
    async def drain(self, deadline_seconds: float) -> None:
        await super().drain(deadline_seconds + 3600)


@_plant_class("drops queued events", "Writer", facade)
class DropsQueuedEvents(Writer):
    """Acknowledges an event before its commit, and drops the queued events when the server stops."""

    def submit(self, operation: Submission) -> None:
        super().submit(operation)
        if isinstance(operation, Publish):
            early = PublishResult(id=operation.event.id, deliveries=len(operation.targets), duplicate=False)
            operation.ticket.succeed(early)

    def refuse_events(self) -> None:
        super().refuse_events()
        self._queue.drop_events(behind=True)


@_plant_class("records no interruption", "Writer", facade)
class RecordsNoInterruption(Writer):
    def submit(self, operation: Submission) -> None:
        if isinstance(operation, Record) and operation.record.error is DeliveryError.INTERRUPTED:
            operation.succeed()
        else:
            super().submit(operation)


# Faults of acknowledging, sending and recording


@_plant_class("acknowledges early", "Store", facade)
class AcknowledgesEarly(Store):
    """Acknowledges an event before its commit."""

    def publish(
        self, event: AcceptedEvent, targets: tuple[Target, ...], *args: Any, **kwargs: Any
    ) -> Ticket[PublishResult]:
        super().publish(event, targets, *args, **kwargs)
        early: Ticket[PublishResult] = Ticket()
        early.succeed(PublishResult(id=event.id, deliveries=len(targets), duplicate=False))
        return early


@_plant_class("swaps the order", "Store", facade)
class SwapsOrder(Store):
    """Swaps the first two deliveries of each window."""

    async def window(self, request: WindowRequest) -> Window:
        window = await super().window(request)
        return msgspec.structs.replace(window, pending=(*reversed(window.pending[:2]), *window.pending[2:]))


@_plant_class("alters bodies", "Store", facade)
class AltersBodies(Store):
    """Decodes and encodes each body instead of sending the bytes that were submitted."""

    def take_message(self, delivery: QueuedDelivery) -> Message | None:
        message = super().take_message(delivery)
        return None if message is None else _altered(message)

    def read_message(
        self, event_pk: int, upcoming: Callable[[], Iterable[int]], got: Callable[[Message | Exception], None]
    ) -> None:
        super().read_message(
            event_pk, upcoming, lambda found: got(found if isinstance(found, Exception) else _altered(found))
        )


def _altered(message: Message) -> Message:
    return msgspec.structs.replace(message, body=msgspec.json.encode(msgspec.json.decode(message.body)))


@_plant_class("skips a sequence", "Batches", storage)
class SkipsSequences(Batches):
    """Sometimes leaves a number out of an endpoint's sequence."""

    def _last_sequences(self, endpoint_pks: set[int]) -> dict[int, int]:
        found = super()._last_sequences(endpoint_pks)
        for endpoint_pk in endpoint_pks & found.keys():
            found[endpoint_pk] += _is_rare()
        return found


class LosesAttempts(BulkInsert):
    """Sometimes does not store an attempt."""

    def run(self, connection: SqlConnection, rows: Sequence[tuple[object, ...]]) -> None:
        super().run(connection, [row for row in rows if not _is_rare()])


@_plant("loses an attempt")
def _lose_attempts() -> None:
    replace(batch, "_INSERT_ATTEMPT", LosesAttempts("attempts", ATTEMPT_COLUMNS))


@_plant_class("sends twice", "Sender", server)
class SendsTwice(Sender):
    """Sometimes makes a request twice."""

    def start(self, request: Request, done: Done) -> Cancelable:
        def again(result: Outcome | Exception) -> None:
            if _is_rare():
                super(SendsTwice, self).start(request, done)
            else:
                done(result)

        return super().start(request, again)


@_plant("ignores the backlog at a start")
def _ignore_the_backlog() -> None:
    async def backlog(_self: Deliveries) -> list[int]:
        await trio.lowlevel.checkpoint()
        return []

    replace(Deliveries, "backlog", backlog)


@_plant("holds the whole backlog in memory")
def _hold_the_backlog() -> None:
    replace(lane, "MIN_WINDOW", 1_000_000)


@_plant("searches heads slowly")
def _search_heads_slowly() -> None:
    value = re.compile(rb":[ \t]*([^\r]*?)[ \t]*(?=\r\n)")
    check = framing._check_plain

    def check_slowly(text: bytearray, start: int, end: int, *, is_whole: bool) -> None:
        check(text, start, end, is_whole=is_whole)
        value.findall(text, start, end)

    replace(framing, "_check_plain", check_slowly)


# Faults of the files


@_plant("synchronous = NORMAL")
def _sync_normally() -> None:
    def open_writer(*args: Any, **kwargs: Any) -> Database:
        opened = database.open_writer(*args, **kwargs)
        opened.connection().execute("PRAGMA synchronous = NORMAL")  # type: ignore[no-untyped-call]  # peewee's
        return opened

    replace(storage, "open_writer", open_writer)


@_plant("syncs no directory")
def _sync_no_directory() -> None:
    replace(copies, "sync_directory", lambda _path: None)


@_plant_class("syncs no copy", "UnfinishedFile", copies, backup)
class SyncsNoCopy(UnfinishedFile):
    """Renames a copy to its final name before it is on disk."""

    def sync(self) -> None:
        """Do nothing."""


@_plant_class("continues after a failed sync", "SqliteStorage", storage)
class IgnoresFailedSyncs(SqliteStorage):
    def _commit(self, batch: Sequence[Submission]) -> Sequence[Submission]:
        try:
            return super()._commit(batch)
        except JournalError:
            return ()


@_plant_class("has no reserve", "Reserve", storage)
class NoReserve(Reserve):
    def make(self) -> bool:
        return True


@_plant_class("never checks for space", "Reserve", storage)
class ReserveOfOneUse(Reserve):
    """Does not make the reserve again after its release."""

    is_used = False

    def make(self) -> bool:
        return not self.is_used and super().make()

    def release(self) -> None:
        self.is_used = True
        super().release()


@_plant("hangs in a copy")
def _hang_in_a_copy() -> None:
    """Begin a copy of the journal and never finish it, to kill the process during the copy; this is no fault."""
    step = Pages.step

    def step_once(self: Pages, pages: int | None = None) -> bool:
        if self.copied:
            threading.Event().wait()
        return step(self, pages)

    replace(Pages, "step", step_once)


# Faults of retention and the write-ahead log


@_plant("counts deleted rows")
def _count_deleted_rows() -> None:
    """Log for each commit with retention its steps, and the rows and pages that they deleted; this is no fault."""
    prune, give_back, commit = retention.prune, retention.give_back_pages, Batches.commit
    rows: list[int] = []
    pages: list[int] = []

    def counting_rows(database: Database, before: float, limit: int) -> retention.Pruned:
        pruned = prune(database, before, limit)
        rows.append(pruned.rows)
        return pruned

    def free_pages(database: Database) -> int:
        found: Any = database.execute_sql("PRAGMA freelist_count")  # type: ignore[no-untyped-call]  # peewee's stubs
        return int(found.fetchone()[0])

    def counting_pages(database: Database) -> bool:
        before = free_pages(database)
        are_left = give_back(database)
        pages.append(before - free_pages(database))
        return are_left

    def logging(self: Batches, operations: Sequence[Submission]) -> None:
        rows.clear()
        pages.clear()
        commit(self, operations)
        if rows or pages:
            get_logger("tests").info("tests.retention", steps=len(rows) + len(pages), rows=sum(rows), pages=sum(pages))

    replace(retention, "prune", counting_rows)
    replace(retention, "give_back_pages", counting_pages)
    replace(Batches, "commit", logging)


@_plant("deletes all in one step")
def _delete_all_in_one_step() -> None:
    replace(retention, "FIRST_ROWS", 1_000_000_000)


@_plant_class("never truncates the log", "WriteAheadLog", storage)
class NeverTruncates(WriteAheadLog):
    def after_commit(self) -> None:
        return


@_plant_class("waits for readers", "WriteAheadLog", storage)
class WaitsForReaders(WriteAheadLog):
    def cut(self) -> bool:
        return self._checkpoint("TRUNCATE")


# Faults of an overload


@_plant("small intake")
def _make_intake_small() -> None:
    """Make the server easy to overload; this is no fault."""

    commit_next = Writer._commit_next

    async def commit_late(self: Writer) -> None:
        """Wait until the queue is full, and then until some of what came after that was refused."""
        with trio.move_on_after(0.2):
            while len(self._queue) < writer.MAX_QUEUED:
                await trio.sleep(0.005)
            await trio.sleep(1.5 * writer.PATIENCE_SECONDS)
        await commit_next(self)

    replace(Writer, "_commit_next", commit_late)
    replace(writer, "MAX_BATCH_COST", 10)
    replace(writer, "MAX_QUEUED", 20)
    replace(writer, "PATIENCE_SECONDS", 0.1)


class NeverWaitsForRoom(Writer):
    async def room(self, flow: Hashable) -> None:
        await trio.lowlevel.checkpoint()


@_plant_class("acknowledges refused events", "Writer", facade)
class AcknowledgesRefusedEvents(NeverWaitsForRoom):
    def submit(self, operation: Submission) -> None:
        if isinstance(operation, Publish) and len(self._queue) >= writer.MAX_QUEUED:
            operation.ticket.succeed(PublishResult(id=operation.event.id, deliveries=0, duplicate=False))
        else:
            super().submit(operation)


@_plant_class("stores refused events", "Writer", facade)
class StoresRefusedEvents(NeverWaitsForRoom):
    def submit(self, operation: Submission) -> None:
        if isinstance(operation, Publish) and len(self._queue) >= writer.MAX_QUEUED:
            operation.ticket.fail(full())
        super().submit(operation)

"""The store: the queue, the history and the only truth, in one SQLite file, the journal.

    submit (one step) -> batch -> one transaction, synced -> results, callbacks, wake-ups

What was acknowledged is on disk. There is one connection that writes and checkpoints, and a few that only read; both
kinds make their blocking calls through a `Runner`. All that the program asks of it has a name: the methods here are
for events and attempts, those of `webhooks`, `deliveries` and the others for the rest. What a commit has changed is
told by the `feed`. Nothing outside this package knows that it is SQLite.
"""

from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio
from peewee import Database

from webhookd.base.clock import Clock
from webhookd.base.ids import IdFactory
from webhookd.base.models import AcceptedEvent, AttemptRecord, Message, PublishResult, QueuedDelivery, Target
from webhookd.base.stages import reached
from webhookd.journal.administration import AuditLog, EventTypes, KeptAnswers, Keys, MasterKeyState, Statistics
from webhookd.journal.feed import DeliveriesQueued, Feed
from webhookd.journal.history import Deliveries, Events, Replays
from webhookd.journal.operations import Publish, Record, Ticket
from webhookd.journal.queries import census, idempotency, replays, retention, sealing
from webhookd.journal.rows import Census, Window, WindowRequest
from webhookd.journal.sqlite.backup import Report, back_up
from webhookd.journal.sqlite.batch import Batches
from webhookd.journal.sqlite.database import (
    DiskError,
    JournalFullError,
    Reader,
    ReadLimit,
    exclusive_lock,
    leave_log,
    open_writer,
)
from webhookd.journal.sqlite.inspection import Contents
from webhookd.journal.sqlite.reader import Gathering, Messages, Readers, read_messages, read_windows
from webhookd.journal.sqlite.reserve import Reserve
from webhookd.journal.sqlite.runners import Runner, ThreadRunner
from webhookd.journal.sqlite.write_ahead_log import WriteAheadLog
from webhookd.journal.sqlite.writer import Writer
from webhookd.journal.transactions import Transactions
from webhookd.journal.webhooks import Webhooks
from webhookd.observe.metrics import Measures

READERS = 3
READ_LIMIT_SECONDS = 5.0
RETENTION_SECONDS = 3600.0
RETENTION_PAUSE_SECONDS = 0.05
EXPIRED_A_STEP = 500


@asynccontextmanager
async def open_store(
    path: Path,
    *,
    clock: Clock,
    ids: IdFactory,
    write_runner: Runner | None = None,
    read_runner: Runner | None = None,
    max_bytes: int | None = None,
    measures: Measures | None = None,
) -> AsyncIterator["Store"]:
    """Open the journal for this process alone, making or migrating it as needed; commits count in `measures`.

    Raises CommandError where another process has it, JournalError where the file can't be used.
    """
    write_runner = write_runner or ThreadRunner(1)
    with exclusive_lock(path):
        reserve = Reserve(path)
        try:
            database = await write_runner.run(partial(open_writer, path, now=clock.now()))
        except JournalFullError:
            await write_runner.run(reserve.release)
            database = await write_runner.run(partial(open_writer, path, now=clock.now()))
        try:
            limit = ReadLimit(READ_LIMIT_SECONDS)
            readers = Readers([Reader(path, limit) for _ in range(READERS)], read_runner or ThreadRunner(READERS))
            try:
                store = Store(
                    path=path,
                    database=database,
                    readers=readers,
                    read_limit=limit,
                    reserve=reserve,
                    batches=Batches(database, ids, max_bytes),
                    runner=write_runner,
                    measures=measures or Measures(),
                )
                try:
                    yield store
                finally:
                    if store.has_failed:
                        leave_log(database)
            finally:
                readers.close()
        finally:
            database.close()


class Store:
    """The store of one server; made by `open_store`, and it writes while `run` runs."""

    def __init__(
        self,
        *,
        path: Path,
        database: Database,
        readers: Readers,
        read_limit: ReadLimit,
        reserve: Reserve,
        batches: Batches,
        runner: Runner,
        measures: Measures,
    ) -> None:
        self.path = path
        self._database = database
        self._runner = runner
        self._messages = Messages()
        self._measures = measures
        self._read_limit = read_limit
        self._writer = Writer(
            database,
            path,
            batches,
            runner,
            self._remember,
            log=WriteAheadLog(database, path, read_limit),
            reserve=reserve,
            measures=measures,
        )
        self.feed = Feed()
        self.transactions = Transactions(self._writer, readers)
        self.webhooks = Webhooks(self.transactions, self.feed)
        self.events = Events(self.transactions)
        self.deliveries = Deliveries(self.transactions)
        self.replays = Replays(self.transactions)
        self.event_types = EventTypes(self.transactions, self.feed)
        self.keys = Keys(self.transactions, self.feed)
        self.audit = AuditLog(self.transactions)
        self.kept_answers = KeptAnswers(self.transactions)
        self.statistics = Statistics(self.transactions)
        self.master_key = MasterKeyState(self.transactions)
        self._readers = readers
        self._windows = Gathering(readers, read_windows)
        self._bodies = Gathering(readers, read_messages)

    @property
    def queue_length(self) -> int:
        """How many operations wait for the next commit."""
        return self._writer.queue_length

    @property
    def has_failed(self) -> bool:
        """Whether the disk has failed, or the file is damaged."""
        return self._writer.has_failed

    @property
    def windows_read(self) -> int:
        """How many windows actors have asked for."""
        return self._windows.asked

    @property
    def is_full(self) -> bool:
        """Whether the disk has no room."""
        return self._writer.is_full

    @property
    def is_at_bound(self) -> bool:
        """Whether the file holds `max_bytes`, so that events are refused."""
        return self._writer.is_at_bound

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write and answer until canceled; then commit what was submitted and checkpoint.

        Raises JournalError where the disk fails: from then on nothing that the journal says can be trusted.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._windows.run)
            nursery.start_soon(self._bodies.run)
            nursery.start_soon(self._watch_readers)
            await nursery.start(self._writer.run)
            task_status.started()

    async def _watch_readers(self) -> None:
        try:
            await self._readers.watch()
        except DiskError as error:
            self._writer.fail(error)
            raise

    async def retain(self, retention_days: float, now: Callable[[], float]) -> None:
        """Forget what is older than that, at once and every hour, in small steps, until canceled.

        `now` says what time it is for that: a clock that was set by mistake must not make everything old. It goes on
        while the disk is full, since it is what makes room.
        """
        while True:
            insist = self.transactions.insist
            await insist(idempotency.prune, now())
            await self._forget_expired_secrets(now)
            before = now() - retention_days * 86_400
            await insist(replays.prune, before)
            rows = retention.FIRST_ROWS
            while (pruned := await insist(retention.prune, before, rows)).rows:
                reached("retention.step")
                rows = retention.next_rows(rows, pruned.seconds)
                await self._give_back_pages()
            await self._give_back_pages()
            await trio.sleep(RETENTION_SECONDS)

    async def _give_back_pages(self) -> None:
        are_left = True
        while are_left:
            await trio.sleep(RETENTION_PAUSE_SECONDS)
            are_left = await self.transactions.insist(retention.give_back_pages)

    async def _forget_expired_secrets(self, now: Callable[[], float]) -> None:
        pks = await self.transactions.read(sealing.expired, now())
        for start in range(0, len(pks), EXPIRED_A_STEP):
            await self.transactions.insist(sealing.delete_expired, pks[start : start + EXPIRED_A_STEP], now())

    async def back_up(self, file: Path, *, replace: bool, report: Report) -> Contents:
        """Copy the journal to a file while it is written to, and return what the copy holds, which was verified.

        Raises CommandError where the file can't be written, JournalError where what was copied is damaged.
        """
        return await back_up(self._database, self._runner, file, replace=replace, report=report)

    def cut_log(self) -> None:
        """Have the write-ahead log emptied soon: it still holds what has been overwritten in the file."""
        self._writer.cut_log()

    def end_reads(self) -> None:
        """Cut off every query, now and from now on: the server is ending and waits for none."""
        self._read_limit.end()

    async def room(self, flow: Hashable = None) -> None:
        """Return when an event can be published in a flow.

        Rejected JOURNAL_FULL or SHUTTING_DOWN where that won't be soon.
        """
        await self._writer.room(flow)

    def has_room(self, flow: Hashable) -> bool:
        """Whether `room` would return, or refuse, at once."""
        return self._writer.has_room(flow)

    def refuse_events(self) -> None:
        """Take no more events from now on."""
        self._writer.refuse_events()

    def publish(
        self,
        event: AcceptedEvent,
        targets: tuple[Target, ...],
        *,
        flow: Hashable = None,
        may_repeat: bool = True,
    ) -> Ticket[PublishResult]:
        """Submit an event with its deliveries; the ticket raises Rejected CONFLICT or JOURNAL_FULL.

        Events of one `flow` are stored in their order; flows take turns. Without `may_repeat` its id is known to be
        new.
        """
        operation = Publish(event, targets, self._queued, flow=flow, insists=False, may_repeat=may_repeat)
        self._writer.submit(operation)
        return operation.ticket

    def notice(self, event: AcceptedEvent, targets: tuple[Target, ...]) -> Publish:
        """Return an event of webhookd's own, to be submitted with what it tells of."""
        return Publish(event, targets, self._queued, flow=None, insists=True, may_repeat=False)

    def record(self, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
        """Submit an attempt with what it made of its delivery and endpoint, and the events that tell of that."""
        operation = Record(record, notices)
        self._writer.submit(operation)
        return operation.ticket

    async def take_census(self) -> Census:
        """Count what waits and how the webhooks are, for the metrics; it walks over whole indexes."""
        return await self.transactions.read(census.take)

    async def window(self, request: WindowRequest) -> Window:
        """Return a window of an endpoint's queue, as of a moment after this call."""
        return await self._windows.ask(request)

    async def message(self, event_pk: int, upcoming: Callable[[], Iterable[int]] = tuple) -> Message:
        """Return what is sent of an event; what is sent of `upcoming` ones is brought along where it has to be read."""
        message = self._messages.get(event_pk)
        if message is None:
            ahead = (pk for pk in upcoming() if pk not in self._messages)
            found = await self._bodies.ask((event_pk, *ahead))
            message = found[event_pk]
            for pk, one in found.items():
                self._messages.put(pk, one)
        return message

    def _queued(self, deliveries: Sequence[QueuedDelivery]) -> None:
        self.feed.announce(DeliveriesQueued(deliveries))

    def _remember(self, publish: Publish) -> None:
        assert publish.event_pk is not None  # noqa: S101 - the writer tells of stored events alone
        event = publish.event
        if not publish.insists:  # an operational event is webhookd's own
            self._measures.accept(event)
        self._messages.put(
            publish.event_pk,
            Message(
                event_id=event.id,
                type=event.type,
                organization_id=event.organization_id,
                traceparent=event.traceparent,
                body=event.body,
            ),
        )

"""The store: queues, history and settings in one SQLite file, the journal.

    submit (one step) -> batch -> one transaction, synced -> results, callbacks, wake-ups

What was acknowledged is on disk. One connection writes and checkpoints, and a few only read; both kinds make their
blocking calls through a `Runner`. The store's own methods publish events, record attempts and read what actors need;
its parts (`webhooks`, `deliveries`, ...) have the methods for everything else. The `feed` passes on what each commit
has changed. Other packages use no SQL; of SQLite they know its version and the names of its files (`doctor`, metrics).
"""

from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from webhookd.base.clock import Clock
from webhookd.base.ids import IdFactory
from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    DeliveryStatus,
    Message,
    PublishResult,
    QueuedDelivery,
    Target,
)
from webhookd.journal.administration import AuditLog, EventTypes, KeptAnswers, Keys, MasterKeyState, Statistics
from webhookd.journal.errors import ConnectionLostError, DiskError, MustRepeatError
from webhookd.journal.feed import DatabaseReplaced, DeliveriesQueued, Feed
from webhookd.journal.history import Deliveries, Events, Replays
from webhookd.journal.messages import Messages
from webhookd.journal.node_rows import Driver, Nodes, NodeStatus, ServerFacts
from webhookd.journal.operations import Landed, Publish, Record, Ticket
from webhookd.journal.ownership import Fence
from webhookd.journal.planning import unreachable
from webhookd.journal.queries import census
from webhookd.journal.reader import Gathering, Readers, read_messages, read_windows
from webhookd.journal.retention import Retention
from webhookd.journal.rows import Census, Contents, CopyReport, Window, WindowRequest
from webhookd.journal.runners import Runner, ThreadRunner
from webhookd.journal.server import Server, check_driver
from webhookd.journal.sessions import Sessions
from webhookd.journal.sqlite.storage import open_file
from webhookd.journal.storage import Engine
from webhookd.journal.transactions import Transactions
from webhookd.journal.webhooks import Webhooks
from webhookd.journal.writer import Writer
from webhookd.observe.measures import Measures

READERS = 3
READ_LIMIT_SECONDS = 5.0


@asynccontextmanager
async def open_store(
    place: Path | Server,
    *,
    clock: Clock,
    ids: IdFactory,
    write_runner: Runner | None = None,
    read_runner: Runner | None = None,
    max_bytes: int | None = None,
    measures: Measures | None = None,
) -> AsyncIterator["Store"]:
    """Open the journal in a file, or in a database on PostgreSQL, and create or migrate it if needed.

    A file is for this process only. Commits are counted in `measures`. Raises CommandError if another process has the
    file open or the database can't be reached, ConfigError without the driver of PostgreSQL, and JournalError if the
    journal can't be used.
    """
    write_runner = write_runner or ThreadRunner(1)
    feed = Feed()
    if isinstance(place, Path):
        opening: AbstractAsyncContextManager[Engine] = open_file(
            place,
            clock=clock,
            ids=ids,
            runner=write_runner,
            readers=READERS,
            read_limit_seconds=READ_LIMIT_SECONDS,
            max_bytes=max_bytes,
        )
    else:
        check_driver()
        # The driver takes memory that a journal in a file doesn't need.
        from webhookd.journal.postgres.engine import open_server  # noqa: PLC0415

        opening = open_server(place, clock=clock, ids=ids, feed=feed, runner=write_runner, readers=READERS)
    async with opening as engine:
        readers = Readers(engine.readers, read_runner or ThreadRunner(READERS))
        store = Store(engine, write_runner, readers, measures or Measures(), feed)
        try:
            yield store
        finally:
            if store.has_failed:
                engine.distrust()


class Store:
    """The store of a server, made by `open_store`; it writes while `run` runs."""

    def __init__(self, engine: Engine, write_runner: Runner, readers: Readers, measures: Measures, feed: Feed) -> None:
        self.path = engine.path
        self.ownership = engine.ownership
        self._engine = engine
        self._readers = readers
        self._measures = measures
        self._writer = Writer(engine, write_runner, self._remember, measures)
        self.feed = feed
        self.transactions = Transactions(self._writer, readers, engine, feed)
        self.webhooks = Webhooks(self.transactions)
        self.events = Events(self.transactions)
        self.deliveries = Deliveries(self.transactions)
        self.replays = Replays(self.transactions)
        self.event_types = EventTypes(self.transactions)
        self.keys = Keys(self.transactions)
        self.audit = AuditLog(self.transactions)
        self.kept_answers = KeptAnswers(self.transactions)
        self.statistics = Statistics(self.transactions)
        self.sessions = Sessions(self.transactions)
        self.master_key = MasterKeyState(self.transactions)
        self.retention = Retention(self.transactions)
        self._windows = Gathering(readers, read_windows)
        self._bodies = Gathering(readers, read_messages)
        self._messages = Messages(self._bodies.ask)
        feed.follow(DatabaseReplaced, lambda _: self._messages.forget())

    @property
    def is_shared(self) -> bool:
        """Whether other processes may use the journal, too."""
        return self.transactions.is_shared

    @property
    def queue_length(self) -> int:
        """How many operations wait for the next commit."""
        return self._writer.queue_length

    @property
    def has_failed(self) -> bool:
        """Whether the disk has failed or the file is damaged."""
        return self._writer.has_failed

    @property
    def windows_read(self) -> int:
        """How many windows actors have requested."""
        return self._windows.asked

    @property
    def is_full(self) -> bool:
        """Whether the disk is full."""
        return self._writer.is_full

    @property
    def is_reachable(self) -> bool:
        """Whether the server of the database has answered last; always, for a file."""
        return self._engine.is_reachable

    @property
    def days_ahead(self) -> int | None:
        """For how many days after today the database has partitions, as far as known; None for a file.

        Fewer than three are worth an alert: nodes make a week's.
        """
        return self._engine.days_ahead

    @property
    def is_current(self) -> bool:
        """Whether this process knows what other nodes changed until some seconds ago, such as keys they revoked."""
        return self._engine.is_current

    async def follow_changes(self) -> None:
        """Have the feed pass on all that other nodes have changed by now.

        Raises Rejected JOURNAL_UNREACHABLE, and ReadTimeoutError.
        """
        try:
            await self._engine.follow_changes()
        except (ConnectionLostError, MustRepeatError) as error:
            raise unreachable() from error

    @property
    def is_at_bound(self) -> bool:
        """Whether the file has reached `max_bytes`, so that events are refused."""
        return self._writer.is_at_bound

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Write and read until canceled; then commit what was submitted, and checkpoint.

        Raises JournalError if the disk fails: from then on no answer of the journal can be trusted.
        """
        async with trio.open_nursery() as around:
            await around.start(self._engine.run)
            try:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._windows.run)
                    nursery.start_soon(self._bodies.run)
                    nursery.start_soon(self._watch_readers)
                    if self._engine.is_remote:
                        nursery.start_soon(self._writer.watch_outages)
                    await nursery.start(self._writer.run)
                    task_status.started()
            finally:
                self._engine.stop()

    async def _watch_readers(self) -> None:
        try:
            await self._readers.watch()
        except DiskError as error:
            self._writer.fail(error)
            raise

    async def back_up(self, file: Path, *, replace: bool, report: CopyReport) -> Contents:
        """Copy the journal to a file while it is in use, verify the copy and return what it contains.

        Raises CommandError if the file can't be written, and JournalError if the copy is damaged.
        """
        return await self._engine.back_up(file, replace=replace, report=report)

    def requeued(self, endpoint_pk: int) -> None:
        """Note that something in an endpoint's queue was changed: the process that drives it is told."""
        self._engine.requeued(endpoint_pk)

    def holding_changes(self) -> AbstractAsyncContextManager[None]:
        """Have the feed pass on nothing that other nodes change until the block ends, in which nothing is written.

        What is read of settings in the block is then not older than what the feed has passed on.
        """
        return self._engine.holding_changes()

    async def tell_keys(self, key_ids: Sequence[str]) -> None:
        """Tell the other nodes the ids of the master keys that this one has in its files; call it again and again."""
        await self._engine.tell_keys(key_ids)

    async def give_back(self, slots: frozenset[int]) -> None:
        """Let other nodes drive the endpoints of slots that were asked back: nothing of theirs is in flight."""
        await self._engine.give_back(slots)

    def cut_log(self) -> None:
        """Empty the write-ahead log soon: it still contains what has been overwritten in the file."""
        self._writer.cut_log()

    def end_reads(self) -> None:
        """Abort running queries and refuse new ones: the server is stopping."""
        self._engine.end_reads()

    async def room(self, flow: Hashable = None) -> None:
        """Wait until an event can be published in a flow.

        Raises Rejected JOURNAL_FULL if the disk is full or there is no room within 10 s, and SHUTTING_DOWN.
        """
        await self._writer.room(flow)

    def has_room(self, flow: Hashable) -> bool:
        """Whether `room` would return or raise at once."""
        return self._writer.has_room(flow)

    def refuse_events(self) -> None:
        """Refuse all events from now on."""
        self._writer.refuse_events()

    def publish(
        self,
        event: AcceptedEvent,
        targets: tuple[Target, ...],
        *,
        aim: Callable[[], tuple[Target, ...]] | None = None,
        flow: Hashable = None,
        may_repeat: bool = True,
    ) -> Ticket[PublishResult]:
        """Submit an event with its deliveries; the ticket raises Rejected CONFLICT, JOURNAL_FULL or SHUTTING_DOWN.

        Events of one `flow` are stored in their order; flows take turns. If `may_repeat` is false, the id is known to
        be new. `aim` finds the targets again, if another process has changed settings before the commit.
        """
        operation = Publish(
            event,
            targets,
            self._queued,
            flow=flow,
            insists=False,
            may_repeat=may_repeat,
            as_of=self._engine.changes_known,
            aim=aim,
        )
        self._writer.submit(operation)
        return operation.ticket

    def notice(
        self, event: AcceptedEvent, targets: tuple[Target, ...], aim: Callable[[], tuple[Target, ...]] | None = None
    ) -> Publish:
        """Return an operational event, to be submitted together with the record or change that it is about."""
        return Publish(
            event,
            targets,
            self._queued,
            flow=None,
            insists=True,
            may_repeat=False,
            as_of=self._engine.changes_known,
            aim=aim,
        )

    def record(
        self, record: AttemptRecord, notices: Sequence[Publish] = (), *, fence: Fence | None = None, landed: Landed
    ) -> None:
        """Submit an attempt, the resulting state of its delivery and endpoint, and the operational events about it.

        `landed` is called later: without an error once all of it is on disk, with FencedError if another process drives
        the endpoint by now. If the writer has stopped, it is called at once, during this call: with Rejected
        SHUTTING_DOWN, or with the error that ended the writer. `fence` is what `ownership` returned when the delivery
        was taken.
        """
        self._writer.submit(Record(record, notices, landed, fence))

    async def take_census(self) -> Census:
        """Count queued deliveries, and webhooks by state, for the metrics; it scans whole indexes."""
        return await self.transactions.read(census.take)

    @property
    def node_status(self) -> NodeStatus | None:
        """What this process knows of itself as a node, or None if the journal is its alone."""
        return self._engine.node_status

    async def read_nodes(self) -> Nodes | None:
        """Return the nodes that share the journal, or None if it is this process's alone."""
        return await self.transactions.read(self._engine.read_nodes) if self._engine.is_remote else None

    async def read_drivers(self, endpoint_pks: Sequence[int]) -> Mapping[int, Driver]:
        """Return the nodes that drive endpoints, by the row number of each; nothing if the journal is a file."""
        if not self._engine.is_remote:
            return {}
        return await self.transactions.read(self._engine.read_drivers, endpoint_pks)

    async def read_server(self) -> ServerFacts | None:
        """Return how the server of the database is set up, and what is under way on it; None for a file."""
        return await self.transactions.read(self._engine.read_server) if self._engine.is_remote else None

    async def window(self, request: WindowRequest) -> Window:
        """Return a window of an endpoint's queue, read after this call."""
        ticket: Ticket[Window] = Ticket()
        self._windows.ask(request, lambda window: [partial(ticket.settle, window)])
        return await ticket.wait()

    def take_message(self, delivery: QueuedDelivery) -> Message | None:
        """Return what an attempt of a delivery sends, if it is in memory; after a first attempt it may be let go."""
        return self._messages.take(delivery.event_pk, is_first_attempt=not delivery.attempts)

    def read_message(
        self, event_pk: int, upcoming: Callable[[], Iterable[int]], got: Callable[[Message | Exception], None]
    ) -> None:
        """Read what an attempt sends of an event, and call `got` with it; messages of `upcoming` events are kept."""
        self._messages.read(event_pk, upcoming, got)

    def _queued(self, deliveries: Sequence[QueuedDelivery]) -> None:
        self._engine.queued(deliveries)
        self.feed.announce(DeliveriesQueued(deliveries))

    def _remember(self, publish: Publish) -> None:
        assert publish.event_pk is not None  # noqa: S101 - the writer passes on stored events only
        if not publish.insists:  # one that insists is an operational event, which isn't counted
            self._measures.accept(publish.event)
        owns = self.ownership.owns
        first_attempts = sum(
            each.status is DeliveryStatus.PENDING and owns(each.endpoint_pk) for each in publish.queued
        )
        self._messages.published(publish.event_pk, publish.event, first_attempts)

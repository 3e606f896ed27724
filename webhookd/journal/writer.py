"""The one writer: group commit without added delay, with fair turns for all who submit.

Operations that are submitted while a batch is being written go into the next batch. Submitting is one synchronous step.
After the commit, on the event loop and in the order of the batch, each operation gets its result, its `committed`
callback runs, and its waiters wake (see `results`). A submitter that stops waiting doesn't cancel its operation.

A batch is bounded by the cost of its rows, and submitters take turns in it (see `fair_queue`): an event waits for the
batch that is being written and for its turn in the next one, however much other producers have submitted. An event and
all its deliveries are one transaction, however many there are. A producer may have only so much waiting; then it waits
for `room`.

While the disk is full, events and changes are refused, because their submitters can repeat them. Attempts, and changes
that time has caused, can't be repeated: they are written into the reserve, and those that don't fit there are kept in
memory until they do. Events are accepted again within half a second after the reserve could be made whole. Events also
wait while a reader of another program keeps the write-ahead log from being cut (see `write_ahead_log`), and are refused
if that lasts.

While the server of a database can't be reached, a commit waits for it, and what is submitted waits behind it. After
10 s all of it that can be submitted again is refused, until the server is back.

An error of the disk itself is final, because after a failed fsync the next one would wrongly succeed: `run` raises
JournalError, all waiters get it too, and the process ends.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import partial

import trio

from webhookd.base.errors import ErrorCode, JournalError, ReadTimeoutError, Rejected
from webhookd.journal.errors import ConnectionLostError, MustRepeatError, StaleTargetsError
from webhookd.journal.fair_queue import FairQueue
from webhookd.journal.operations import DatabaseCall, Publish, Submission, is_kept
from webhookd.journal.planning import full, unreachable
from webhookd.journal.results import Results, StoredCallback
from webhookd.journal.runners import Runner
from webhookd.journal.storage import Engine
from webhookd.observe.logs import get_logger
from webhookd.observe.measures import Measures

MAX_BATCH_COST = 1024  # such as 1,000 events without deliveries, or 500 deliveries: 10 ms without the sync
MAX_BATCH_BYTES = 4 * 1024 * 1024
MAX_QUEUED = 20_000
MAX_QUEUED_BYTES = 64 * 1024 * 1024
MAX_LANE_COST = 4 * MAX_BATCH_COST
MAX_LANE_BYTES = 2 * MAX_BATCH_BYTES
PATIENCE_SECONDS = 10.0
FULL_PAUSE_SECONDS = 0.5
LONG_LOG_PAUSE_SECONDS = 0.1
FOLLOW_PAUSE_SECONDS = 0.1
OUTAGE_LOOK_SECONDS = 0.5

_log = get_logger("journal")


class Writer:
    """Takes operations at any time and commits them in batches while `run` runs."""

    def __init__(
        self,
        engine: Engine,
        runner: Runner,
        stored: StoredCallback,
        measures: Measures,
    ) -> None:
        self.is_full = False
        self.is_at_bound = False  # whether the last commit found `max_bytes` reached
        self._engine = engine
        self._storage = engine.storage
        self._runner = runner
        self._measures = measures
        self._results = Results(stored, measures)
        self._queue = FairQueue()
        self._submitted = trio.Event()
        self._drained = trio.Event()
        self._is_stuck = False  # something is kept that doesn't fit into the reserve either
        self._held_since: float | None = None  # since when events wait for the log to be cut; None: they don't
        self._refusal: Rejected | None = None
        self._outage: Rejected | None = None  # why nothing is taken while the server of the database can't be reached
        self._writing: Sequence[Submission] = ()
        self._failure: Exception | None = None

    @property
    def has_failed(self) -> bool:
        """Whether the file can no longer be trusted."""
        return isinstance(self._failure, JournalError)

    @property
    def queue_length(self) -> int:
        """How many operations wait for the next batch."""
        return len(self._queue)

    def refuse_events(self) -> None:
        """Refuse all events from now on: the server is stopping."""
        self._refusal = Rejected(
            ErrorCode.SHUTTING_DOWN,
            "the server is stopping; send the event again when it is back",
            retry_after_seconds=5,
        )
        self._storage.hurry()
        self._drained.set()

    async def room(self, flow: Hashable) -> None:
        """Wait until an event can be submitted in a flow; raises Rejected if the disk is full or it takes over 10 s."""
        if self._has_room(flow):
            return
        with trio.move_on_after(PATIENCE_SECONDS):
            while not self._has_room(flow):
                await self._drained.wait()
            return
        raise full()

    def has_room(self, flow: Hashable) -> bool:
        """Whether `room` would return or raise at once."""
        refuses = self._refusal or self._outage or self._failure
        return refuses is not None or self.is_full or self._has_room(flow)

    def cut_log(self) -> None:
        """Empty the write-ahead log after the next commit, which is made at once."""
        self._storage.cut_log_soon()
        self._submitted.set()

    def submit(self, operation: Submission) -> None:
        """Queue an operation, to be written in its turn."""
        if self._failure is not None:
            operation.fail(self._failure)
        else:
            self._queue.put(operation)
            self._submitted.set()

    def fail(self, error: JournalError) -> None:
        """Write nothing from now on: the file can't be trusted."""
        self._fail_all(error)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what is submitted until canceled, then what is left; raises JournalError if the disk fails."""
        try:
            if not await self._runner.run(self._storage.make_room):
                self._become_full()
            task_status.started()
            while True:
                await self._wait()
                with trio.CancelScope(shield=True):
                    await self._commit_next()
        except Exception as error:
            self._fail_all(error)
            raise
        finally:
            if self._failure is None:
                with trio.CancelScope(shield=True):
                    await self._finish()

    async def watch_outages(self) -> None:
        """Refuse what can be submitted again while the server of the database can't be reached for over 10 s."""
        while True:
            if not (self._queue or self._writing or self._outage):
                await self._submitted.wait()
            await trio.sleep(OUTAGE_LOOK_SECONDS)
            if self._storage.outage_seconds <= PATIENCE_SECONDS:
                self._outage = None
                continue
            if self._outage is None:
                _log.error("journal.unreachable", server=self._storage.name)
                self._outage = unreachable()
                self._wake_waiting()
            queue, self._queue = [*self._queue.in_order()], FairQueue()
            for operation in queue:
                if is_kept(operation):
                    self._queue.put(operation)
            # What is being written may turn out to be committed: who sends an event again learns of it by its id.
            for operation in [*self._writing, *queue]:
                if not is_kept(operation) and not operation.is_done:
                    operation.fail(self._outage)

    async def _wait(self) -> None:
        """Wait until there is something to do: until something is submitted, or until it is time to look for room."""
        if self.is_full:
            # An operation that is kept would not find room at once.
            may_begin = trio.Event() if self._is_stuck else self._submitted
            with trio.move_on_after(FULL_PAUSE_SECONDS):
                await may_begin.wait()
        elif self._is_holding_back:
            # What is submitted meanwhile goes into one commit, which adds less to the log than several.
            await trio.sleep(LONG_LOG_PAUSE_SECONDS)
        else:
            await self._submitted.wait()

    async def _finish(self) -> None:
        self.refuse_events()
        self._is_stuck = False  # what was submitted since may find room
        try:
            while self._queue and not self._is_stuck:
                await self._commit_next()
            self._fail_all(Rejected(ErrorCode.SHUTTING_DOWN, "the server has stopped", retry_after_seconds=5))
            await self._runner.run(self._storage.finish)
        except Exception as error:
            self._fail_all(error)
            raise

    def _has_room(self, flow: Hashable) -> bool:
        if self._refusal is not None:
            raise self._refusal
        if self._outage is not None:
            raise self._outage
        if self._failure is not None or self.is_full:
            raise full()
        if self._held_since is not None:
            return False
        cost, size = self._queue.waiting_in(flow)
        if not cost:
            return True  # however much is waiting in other flows
        if cost >= MAX_LANE_COST or size >= MAX_LANE_BYTES:
            return False
        return len(self._queue) < MAX_QUEUED and self._queue.size < MAX_QUEUED_BYTES

    @property
    def _is_holding_back(self) -> bool:
        """Whether events wait for the log to be cut; they don't while the server is stopping."""
        return self._held_since is not None and self._refusal is None

    def _take(self) -> list[Submission]:
        """Take the next batch out of the queue; while the log is long, without events, which wait."""
        if self._is_holding_back:
            assert self._held_since is not None  # noqa: S101 - that is what holds them back
            is_over = trio.current_time() - self._held_since > PATIENCE_SECONDS
            if is_over or self._queue.holds_barrier:
                # A barrier can't wait for events: those before it are refused, and may be submitted again.
                self._refuse(self._queue.drop_events(behind=is_over))
        batch = self._queue.take(MAX_BATCH_COST, MAX_BATCH_BYTES, events=not self._is_holding_back)
        if not self._queue:
            self._submitted = trio.Event()
        return batch

    async def _commit_next(self) -> None:
        if self.is_full:
            await self._commit_without_room()
            return
        left = await self._commit_together(self._take(), self._storage.commit)
        if left:
            self._put_back(left)
            self._measures.commits_without_room += 1
            self._become_full()
            await self._commit_without_room()
            return
        self._note_log_length()
        self._note_bound()
        self._wake_waiting()

    async def _commit_without_room(self) -> None:
        """Refuse what can be submitted again, write the rest into the reserve, and check for room."""
        queue, self._queue = [*self._queue.in_order()], FairQueue()
        self._submitted = trio.Event()
        self._refuse([operation for operation in queue if not is_kept(operation)])
        kept = [operation for operation in queue if is_kept(operation)]
        left = await self._commit_together(kept, self._storage.commit_what_fits) if kept else ()
        self._is_stuck = bool(left)
        if left:
            self._put_back(left)
        elif await self._runner.run(self._storage.make_room):
            self.is_full = False
            _log.info("journal.has_room")
        self._wake_waiting()

    async def _commit_together(
        self, batch: Sequence[Submission], write: Callable[[Sequence[Submission]], Sequence[Submission]]
    ) -> Sequence[Submission]:
        """Commit in the writer's thread and pass on the results; return what found no room."""
        began_at = trio.current_time()
        self._writing = batch
        try:
            left = await self._write(batch, write)
            self._writing = ()
            without_room = set(left)
            committed = [operation for operation in batch if operation not in without_room] if left else batch
            if committed:
                self._measures.committed(len(committed), trio.current_time() - began_at)
            await self._results.pass_on(committed)
        except Exception as error:
            # Also after a bug: a waiter that is shielded from cancellation would keep the process from ending.
            for operation in batch:
                if not operation.is_done:
                    operation.fail(error)
            raise
        return left

    async def _write(
        self, batch: Sequence[Submission], write: Callable[[Sequence[Submission]], Sequence[Submission]]
    ) -> Sequence[Submission]:
        """Commit in the writer's thread; events whose targets were found too early get new ones first."""
        while True:
            try:
                return await self._runner.run(partial(write, batch))
            except StaleTargetsError as stale:
                await self._follow_changes()
                batch = stale.left
                for publish in (each for operation in batch for each in _publishes_of(operation)):
                    publish.as_of = self._engine.changes_known
                    if publish.aim is not None:
                        publish.targets = publish.aim()

    async def _follow_changes(self) -> None:
        """Follow what other nodes have changed, however long their database can't be reached."""
        while True:
            try:
                await self._engine.follow_changes()
            except (ConnectionLostError, MustRepeatError, ReadTimeoutError):
                if self._refusal is not None:  # the server is stopping
                    raise
                await trio.sleep(FOLLOW_PAUSE_SECONDS)
            else:
                return

    def _note_log_length(self) -> None:
        """Hold events back while a reader keeps the log long."""
        if self._storage.log_is_long and self._held_since is None:
            self._held_since = trio.current_time()
            _log.warning("journal.log_is_long", bytes=self._storage.log_bytes)
        elif not self._storage.log_is_long and self._held_since is not None:
            self._held_since = None
            _log.info("journal.log_is_cut")

    def _note_bound(self) -> None:
        if self._storage.is_above_bound != self.is_at_bound:
            self.is_at_bound = self._storage.is_above_bound
            if self.is_at_bound:
                _log.error("journal.at_max_bytes", path=self._storage.name)
            else:
                _log.info("journal.below_max_bytes")

    def _become_full(self) -> None:
        self.is_full = True
        _log.error("journal.full", path=self._storage.name)

    def _wake_waiting(self) -> None:
        self._drained.set()
        self._drained = trio.Event()

    def _refuse(self, operations: Iterable[Submission]) -> None:
        for operation in operations:
            operation.fail(full())

    def _put_back(self, operations: Sequence[Submission]) -> None:
        self._queue.put_back(operations)
        self._submitted.set()

    def _fail_all(self, error: Exception) -> None:
        self._failure = error
        waiting, self._queue = self._queue, FairQueue()
        for operation in waiting.in_order():
            operation.fail(error)
        self._drained.set()


def _publishes_of(operation: Submission) -> Sequence[Publish]:
    """Return the events of an operation whose targets are known before the commit."""
    match operation:
        case Publish():
            return (operation,)
        case DatabaseCall():
            return ()
        case _:
            return operation.notices

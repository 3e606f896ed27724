"""The one writer: group commit without added delay.

Whatever is submitted while a batch is on its way to the disk forms the next one. Submitting is one synchronous step;
after the commit, on the loop and in order of submission, each operation gets its result, its `committed` callback runs,
and whoever waits is woken. Nobody's giving up takes an operation back.

A disk that is full refuses events and changes, which their submitters can repeat; attempts and what time has done can't
be repeated and are kept until there is room. An error of the disk itself is final: after a failed fsync the next one
would succeed and lie, so `run` raises JournalError, everybody who waits gets it too, and the process ends.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from traceback import clear_frames
from typing import Protocol

import trio
from peewee import Database

from webhookd.errors import ErrorCode, Rejected, WebhookdError
from webhookd.journal.batch import Batches, full
from webhookd.journal.database import BUSY_TIMEOUT_SECONDS, JournalFullError, is_logic_error, translated
from webhookd.journal.operations import Operation, Publish, Record
from webhookd.journal.runners import Runner
from webhookd.logs import get_logger
from webhookd.metrics import Measures

MAX_BATCH = 2000
MAX_QUEUED = 20_000
MAX_QUEUED_BYTES = 64 * 1024 * 1024
PATIENCE_SECONDS = 10.0
FULL_PAUSE_SECONDS = 1.0
WAL_TRUNCATE_BYTES = 64 * 1024 * 1024

_log = get_logger("journal")


class Published(Protocol):
    """Hears of each event that was stored, with its row number, before anyone else does."""

    def __call__(self, publish: Publish) -> None:
        """Take note of the event; called on the loop."""
        ...


class Writer:
    """Takes operations at any time and commits them in batches while `run` runs."""

    def __init__(
        self,
        database: Database,
        path: Path,
        batches: Batches,
        runner: Runner,
        published: Published,
        *,
        measures: Measures,
    ) -> None:
        self.is_full = False
        self._database = database
        self._path = path
        self._wal = path.with_name(path.name + "-wal")
        self._batches = batches
        self._runner = runner
        self._published = published
        self._measures = measures
        self._queue: list[Operation] = []
        self._queued_bytes = 0
        self._submitted = trio.Event()
        self._drained = trio.Event()
        self._cuts_log = False
        self._refusal: Rejected | None = None
        self._failure: Exception | None = None

    @property
    def queue_length(self) -> int:
        """How many operations wait for the next batch."""
        return len(self._queue)

    def refuse_events(self) -> None:
        """Take no more events from now on: the server is stopping."""
        self._refusal = Rejected(
            ErrorCode.SHUTTING_DOWN,
            "the server is stopping; send the event again when it is back",
            retry_after_seconds=5,
        )
        self._drained.set()

    async def room(self) -> None:
        """Return when an event can be submitted; Rejected where that won't be soon."""
        if self._has_room():
            return
        with trio.move_on_after(PATIENCE_SECONDS):
            while not self._has_room():
                await self._drained.wait()
            return
        raise full()

    def cut_log(self) -> None:
        """Have the write-ahead log emptied after the next commit, which comes at once."""
        self._cuts_log = True
        self._submitted.set()

    def submit(self, operation: Operation) -> None:
        """Put an operation into the next batch."""
        if self._failure is not None:
            operation.ticket.fail(self._failure)
            return
        self._queue.append(operation)
        if isinstance(operation, Publish):
            self._queued_bytes += len(operation.event.body)
        self._submitted.set()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Commit what is submitted until canceled, then what is left; JournalError where the disk fails."""
        task_status.started()
        try:
            while True:
                await self._submitted.wait()
                with trio.CancelScope(shield=True):
                    await self._commit_next()
        except Exception as error:
            self._fail_all(error)
            raise
        finally:
            if self._failure is None:
                with trio.CancelScope(shield=True):
                    await self._finish()

    async def _finish(self) -> None:
        self.refuse_events()
        try:
            while self._queue:
                await self._commit_next()
                if self.is_full:  # still, or again: there is no room for what is left
                    break
            self._fail_all(Rejected(ErrorCode.SHUTTING_DOWN, "the server has stopped", retry_after_seconds=5))
            await self._runner.run(partial(self._checkpoint, "TRUNCATE"))
        except Exception as error:
            self._fail_all(error)
            raise

    def _has_room(self) -> bool:
        if self._refusal is not None:
            raise self._refusal
        if self._failure is not None:
            raise full()
        return len(self._queue) < MAX_QUEUED and self._queued_bytes < MAX_QUEUED_BYTES

    async def _commit_next(self) -> None:
        batch, self._queue = self._queue[:MAX_BATCH], self._queue[MAX_BATCH:]
        if not self._queue:
            self._submitted = trio.Event()
        self._queued_bytes -= sum(len(operation.event.body) for operation in batch if isinstance(operation, Publish))
        began_at = trio.current_time()
        try:
            left = await self._runner.run(partial(self._write, batch))
        except Exception as error:
            # A bug as well: whoever waits shielded would keep the process from ending.
            for operation in batch:
                operation.ticket.fail(error)
            raise
        committed = batch[: len(batch) - len(left)]
        if committed:
            self._measures.committed(len(committed), trio.current_time() - began_at)
        for operation in committed:
            self._settle(operation)
        if left:
            await self._sit_out(left)
            return
        if self.is_full:
            self.is_full = False
            _log.info("journal.has_room")
        self._drained.set()
        self._drained = trio.Event()

    def _write(self, batch: Sequence[Operation]) -> Sequence[Operation]:
        """Commit as `_commit` does, then cut the log where that is due."""
        left = self._commit(batch)
        if self._cuts_log or self._wal.stat().st_size > WAL_TRUNCATE_BYTES:
            try:
                # Not waiting for readers, which would keep everybody from the disk: it comes round again.
                self._database.execute_sql("PRAGMA busy_timeout = 0").fetchall()
                is_cut = self._checkpoint("TRUNCATE")
                self._cuts_log = self._cuts_log and not is_cut
            except JournalFullError:
                # It takes nothing back of what was committed, and is tried again after the next commit.
                self._cuts_log = True
            finally:
                self._database.execute_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}").fetchall()
        return left

    def _commit(self, batch: Sequence[Operation]) -> Sequence[Operation]:
        """Commit the operations in their order; return those, at the end, for which there was no room."""
        try:
            with translated(self._path):
                self._batches.commit(batch)
        except JournalFullError:
            return batch
        except Exception as error:
            if not is_logic_error(error):
                raise
            if len(batch) == 1:
                clear_frames(error.__traceback__)  # as for a change that was refused
                batch[0].error = error
                return ()
            # One operation has broken a rule of the tables, which is a bug; it must not take the others with it.
            for number, operation in enumerate(batch):
                if self._commit([operation]):
                    return batch[number:]
        return ()

    def _checkpoint(self, mode: str) -> bool:
        """Put the log into the file; return whether all of it went, with no reader in the way."""
        with translated(self._path):
            [[is_blocked, _, _]] = self._database.execute_sql(f"PRAGMA wal_checkpoint({mode})").fetchall()
        return not is_blocked

    async def _sit_out(self, batch: Sequence[Operation]) -> None:
        """Refuse what can be submitted again, keep the rest, and wait a moment for room."""
        self._measures.commits_without_room += 1
        if not self.is_full:
            self.is_full = True
            _log.error("journal.full", path=str(self._path))
        kept = [operation for operation in batch if _is_kept(operation)]
        for operation in batch:
            if not _is_kept(operation):
                operation.ticket.fail(full())
        self._queue[:0] = kept
        self._queued_bytes += sum(len(operation.event.body) for operation in kept if isinstance(operation, Publish))
        if self._queue:
            self._submitted.set()
        await trio.sleep(FULL_PAUSE_SECONDS)

    def _settle(self, operation: Operation) -> None:
        if operation.error is not None:
            if not isinstance(operation.error, WebhookdError):
                _log.error("journal.operation_failed", exc_info=operation.error)
            operation.ticket.fail(operation.error)
            return
        if isinstance(operation, Record):
            operation.ticket.succeed(None)
        elif isinstance(operation, Publish):
            assert operation.result is not None  # noqa: S101 - there was no error
            if operation.event_pk is not None:
                self._published(operation)
            else:
                self._measures.duplicates += 1
            operation.committed(operation.queued)
            operation.ticket.succeed(operation.result)
        else:
            if operation.committed is not None:
                operation.committed(operation.result)
            operation.ticket.succeed(operation.result)

    def _fail_all(self, error: Exception) -> None:
        self._failure = error
        waiting, self._queue = self._queue, []
        for operation in waiting:
            operation.ticket.fail(error)
        self._drained.set()


def _is_kept(operation: Operation) -> bool:
    """Whether nobody could submit it again: an attempt was made, a moment has passed."""
    return isinstance(operation, Record) or operation.insists

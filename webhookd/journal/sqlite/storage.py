"""The journal in one SQLite file: its one writing connection, its log and its reserve."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from functools import partial
from pathlib import Path

import trio
from peewee import Database

from webhookd.base.clock import Clock
from webhookd.base.ids import IdFactory
from webhookd.base.models import QueuedDelivery
from webhookd.journal.errors import JournalFullError
from webhookd.journal.node_rows import Driver, Nodes, ServerFacts
from webhookd.journal.operations import NO_CHANGE, ChangeMark, Submission
from webhookd.journal.ownership import Everything
from webhookd.journal.rows import Contents, CopyReport
from webhookd.journal.runners import Runner
from webhookd.journal.sqlite.backup import back_up
from webhookd.journal.sqlite.batch import Batches
from webhookd.journal.sqlite.database import (
    ReadLimit,
    SqliteReader,
    exclusive_lock,
    is_logic_error,
    leave_log,
    open_writer,
    translated,
)
from webhookd.journal.sqlite.reserve import Reserve
from webhookd.journal.sqlite.write_ahead_log import WriteAheadLog
from webhookd.journal.storage import Lead, commit_each, commit_in_order


class SqliteStorage:
    """The file as a `Storage`."""

    outage_seconds = 0.0

    def __init__(self, path: Path, batches: Batches, log: WriteAheadLog, reserve: Reserve) -> None:
        self.name = str(path)
        self._path = path
        self._batches = batches
        self._log = log
        self._reserve = reserve

    @property
    def is_above_bound(self) -> bool:
        """Whether the last commit found the file larger than `max_bytes`."""
        return self._batches.is_above_bound

    @property
    def log_is_long(self) -> bool:
        """Whether a reader of another program keeps the log from being cut."""
        return self._log.is_long

    @property
    def log_bytes(self) -> int:
        """The size of the log's file."""
        return self._log.size_bytes

    def hurry(self) -> None:
        """Do nothing: a file is always there."""

    def cut_log_soon(self) -> None:
        """Cut the log after the next commit, whatever its length."""
        self._log.cut_soon()

    def make_room(self) -> bool:
        """Make the reserve in full size; return False if the disk has no room for it."""
        return self._reserve.make()

    def commit(self, batch: Sequence[Submission]) -> Sequence[Submission]:
        """Commit a batch, then cut the log if it is due; return what found no room."""
        left = self._commit(batch) if batch else ()
        self._log.after_commit()
        return left

    def commit_what_fits(self, batch: Sequence[Submission]) -> Sequence[Submission]:
        """Release the reserve and commit what fits: all at once, or else one operation after another."""
        self._reserve.release()
        left = self._commit(batch)
        if left:
            # That makes room: the pages of the log go into the file.
            self._log.cut()
            left = commit_each(left, self._commit)
        self._log.after_commit()
        return left

    def finish(self) -> None:
        """Cut the log, so that the file has everything."""
        self._log.cut()

    def _commit(self, batch: Sequence[Submission]) -> Sequence[Submission]:
        return commit_in_order(batch, self._commit_together, is_logic_error)

    def _commit_together(self, batch: Sequence[Submission]) -> None:
        with translated(self._path):
            self._batches.commit(batch)


class SqliteEngine:
    """An open journal in a file."""

    is_remote = False
    is_reachable = True
    node_status = None
    is_current = True
    changes_known = NO_CHANGE
    ownership = Everything()
    process = ""
    sharing = None
    leftovers = ()
    days_ahead = None

    def __init__(
        self,
        path: Path,
        database: Database,
        storage: SqliteStorage,
        *,
        readers: Sequence[SqliteReader],
        limit: ReadLimit,
        runner: Runner,
    ) -> None:
        self.path = path
        self.storage = storage
        self.readers = readers
        self._database = database
        self._limit = limit
        self._runner = runner

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Return: the file is locked for this process."""
        task_status.started()

    async def drop_old(self, before: float, lead: Lead) -> None:
        """Do nothing: what is deleted leaves nothing."""

    def stop(self) -> None:
        """Do nothing."""

    def announced(self, before: ChangeMark, change: ChangeMark) -> None:
        """Do nothing: no other process needs it."""

    def queued(self, deliveries: Sequence[QueuedDelivery]) -> None:
        """Do nothing."""

    def requeued(self, endpoint_pk: int) -> None:
        """Do nothing."""

    async def follow_changes(self) -> None:
        """Do nothing: no other process makes any."""

    def read_nodes(self, database: Database) -> Nodes | None:  # noqa: ARG002 - there is nothing to read
        """Return None."""
        return None

    def read_drivers(self, database: Database, endpoint_pks: Sequence[int]) -> Mapping[int, Driver]:  # noqa: ARG002 - as above
        """Return nothing."""
        return {}

    def read_server(self, database: Database) -> ServerFacts | None:  # noqa: ARG002 - as above
        """Return None."""
        return None

    def holding_changes(self) -> AbstractAsyncContextManager[None]:
        """Do nothing: no other process makes any."""
        return nullcontext()

    async def tell_keys(self, key_ids: Sequence[str]) -> None:
        """Do nothing."""

    async def give_back(self, slots: frozenset[int]) -> None:
        """Do nothing: no other process could take them."""

    def end_reads(self) -> None:
        """Abort running queries and refuse new ones: the server is stopping."""
        self._limit.end()

    async def back_up(self, file: Path, *, replace: bool, report: CopyReport) -> Contents:
        """Copy the journal to a file while it is in use, verify the copy and return what it contains.

        Raises CommandError if the file can't be written, and JournalError if the copy is damaged.
        """
        return await back_up(self._database, self._runner, file, replace=replace, report=report)

    def distrust(self) -> None:
        """Leave the log unchanged when the file is closed: the disk has failed."""
        leave_log(self._database)


@asynccontextmanager
async def open_file(
    path: Path,
    *,
    clock: Clock,
    ids: IdFactory,
    runner: Runner,
    readers: int,
    read_limit_seconds: float,
    max_bytes: int | None,
) -> AsyncIterator[SqliteEngine]:
    """Open a journal's file for this process only, and create or migrate it if needed.

    Raises CommandError if another process has it open, and JournalError if the file can't be used.
    """
    with exclusive_lock(path), ExitStack() as stack:
        reserve = Reserve(path)
        try:
            database = await runner.run(partial(open_writer, path, now=clock.now()))
        except JournalFullError:
            await runner.run(reserve.release)
            database = await runner.run(partial(open_writer, path, now=clock.now()))
        stack.callback(database.close)
        limit = ReadLimit(read_limit_seconds)
        opened: list[SqliteReader] = []
        for _ in range(readers):
            opened.append(SqliteReader(path, limit))
            stack.callback(opened[-1].close)
        storage = SqliteStorage(path, Batches(database, ids, max_bytes), WriteAheadLog(database, path, limit), reserve)
        yield SqliteEngine(path, database, storage, readers=opened, limit=limit, runner=runner)

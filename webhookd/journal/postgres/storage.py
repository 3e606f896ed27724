"""The journal on PostgreSQL as a storage: transactions that are repeated until their outcome is known.

A batch is several transactions: one for the events and attempts between two changes, and one for each change, because a
change locks what others need. Each begins with the number of the writer's last transaction plus one, in a row of its
own. When the connection is lost during a commit, that number says whether it was committed, and only then is the
transaction repeated or reported. While the server can't be reached, a commit waits for it.
"""

import random
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from itertools import groupby
from traceback import clear_frames
from typing import Any

import psycopg
from peewee import PeeweeException
from psycopg import Connection

from webhookd.base.errors import ErrorCode, Rejected, WebhookdError
from webhookd.base.ids import IdFactory
from webhookd.base.stages import reached
from webhookd.journal.errors import (
    ConnectionLostError,
    DamagedDatabaseError,
    FencedError,
    JournalFullError,
    MustRepeatError,
    NoPartitionError,
    StaleKeyError,
    StaleTargetsError,
)
from webhookd.journal.operations import DatabaseCall, Record, Submission
from webhookd.journal.ownership import Fence
from webhookd.journal.postgres import changes
from webhookd.journal.postgres.batch import HotBatch
from webhookd.journal.postgres.database import PostgresDatabase, is_logic_error
from webhookd.journal.postgres.outages import OutageLog
from webhookd.journal.postgres.partitions import make_place
from webhookd.journal.storage import commit_each, commit_in_order
from webhookd.observe.logs import get_logger

_log = get_logger("journal")

MOST_TRIES = 10
_REPEAT_SECONDS = 0.005
_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.05, 1.0
_LAST_SECONDS = 5.0
"""How long a commit waits for a server that can't be reached once webhookd is stopping."""
_MARK = """
WITH marked AS (UPDATE writers SET number = %s WHERE node = %s AND writer = %s AND number = %s RETURNING 1)
SELECT 1 / count(*) FROM marked
"""
# A session that is gone to this process may still be committing on the server. The name tells it from one with its pid.
_END_SESSION = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE pid = %s AND application_name = %s
"""
# While this transaction holds the rows, no other node can take the slots: one that has taken one makes this fail.
_HOLD_SLOTS = """
SELECT 1 / (count(*) = %s)::int FROM (
    SELECT slots.slot FROM slots
    JOIN unnest(%s::bigint[], %s::bigint[]) AS known (slot, generation)
        ON known.slot = slots.slot AND known.generation = slots.generation
    WHERE split_part(slots.node, '.', 1) = %s ORDER BY slots.slot FOR SHARE OF slots
) AS held
"""
_FIND_SLOTS = "SELECT slot, generation FROM slots WHERE split_part(node, '.', 1) = %s AND slot = ANY(%s)"
_FIND_NUMBER = "SELECT number FROM writers WHERE node = %s AND writer = %s FOR UPDATE"
_KEEP_NUMBER = "INSERT INTO writers (node, writer, number) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING"
_TOUCH_NUMBER = "UPDATE writers SET number = number WHERE node = %s AND writer = %s"

_PART = "writer"


class PostgresStorage:
    """Where one writer commits, over a connection of its own.

    `connect` opens a connection, or raises ConnectionLostError. `is_used` says whether the database of a connection is
    still the one that this process uses.
    """

    is_above_bound = False
    log_is_long = False
    log_bytes = 0

    def __init__(
        self,
        name: str,
        connect: Callable[[], PostgresDatabase],
        ids: IdFactory,
        outages: OutageLog,
        *,
        process: str,
        writer: str,
        is_used: Callable[[PostgresDatabase], bool],
    ) -> None:
        self.name = name
        self._connect = connect
        self._is_used = is_used
        self._outages = outages
        self._database: PostgresDatabase | None = None
        self._ids = ids
        self._key = (process, writer)
        self._process = process
        self._number = 0
        # By table, the time before which rows have no partition and are kept elsewhere, as far as this process knows.
        self._kept_before: dict[str, float] = {}
        self._is_stopping = False
        self._unreachable_since: float | None = None

    @property
    def outage_seconds(self) -> float:
        """How long the server has not been reached; 0 if it was reached last."""
        since = self._unreachable_since
        return 0.0 if since is None else time.monotonic() - since

    def hurry(self) -> None:
        """Wait no longer than 5 s for a server that can't be reached."""
        self._is_stopping = True

    def cut_log_soon(self) -> None:
        """Do nothing: PostgreSQL keeps its log by itself."""

    def make_room(self) -> bool:
        """Return whether something can be written: a full disk takes no change of a row."""
        try:
            self._transact(self._touch, lambda _: None)
        except JournalFullError:
            return False
        return True

    def commit(self, batch: Sequence[Submission]) -> Sequence[Submission]:
        """Commit operations in order, in one transaction or several; return the last ones that found no room."""
        units = list(_units(batch))
        for number, unit in enumerate(units):
            later = [operation for each in units[number + 1 :] for operation in each]
            try:
                if left := commit_in_order(unit, self._commit_together, _is_its_own):
                    return [*left, *later]
            except StaleTargetsError as error:
                raise StaleTargetsError([*error.left, *later]) from error
        return ()

    def commit_what_fits(self, batch: Sequence[Submission]) -> Sequence[Submission]:
        """Commit one operation after another; return those for which there was no room."""
        return commit_each(batch, self.commit)

    def finish(self) -> None:
        """Close the connection."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _commit_together(self, unit: Sequence[Submission]) -> None:
        """Commit a unit in one transaction, without the operations about slots that other nodes have taken."""
        left = unit
        while left:
            try:
                self._commit_unit(left)
            except StaleTargetsError as error:
                raise StaleTargetsError(left) from error
            except FencedError:  # by `_MARK` or `_HOLD_SLOTS`
                left = self._without_fenced(left)
            else:
                return

    def _commit_unit(self, unit: Sequence[Submission]) -> None:
        hot = [operation for operation in unit if not isinstance(operation, DatabaseCall)]
        if hot:
            batch, fences = HotBatch(hot, self._ids, self._kept_before), _fences_of(hot)
            self._transact(partial(self._commit_hot, batch, fences), batch.read_back)
        for operation in unit:
            if isinstance(operation, DatabaseCall):
                self._transact(partial(self._call, operation), lambda _: None)

    def _without_fenced(self, unit: Sequence[Submission]) -> Sequence[Submission]:
        """Have the operations fail whose slots this process has lost; return the others."""
        held: set[Fence] = set()

        def look(database: PostgresDatabase) -> bool:
            connection = database.connection()
            slots = [fence.slot for fence in _fences_of(unit)]
            found = connection.execute(_FIND_SLOTS, (self._process, slots)).fetchall()
            held.update(Fence(slot, generation, database.incarnation) for slot, generation in found)
            [[self._number]] = connection.execute(_FIND_NUMBER, self._key).fetchall()
            return False

        self._transact(look, lambda _: None)
        left: list[Submission] = []
        for operation in unit:
            if held.issuperset(_fences_of([operation])):
                left.append(operation)
            else:
                operation.error = FencedError("another node drives this webhook by now")
        return left

    def _commit_hot(self, batch: HotBatch, fences: Collection[Fence], database: PostgresDatabase) -> bool:
        batch.commit(database.connection(), partial(self._begin, database, fences))
        reached("batch.committed")
        return True

    def _call(self, call: DatabaseCall, database: PostgresDatabase) -> bool:
        call.result = call.error = None
        call.notices = ()
        try:
            with database.atomic():
                connection = database.connection()
                self._begin(database, _fences_of([call]), connection)
                # Locked before all that the change locks.
                call.marks = None if call.announces is None else changes.take_mark(connection)
                call.result = call.change(database)
                if call.announces is not None and call.marks is not None:
                    changes.add(connection, *call.marks, call.announces(call.result))
                if call.notices_of is not None:
                    call.notices = call.notices_of(call.result)
                    if call.notices:
                        HotBatch(call.notices, self._ids, self._kept_before).publish(connection)
            reached("batch.committed")
        except (MustRepeatError, ConnectionLostError, NoPartitionError):
            raise
        except StaleKeyError as error:
            if not call.follows_key:
                call.follows_key = True
                raise StaleTargetsError(()) from error
            call.error = _without_key()
            return False
        except WebhookdError as error:
            clear_frames(error.__traceback__)
            call.error = error
            return False
        return True

    def _touch(self, database: PostgresDatabase) -> bool:
        with database.atomic():
            self._begin(database, (), database.connection())
        return True

    def _begin(self, database: PostgresDatabase, fences: Collection[Fence], connection: "Connection[Any]") -> None:
        """Write the number of this transaction, and hold the slots that it is about."""
        if any(fence.incarnation != database.incarnation for fence in fences):
            raise FencedError("the database was started again, or is another one")
        connection.execute(_MARK, (self._number + 1, *self._key, self._number))
        if fences:
            slots, generations, _ = zip(*fences, strict=True)
            connection.execute(_HOLD_SLOTS, (len(fences), list(slots), list(generations), self._process))

    def _transact(
        self, work: Callable[[PostgresDatabase], bool], found_committed: Callable[["Connection[Any]"], None]
    ) -> None:
        """Run a transaction until it is committed, or rolled back for an error of its own.

        `work` returns whether it has committed. `found_committed` is called with a new connection if the answer to the
        commit was lost with the old one. Raises MustRepeatError if others prevented it too often.
        """
        tries, pauses = 0, _pauses()
        lacking: NoPartitionError | None = None
        placed: set[tuple[str, float]] = set()
        while True:
            database = self._database or self._open()
            if not self._is_used(database):
                self._was_committed(database)  # nothing is under way: it makes a connection to the other database
                continue
            try:
                self._attempt(database, work, lacking)
            except NoPartitionError as error:
                _roll_back(database)
                lacking, row = error, (error.table, error.at)
                if row in placed:
                    raise MustRepeatError(str(error)) from error
                placed.add(row)
            except MustRepeatError:
                self._end_outage()
                _roll_back(database)
                tries += 1
                if tries == MOST_TRIES:
                    raise
                time.sleep(random.uniform(0, tries * _REPEAT_SECONDS))  # noqa: S311 - apart from the other one
            except DamagedDatabaseError as error:  # the server has rolled back, and may do better later
                _roll_back(database)
                self._wait(error, next(pauses))
            except ConnectionLostError as error:
                self._outages.failed(_PART, error)
                if self._was_committed(database):
                    assert self._database is not None  # noqa: S101 - it has just told so
                    self._end_outage()
                    found_committed(self._database.connection())
                    return
            except BaseException:
                self._end_outage()
                _roll_back(database)
                raise
            else:
                self._end_outage()
                return

    def _attempt(
        self, database: PostgresDatabase, work: Callable[[PostgresDatabase], bool], lacking: NoPartitionError | None
    ) -> None:
        if lacking is not None:
            self._find_place(database, lacking)
        with database.translated():
            self._number += work(database)

    def _find_place(self, database: PostgresDatabase, lacking: NoPartitionError) -> None:
        """Have a row find a place that had none: no partition was made in time, or retention has dropped its day."""
        kept_before = make_place(database, lacking.table, lacking.at)
        if kept_before is not None:
            self._kept_before[lacking.table] = kept_before
        _log.warning("journal.no_partition", table=lacking.table, at=lacking.at, is_made=kept_before is None)

    def _was_committed(self, lost: PostgresDatabase) -> bool:
        """Reconnect, and return whether the transaction that was under way on the lost connection was committed."""
        lost_session = (lost.backend_pid, lost.application_name)
        _drop(lost)
        pauses = _pauses()
        while True:
            database = self._open()
            try:
                with database.translated(), database.atomic():
                    database.connection().execute(_END_SESSION, lost_session)
                    # A database that was restored may not have the row.
                    database.connection().execute(_KEEP_NUMBER, (*self._key, self._number))
                    [[number]] = database.connection().execute(_FIND_NUMBER, self._key).fetchall()
                    # Committed with the same guarantee as the transaction itself: then what it found is true.
                    database.connection().execute(_TOUCH_NUMBER, self._key)
            except MustRepeatError:  # the old session may still hold the row
                _drop(database)
            except (ConnectionLostError, JournalFullError) as error:
                _drop(database)
                self._wait(error, next(pauses))
            else:
                was_committed = number == self._number + 1
                self._number = number
                return bool(was_committed)

    def _open(self) -> PostgresDatabase:
        """Return a new connection, however long the server can't be reached."""
        pauses = _pauses()
        while True:
            try:
                self._database = self._connect()
            except ConnectionLostError as error:
                self._wait(error, next(pauses))
            else:
                return self._database

    def _wait(self, error: WebhookdError, seconds: float) -> None:
        """Wait before another try, because the database is of no use now; raise `error` if that would take too long."""
        if self._unreachable_since is None:
            self._unreachable_since = time.monotonic()
        if self._is_stopping and self.outage_seconds > _LAST_SECONDS:
            raise error
        self._outages.failed(_PART, error)
        time.sleep(seconds)

    def _end_outage(self) -> None:
        self._unreachable_since = None
        self._outages.succeeded(_PART)


def _pauses() -> Iterator[float]:
    pause = _FIRST_PAUSE_SECONDS
    while True:
        yield pause
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _fences_of(operations: Iterable[Submission]) -> set[Fence]:
    found: set[Fence] = set()
    for operation in operations:
        if isinstance(operation, DatabaseCall):
            found.update(operation.fences)
        elif isinstance(operation, Record) and operation.fence is not None:
            found.add(operation.fence)
    return found


def _without_key() -> Rejected:
    return Rejected(
        ErrorCode.SHUTTING_DOWN,
        "this node doesn't have the master key that another one has changed to, and will stop",
        retry_after_seconds=5,
    )


def _is_its_own(error: Exception) -> bool:
    """Whether an error ends an operation: one of its statement, others prevented it too often, or it has no place."""
    return isinstance(error, MustRepeatError | Rejected) or is_logic_error(error)


def _roll_back(database: PostgresDatabase) -> None:
    """End the transaction that is open, if there is one; a connection that is lost has none."""
    with suppress(psycopg.Error):
        database.connection().rollback()


def _drop(database: PostgresDatabase) -> None:
    with suppress(PeeweeException, psycopg.Error):
        database.close()


def _units(batch: Sequence[Submission]) -> Iterator[list[Submission]]:
    """Yield what is one transaction each: events and attempts in a row, or one change."""
    for is_call, group in groupby(batch, key=lambda operation: isinstance(operation, DatabaseCall)):
        if is_call:
            yield from ([call] for call in group)
        else:
            yield list(group)

"""What the writer and the readers need of an engine: where batches are committed, and where queries run.

A store is the same on every engine; the rooms below this one (`sqlite`) have what differs.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from traceback import clear_frames
from typing import Concatenate, ParamSpec, Protocol, TypeVar

import trio
from peewee import Database

from webhookd.base.models import QueuedDelivery
from webhookd.crypto.vault import Vault
from webhookd.journal.errors import JournalFullError, StaleTargetsError
from webhookd.journal.node_rows import Driver, Nodes, NodeStatus, ServerFacts
from webhookd.journal.operations import ChangeMark, Record, Submission, is_barrier
from webhookd.journal.ownership import Ownership
from webhookd.journal.rows import Contents, CopyReport, KeptAnswer
from webhookd.journal.session_rows import NewSession, SessionLimits, StoredSession
from webhookd.observe.attempt_feed import FeedPage, Place

P = ParamSpec("P")
T = TypeVar("T")

Commit = Callable[[Sequence[Submission]], None]
"""Commits operations in one transaction, and sets the result or the error of each; raises JournalFullError."""


class Storage(Protocol):
    """Where a writer commits.

    Methods block, and are called in the writer's thread, one at a time. Attributes are read on the event loop.
    """

    @property
    def name(self) -> str:
        """What messages call it: a path, or an address without a password."""
        ...

    @property
    def is_above_bound(self) -> bool:
        """Whether the last commit found it larger than the configuration allows, so that it refused events."""
        ...

    @property
    def log_is_long(self) -> bool:
        """Whether events must wait, because something keeps the write-ahead log from being cut."""
        ...

    @property
    def log_bytes(self) -> int:
        """The size of the write-ahead log."""
        ...

    @property
    def outage_seconds(self) -> float:
        """How long the server of the database has not been reached, while a commit waits for it; 0 for a file."""
        ...

    def hurry(self) -> None:
        """Wait no longer than a few seconds for a server that can't be reached: webhookd is stopping."""
        ...

    def cut_log_soon(self) -> None:
        """Empty the write-ahead log after the next commit; called on the event loop, and doesn't block."""
        ...

    def make_room(self) -> bool:
        """Keep the room aside that attempts need while the disk is full; return whether events have room, too."""
        ...

    def commit(self, batch: Sequence[Submission]) -> Sequence[Submission]:
        """Commit operations in order, all or none unless one is faulty; return the last ones that found no room."""
        ...

    def commit_what_fits(self, batch: Sequence[Submission]) -> Sequence[Submission]:
        """Commit in the room that was kept aside what fits into it; return what doesn't."""
        ...

    def finish(self) -> None:
        """Called after the last commit."""
        ...


class Lead(Protocol):
    """Makes changes that only the leader makes; raises FencedError if another node leads."""

    async def __call__(self, change: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Make a change, in a transaction of its own, and return its result."""
        ...


class Reader(Protocol):
    """A connection that only reads, one query at a time."""

    def run(self, query: Callable[[Database], T]) -> T:
        """Run a query on one snapshot; raises ReadTimeoutError after the time limit. Blocks."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class SessionQueries(Protocol):
    """Queries and changes of the dashboard's sessions, where several processes share a database; they block."""

    def begin(self, database: Database, vault: Vault, new: NewSession, content: bytes, limits: SessionLimits) -> None:
        """Add a session; at a bound, the one that was unused the longest ends."""
        ...

    def find(self, database: Database, key: bytes, idle_seconds: float) -> tuple[bytes, float] | None:
        """Return what is sealed of an open session, and how many seconds ago it was used."""
        ...

    def opened(self, vault: Vault, key: bytes, found: tuple[bytes, float] | None) -> StoredSession | None:
        """Return a session that was found; None if it doesn't open."""
        ...

    def note_use(self, database: Database, key: bytes, seconds: float) -> None:
        """Store that a session is used now, unless that was stored less than `seconds` ago."""
        ...

    def change(
        self, database: Database, vault: Vault, key: bytes, changed: Callable[[bytes], tuple[bytes, T]]
    ) -> T | None:
        """Store what `changed` makes of a session, and return its result; None once the session has ended."""
        ...

    def end(self, database: Database, key: bytes) -> None:
        """Delete a session."""
        ...

    def end_all_of(self, database: Database, place: str) -> None:
        """Delete all sessions of a caller."""
        ...

    def reseal(self, database: Database, vault: Vault, after: bytes, limit: int) -> tuple[bytes | None, int]:
        """Seal the next sessions with the vault's key; return where to go on, None if all are done, and a count."""
        ...


class Sharing(Protocol):
    """What only a journal has that other processes use, too; queries and parts of changes, which block."""

    @property
    def sessions(self) -> SessionQueries:
        """The sessions of the dashboard, which all processes share."""
        ...

    def nodes_without_key(self, database: Database, key_id: str) -> list[str]:
        """Return the names of other processes that don't have a master key in their files."""
        ...

    def claim(self, database: Database, begun: KeptAnswer) -> KeptAnswer | None:
        """Store that this process has begun a request with an Idempotency-Key, unless one was begun; return that."""
        ...

    def give_up(self, database: Database, caller: str, route: str, key: str) -> None:
        """Note that no process works on a request with an Idempotency-Key any more."""
        ...

    def recent_attempts(self, database: Database, place: Place | None) -> FeedPage:
        """Return the attempts of all processes after a place, or without one the last ones, oldest first."""
        ...

    def check_known(self, database: Database, settings: Sequence[str]) -> None:
        """Raise Rejected CONFLICT if another process doesn't know one of the settings that this change stores."""
        ...


class Engine(Protocol):
    """A journal that is open: its one storage to write to, and its readers."""

    @property
    def ownership(self) -> Ownership:
        """Which endpoints this process drives."""
        ...

    @property
    def process(self) -> str:
        """The id of this process, which no other one ever had; empty if it has the journal for itself."""
        ...

    @property
    def sharing(self) -> Sharing | None:
        """What else there is of a journal that other processes use, too; None for a file."""
        ...

    @property
    def leftovers(self) -> Sequence[Callable[[Database], object]]:
        """What the leader deletes from time to time, besides what every journal has: functions that do so."""
        ...

    @property
    def days_ahead(self) -> int | None:
        """For how many days after today there are tables for what is added then; None if none are needed."""
        ...

    async def drop_old(self, before: float, lead: Lead) -> None:
        """Drop what is left of the days that are older than that time, after their events were deleted."""
        ...

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep what this process drives until `stop`; not canceled before."""
        ...

    def stop(self) -> None:
        """Have `run` end: everything is committed."""
        ...

    def announced(self, before: ChangeMark, change: ChangeMark) -> None:
        """Note that the feed of this process has passed on a change; `before` is the one before it."""
        ...

    def queued(self, deliveries: Sequence[QueuedDelivery]) -> None:
        """Note deliveries that were committed: other processes may drive their endpoints."""
        ...

    def requeued(self, endpoint_pk: int) -> None:
        """Note that something in an endpoint's queue was changed: another process may drive it."""
        ...

    @property
    def is_current(self) -> bool:
        """Whether this process knows all but the last changes of other processes; always, where there are none."""
        ...

    @property
    def changes_known(self) -> ChangeMark:
        """The last change up to which this process knows all; NO_CHANGE where no other process makes any."""
        ...

    async def follow_changes(self) -> None:
        """Have the feed pass on all that other processes have changed by now."""
        ...

    @property
    def node_status(self) -> NodeStatus | None:
        """What this process knows of itself as a node, or None if the journal is its alone."""
        ...

    def read_nodes(self, database: Database) -> Nodes | None:
        """Return the nodes that share the journal, or None if it is this process's alone; blocks."""
        ...

    def read_drivers(self, database: Database, endpoint_pks: Sequence[int]) -> Mapping[int, Driver]:
        """Return the nodes that drive endpoints, by the row number of each; blocks."""
        ...

    def read_server(self, database: Database) -> ServerFacts | None:
        """Return how the server of the database is set up, or None for a file; blocks."""
        ...

    def holding_changes(self) -> AbstractAsyncContextManager[None]:
        """Have the feed pass on nothing that other processes change until the block ends.

        What is read of settings in the block is then not older than what the feed has passed on.
        """
        ...

    async def tell_keys(self, key_ids: Sequence[str]) -> None:
        """Tell the other nodes the ids of the master keys that this one has in its files."""
        ...

    async def give_back(self, slots: frozenset[int]) -> None:
        """Let other nodes take slots that were asked back."""
        ...

    @property
    def is_remote(self) -> bool:
        """Whether it is on a server, which may be out of reach."""
        ...

    @property
    def is_reachable(self) -> bool:
        """Whether the server of the database has answered last; always, for a file."""
        ...

    @property
    def path(self) -> Path | None:
        """The file of the journal, if it is one."""
        ...

    @property
    def storage(self) -> Storage:
        """Where its one writer commits."""
        ...

    @property
    def readers(self) -> Sequence[Reader]:
        """Its connections that only read."""
        ...

    def end_reads(self) -> None:
        """Abort running queries and refuse new ones: the server is stopping."""
        ...

    def distrust(self) -> None:
        """Leave everything as it is when the journal is closed: the disk has failed."""
        ...

    async def back_up(self, file: Path, *, replace: bool, report: CopyReport) -> Contents:
        """Copy the journal to a file while it is in use, verify the copy and return what it contains."""
        ...


def commit_in_order(
    batch: Sequence[Submission], commit: Commit, is_logic_error: Callable[[Exception], bool]
) -> Sequence[Submission]:
    """Commit operations together; return the last ones, for which there was no room.

    If one of them violates a constraint, which is a bug, it gets the error, and the others are committed nevertheless.
    """
    try:
        commit(batch)
    except JournalFullError:
        return batch
    except Exception as error:
        if not is_logic_error(error):
            raise
        if len(batch) == 1:
            # Its frames may hold a cursor, and an open cursor keeps SQLite's log from being cut.
            clear_frames(error.__traceback__)
            batch[0].error = error
            return ()
        for number, operation in enumerate(batch):
            try:
                if commit_in_order([operation], commit, is_logic_error):
                    return batch[number:]
            except StaleTargetsError as stale:
                raise StaleTargetsError(batch[number:]) from stale
    return ()


def commit_each(
    batch: Sequence[Submission], commit: Callable[[Sequence[Submission]], Sequence[Submission]]
) -> Sequence[Submission]:
    """Commit one operation after another, skipping those for which there is no room; return these.

    The attempts of an endpoint stay in order: an earlier one that is written later would bring back its state.
    """
    left: list[Submission] = []
    waiting: set[Hashable] = set()
    for number, operation in enumerate(batch):
        if is_barrier(operation) and left:
            return [*left, *batch[number:]]
        flow = operation.flow if isinstance(operation, Record) else None
        try:
            has_no_room = flow in waiting or bool(commit([operation]))
        except StaleTargetsError as stale:
            raise StaleTargetsError([*left, *batch[number:]]) from stale
        if has_no_room and is_barrier(operation):
            return batch[number:]
        if has_no_room:
            left.append(operation)
            if flow is not None:
                waiting.add(flow)
    return left

"""Open the journal on PostgreSQL: its tables, this process's place among its writers and nodes, and its connections."""

import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeVar

import trio
from peewee import Database, PeeweeException

from webhookd.base.clock import Clock, DatabaseClock, SystemClock
from webhookd.base.errors import CommandError, ReadTimeoutError
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import QueuedDelivery
from webhookd.journal.errors import ConnectionLostError, JournalFullError, MustRepeatError
from webhookd.journal.feed import Feed
from webhookd.journal.node_rows import Driver, Nodes, NodeStatus, ServerFacts
from webhookd.journal.operations import ChangeMark
from webhookd.journal.ownership import slot_of
from webhookd.journal.postgres import changes, incarnations, leases, server_facts, sessions
from webhookd.journal.postgres.changes import ChangeFollower
from webhookd.journal.postgres.daily_tables import DailyTables
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase, connect, reason_of
from webhookd.journal.postgres.incarnations import Incarnation, Incarnations, read_incarnation
from webhookd.journal.postgres.leases import Progress
from webhookd.journal.postgres.membership import Membership
from webhookd.journal.postgres.migrations import prepare
from webhookd.journal.postgres.outages import OutageLog
from webhookd.journal.postgres.partitions import make_ahead
from webhookd.journal.postgres.sharing import PostgresSharing
from webhookd.journal.postgres.storage import PostgresStorage
from webhookd.journal.postgres.wakes import Wakes
from webhookd.journal.rows import Contents, CopyReport
from webhookd.journal.runners import InlineRunner, Runner, ThreadRunner
from webhookd.journal.server import NO_COPY, LeaseTimes, Server
from webhookd.journal.storage import Lead
from webhookd.observe.logs import get_logger

T = TypeVar("T")

_log = get_logger("journal")
_WRITER = "writer"
_FORGOTTEN_SECONDS = 86_400.0
_ADD_WRITER = "INSERT INTO writers (node, writer, number) VALUES (%s, %s, 0)"


class PostgresReader:
    """A connection for queries, which is made again after it was lost, or to another database."""

    def __init__(
        self, open_connection: Callable[[], PostgresDatabase], is_used: Callable[[PostgresDatabase], bool]
    ) -> None:
        self._open = open_connection
        self._is_used = is_used
        self._database: PostgresDatabase | None = None
        self._is_ended = False

    def run(self, query: Callable[[Database], T]) -> T:
        """Run `query` on one snapshot; raises ReadTimeoutError after the limit, and ConnectionLostError. Blocks."""
        if self._is_ended:
            raise ReadTimeoutError("the server is stopping")
        is_new = self._database is None
        try:
            return self._run(query)
        except ConnectionLostError:
            self.close()
            if is_new:
                raise
        return self._run(query)  # the connection may have been lost long ago

    def end(self) -> None:
        """Refuse new queries."""
        self._is_ended = True

    def close(self) -> None:
        """Close the connection."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _run(self, query: Callable[[Database], T]) -> T:
        if self._database is not None and not self._is_used(self._database):
            self.close()
        if self._database is None:
            self._database = self._open()
        database = self._database
        with database.translated(), database.atomic():
            return query(database)


class PostgresEngine:
    """An open journal on PostgreSQL."""

    is_remote = True
    path = None
    leftovers = (
        partial(changes.forget, seconds=_FORGOTTEN_SECONDS),
        partial(leases.forget_writers, seconds=_FORGOTTEN_SECONDS),
        sessions.forget,
    )

    def __init__(
        self,
        storage: PostgresStorage,
        readers: Sequence[PostgresReader],
        *,
        membership: Membership,
        wakes: Wakes,
        follower: ChangeFollower,
        sharing: PostgresSharing,
        daily_tables: DailyTables,
        times: LeaseTimes,
    ) -> None:
        self.storage = storage
        self.sharing = sharing
        self.readers = readers
        self.ownership = membership
        self.process = membership.process
        self._wakes = wakes
        self._follower = follower
        self._daily_tables = daily_tables
        self._times = times

    @property
    def days_ahead(self) -> int | None:
        """For how many days after today there are partitions."""
        return self._daily_tables.days_ahead

    async def drop_old(self, before: float, lead: Lead) -> None:
        """Drop the partitions of days that are older than that time."""
        await self._daily_tables.drop_old(before, lead)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be a node until `stop`, and then give all slots back."""
        async with trio.open_nursery() as nursery:
            await nursery.start(self.ownership.run)
            nursery.start_soon(self._wakes.run)
            nursery.start_soon(self._daily_tables.run)
            task_status.started()

    @property
    def is_reachable(self) -> bool:
        """Whether the server has answered last, and no commit waits for it."""
        return self.ownership.is_connected and not self.storage.outage_seconds

    @property
    def is_current(self) -> bool:
        """Whether this process has known all changes of other nodes within the last seconds."""
        return self._follower.seconds_behind < self._times.outdated

    @property
    def changes_known(self) -> ChangeMark:
        """The last change up to which this process knows all."""
        return self._follower.mark

    async def follow_changes(self) -> None:
        """Have the feed pass on all that other nodes have changed by now."""
        await self._follower.follow()

    def holding_changes(self) -> AbstractAsyncContextManager[None]:
        """Have the feed pass on nothing that other nodes change until the block ends."""
        return self._follower.waiting()

    def announced(self, before: ChangeMark, change: ChangeMark) -> None:
        """Note that the feed of this process has passed on a change, and tell the other nodes."""
        self._follower.pass_over(before, change)
        self._wakes.settings_changed()

    def queued(self, deliveries: Sequence[QueuedDelivery]) -> None:
        """Tell the nodes that drive their endpoints of deliveries that were committed."""
        self._wakes.queued(deliveries)

    def requeued(self, endpoint_pk: int) -> None:
        """Tell the node that drives an endpoint of a change in its queue."""
        self._wakes.requeued(endpoint_pk)

    def stop(self) -> None:
        """Have `run` end: everything is committed."""
        self.ownership.stop()

    @property
    def node_status(self) -> NodeStatus:
        """What this process knows of itself as a node."""
        ownership = self.ownership
        return NodeStatus(
            slots=len(ownership.slots),
            leads=ownership.is_leader,
            beat_age_seconds=ownership.beat_age_seconds,
            leases_lost=ownership.leases_lost,
            slots_taken=ownership.slots_taken,
            unreachable_seconds=ownership.unreachable_seconds,
            known_change=self._follower.mark.number,
        )

    def read_nodes(self, database: Database) -> Nodes:
        """Return the nodes that share the database; blocks."""
        return leases.read_nodes(database, self.ownership.node)

    def read_drivers(self, database: Database, endpoint_pks: Sequence[int]) -> Mapping[int, Driver]:
        """Return the nodes that drive endpoints; blocks."""
        found = leases.read_drivers(database, {slot_of(pk) for pk in endpoint_pks})
        own = self.ownership.node
        return {
            pk: Driver(None, is_here=False)
            if (known := found.get(slot_of(pk))) is None
            else Driver(known[0], known[1] == own)
            for pk in endpoint_pks
        }

    def read_server(self, database: Database) -> ServerFacts:
        """Return how the database's server is set up; blocks."""
        return server_facts.read(database, has_tables=True)

    async def tell_keys(self, key_ids: Sequence[str]) -> None:
        """Tell the other nodes the ids of the master keys that this one has."""
        await self.ownership.tell_keys(key_ids)

    async def give_back(self, slots: frozenset[int]) -> None:
        """Let other nodes take slots that were asked back."""
        await self.ownership.give_back(slots)

    def end_reads(self) -> None:
        """Refuse new queries; one that runs ends within its time limit."""
        for reader in self.readers:
            reader.end()

    def distrust(self) -> None:
        """Do nothing: the disk is the server's."""

    async def back_up(self, file: Path, *, replace: bool, report: CopyReport) -> Contents:  # noqa: ARG002 - no file is made
        """Raise CommandError: PostgreSQL has its own backups."""
        raise CommandError(NO_COPY)


@asynccontextmanager
async def open_server(
    server: Server,
    *,
    clock: Clock,
    ids: IdFactory,
    feed: Feed,
    runner: Runner,
    readers: int,
) -> AsyncIterator[PostgresEngine]:
    """Open a journal in a database, and create or migrate its tables if needed.

    A clock that is a DatabaseClock is set to the time of the database, and follows it. Raises CommandError if the
    database can't be reached, and JournalError if it can't hold a journal.
    """
    process = ids.new(Prefix.NODE)
    database_clock = clock if isinstance(clock, DatabaseClock) else DatabaseClock(SystemClock())

    def connected(role: ConnectionRole, use: str) -> PostgresDatabase:
        return connect(
            server.url, role, application_name=f"webhookd/{process}/{use}", password_file=server.password_file
        )

    def begin() -> tuple[Incarnation, ChangeMark]:
        database = connected(ConnectionRole.WRITER, "start")
        try:
            with database.translated():
                asked_at = database_clock.steady()
                database_clock.follow(leases.read_time(database), asked_at)
            found = read_incarnation(database)
            prepare(database, now=clock.now())
            _make_partitions(database, clock.now())
            incarnations.note(database, found)
            with database.translated():
                database.execute_sql(_ADD_WRITER, (process, _WRITER))
                return found, changes.read_last(database)
        finally:
            database.close()

    try:
        first, last_change = await runner.run(begin)
    except ConnectionLostError as error:
        raise CommandError(str(error)) from error
    known = Incarnations(first, is_node=server.takes_part)

    def opened(role: ConnectionRole, use: str, *, prepares: bool = False) -> PostgresDatabase:
        database = connected(role, use)
        try:
            database.incarnation = known.check(read_incarnation(database), prepares=prepares)
        except BaseException:
            database.close()
            raise
        return database

    def is_used(database: PostgresDatabase) -> bool:
        return database.incarnation == known.number

    outages = OutageLog(str(server.url))
    storage = PostgresStorage(
        str(server.url),
        partial(opened, ConnectionRole.WRITER, _WRITER),
        ids,
        outages,
        process=process,
        writer=_WRITER,
        is_used=is_used,
    )
    # Its calls go on while the writer stands, so it has a thread of its own; in a test both run in the loop.
    own_runner = runner if isinstance(runner, InlineRunner) else ThreadRunner(4)
    membership = Membership(
        lambda prepares: opened(ConnectionRole.WRITER, "node", prepares=prepares),
        own_runner,
        feed,
        process=process,
        name=server.node_name,
        version=server.known.version,
        steady=_steady,
        clock=database_clock,
        incarnations=known,
        outages=outages,
        times=server.times,
        takes_part=server.takes_part,
        progress=lambda: Progress(follower.mark.number, wakes.look_age_seconds),
    )
    with ExitStack() as stack:
        connections = [
            PostgresReader(partial(opened, ConnectionRole.READER, f"reader-{number}"), is_used)
            for number in range(readers)
        ]
        for connection in connections:
            stack.callback(connection.close)
        reader = PostgresReader(partial(opened, ConnectionRole.READER, "changes"), is_used)
        stack.callback(reader.close)

        async def read_changes(
            after: ChangeMark, passed_over: frozenset[bytes]
        ) -> list[changes.Followed] | changes.Reread:
            return await own_runner.run(
                partial(reader.run, partial(changes.read, after=after, passed_over=passed_over))
            )

        follower = ChangeFollower(feed, last_change, read_changes, steady=_steady)
        wakes = Wakes(
            partial(opened, ConnectionRole.LISTENER, "listener"),
            partial(opened, ConnectionRole.NOTIFIER, "notifier"),
            own_runner,
            feed,
            membership,
            outages=outages,
            slots=lambda: membership.slots,
            changed=follower.follow,
            look_seconds=server.times.look,
            is_used=is_used,
        )
        daily_tables = DailyTables(
            partial(opened, ConnectionRole.WRITER, "partitions"),
            runner if isinstance(runner, InlineRunner) else ThreadRunner(1),
            clock.now,
        )
        yield PostgresEngine(
            storage,
            connections,
            membership=membership,
            wakes=wakes,
            follower=follower,
            sharing=PostgresSharing(process, server.known),
            daily_tables=daily_tables,
            times=server.times,
        )


def _make_partitions(database: PostgresDatabase, now: float) -> None:
    """Make the partitions that are missing; if that fails, those that are there are used, and it is tried again."""
    try:
        make_ahead(database, now)
    except (MustRepeatError, JournalFullError, PeeweeException) as error:
        _log.warning("partitions.not_made", error=reason_of(error))


def _steady() -> float:
    """Return the seconds since the machine started, also those for which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)

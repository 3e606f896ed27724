"""This process as a node: it keeps its lease, takes and gives back slots, and says so in the feed.

One task beats, one scans, and one watches this node's own limit: it must stop sending before anybody else could take
its slots, also while the database doesn't answer. All times are of a clock that goes on while the machine sleeps. Each
beat also returns the time of the database, which the clock of this process follows.

When its connection finds another incarnation of the database, the process drops what it knew of the one before, and
registers as a new node; until then no other part of it can connect (see `incarnations`).
"""

from collections.abc import Awaitable, Callable, Sequence
from collections.abc import Set as AbstractSet
from functools import partial
from typing import TypeVar

import trio

from webhookd.base.clock import DatabaseClock
from webhookd.base.errors import CommandError
from webhookd.base.stages import reached
from webhookd.journal.errors import ConnectionLostError, JournalFullError, MustRepeatError, OtherDatabaseError
from webhookd.journal.feed import DatabaseReplaced, Feed, SlotsAskedBack, SlotsLost, SlotsTaken
from webhookd.journal.ownership import LEADING, Fence, slot_of
from webhookd.journal.postgres import incarnations, leases
from webhookd.journal.postgres.database import PostgresDatabase
from webhookd.journal.postgres.incarnations import Incarnation, Incarnations
from webhookd.journal.postgres.leases import Progress, Scanned
from webhookd.journal.postgres.outages import OutageLog
from webhookd.journal.runners import Runner
from webhookd.journal.server import LeaseTimes
from webhookd.observe.logs import get_logger

T = TypeVar("T")

_PART = "node"

_log = get_logger("nodes")


class Membership:
    """The node of this process, an `Ownership`; it has slots while `run` runs.

    `connect` opens a connection; with True, also to a database that isn't ready yet, to prepare it. `process` is an id
    that no other process has ever had, `name` is for people. `steady` is the clock of the limits. A process that
    doesn't take part, such as a command, has no slots and is no node.
    """

    def __init__(
        self,
        connect: Callable[[bool], PostgresDatabase],
        runner: Runner,
        feed: Feed,
        *,
        process: str,
        name: str,
        version: int,
        steady: Callable[[], float],
        clock: DatabaseClock,
        incarnations: Incarnations,
        outages: OutageLog,
        times: LeaseTimes,
        takes_part: bool = True,
        progress: Callable[[], Progress] = Progress,
    ) -> None:
        self.process = process
        self.name = name
        self.nodes = 1
        """How many nodes lived at the last scan."""
        self.is_connected = True
        """Whether the last call reached the database."""
        self._connect = connect
        self._runner = runner
        self._feed = feed
        self._version = version
        self._steady = steady
        self._clock = clock
        self._incarnations = incarnations
        self._outages = outages
        self._times = times
        self._takes_part = takes_part
        self._progress = progress
        self.leases_lost = 0
        """How often it lost slots that others could take, because it came too late."""
        self._is_loss_counted = False
        self.slots_taken = 0
        self._unreachable_since: float | None = None
        self._unreachable_seconds = 0.0
        self._database: PostgresDatabase | None = None
        self._one_call = trio.Lock()
        self._registering = trio.Lock()
        self._registrations = 0
        self._held: dict[int, int] = {}
        self._leaving: set[int] = set()
        self._limit_at = 0.0
        self._registered_at = 0.0
        self._stopped = trio.Event()
        self._told_keys: tuple[str, Sequence[str]] = ("", ())  # the node that told its keys last, and which

    @property
    def node(self) -> str:
        """The id under which this process is registered now; another one after it was fenced."""
        return f"{self.process}.{self._registrations}"

    @property
    def slots(self) -> frozenset[int]:
        """The slots that this node has."""
        return frozenset(self._held)

    @property
    def asked_back(self) -> frozenset[int]:
        """The slots that other nodes should have, until they are given back."""
        return frozenset(self._leaving)

    @property
    def beat_age_seconds(self) -> float:
        """How long ago it sent its last good beat, or registered."""
        return max(0.0, self._steady() - self._limit_at + self._times.limit)

    @property
    def unreachable_seconds(self) -> float:
        """For how long its calls have not reached the database, since the start of the process."""
        since = self._unreachable_since
        return self._unreachable_seconds + (0.0 if since is None else self._steady() - since)

    @property
    def is_leader(self) -> bool:
        """Whether this node does what only one may do at a time."""
        return slot_of(LEADING) in self._held and self.may_send()

    def owns(self, endpoint_pk: int) -> bool:
        """Whether this node has the slot of an endpoint, and isn't about to give it back."""
        slot = slot_of(endpoint_pk)
        return slot in self._held and slot not in self._leaving

    def may_send(self) -> bool:
        """Whether nobody else can have taken this node's slots yet."""
        return self._steady() < self._limit_at

    def fence(self, endpoint_pk: int) -> Fence:
        """Return the slot of an endpoint with its generation; -1, which no record passes, for another node's."""
        slot = slot_of(endpoint_pk)
        return Fence(slot, self._held.get(slot, -1), self._incarnations.number)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Be a node until `stop`, and then leave; it has started once it has looked for slots.

        It isn't canceled: while the last records are committed, the node must keep its slots.
        """
        with trio.CancelScope(shield=True):
            if not self._takes_part:
                task_status.started()
                await self._stopped.wait()
                return
            try:
                await self._register()
                await self._scan()
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._beat_on)
                    nursery.start_soon(self._scan_on)
                    nursery.start_soon(self._watch_limit)
                    task_status.started()
                    await self._stopped.wait()
                    nursery.cancel_scope.cancel()
            finally:
                await self._leave()  # noqa: ASYNC102 - the whole of `run` is shielded

    def stop(self) -> None:
        """Have `run` leave: everything is committed."""
        self._stopped.set()

    async def tell_keys(self, key_ids: Sequence[str]) -> None:
        """Tell the other nodes the ids of the master keys that are in this one's files; call it again and again."""
        telling = (self.node, tuple(key_ids))
        if telling == self._told_keys or not self._takes_part:
            return
        try:
            await self._call(lambda database: leases.note_keys(database.connection(), *telling))
        except (ConnectionLostError, MustRepeatError, JournalFullError) as error:
            _log.warning("node.keys_not_told", node=self.node, error=str(error))
        else:
            self._told_keys = telling

    async def give_back(self, slots: frozenset[int]) -> None:
        """Let other nodes take slots that were asked back: nothing of theirs is in flight, and all is recorded.

        One that was lost since then, and perhaps taken again, stays.
        """
        given = sorted(self._leaving & slots)
        for slot in given:
            del self._held[slot]
        self._leaving.difference_update(given)
        if given:
            await self._call(lambda database: leases.give_back(database.connection(), self.node, given))

    async def _register(self) -> None:
        self._registrations += 1
        began_at = self._steady()
        await self._call(self._register_node)
        self._registered_at = began_at
        self._is_loss_counted = False
        self._limit_at = began_at + self._times.limit
        _log.info("node.registered", node=self.node)

    def _register_node(self, database: PostgresDatabase) -> None:
        asked_at = self._clock.steady()
        connection = database.connection()
        self._follow(leases.register(connection, self.node, self.name, self._version, self._times), asked_at)

    def _beat(self, node: str, progress: Progress, database: PostgresDatabase) -> bool:
        asked_at = self._clock.steady()
        its_time = leases.beat(database.connection(), node, self._times, progress)
        if its_time is not None:
            self._follow(its_time, asked_at)
        return its_time is not None

    def _follow(self, its_time: float, asked_at: float) -> None:
        if seconds := self._clock.follow(its_time, asked_at):
            _log.warning("clock.database_was_set", seconds=round(seconds, 3))

    async def _register_again(self, fenced: str) -> None:
        """Register under a new id, as soon as the database can be reached."""
        async with self._registering:
            while fenced == self.node:
                _log.error("node.fenced", node=fenced)
                self._count_loss()
                self._lose_all()
                await self._insist(self._register)

    async def _begin_anew(self, found: Incarnation) -> None:
        """Drop all that is known of another incarnation of the database, and register with this one."""
        async with self._registering:
            while not self._incarnations.is_used(found):
                _log.error("node.database_replaced", node=self.node)
                self._lose_all()
                self._feed.announce(DatabaseReplaced())
                self._incarnations.use(found)
                try:
                    await self._insist(partial(self._call, partial(self._prepare, found), prepares=True))
                    await self._insist(self._register)
                except OtherDatabaseError as error:
                    found = error.found

    def _prepare(self, found: Incarnation, database: PostgresDatabase) -> None:
        incarnations.begin_anew(database, found, self.process, self._clock.now)
        self._incarnations.note_ready()  # from here on all others connect

    async def _beat_on(self) -> None:
        await self._repeat(self._times.beat, self._extend)

    async def _extend(self) -> None:
        began_at, node = self._steady(), self.node
        is_alive = await self._call(partial(self._beat, node, self._progress()))
        reached("beat.answered")
        if not is_alive:
            await self._register_again(node)
        elif node == self.node:
            self._limit_at = began_at + self._times.limit
            self._is_loss_counted = False

    async def _scan_on(self) -> None:
        await self._repeat(self._times.scan, self._scan)

    async def _repeat(self, seconds: float, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            await trio.sleep(seconds)
            if self._registering.locked():
                continue
            try:
                await self._tried(work)
            except OtherDatabaseError as error:
                await self._begin_anew(error.found)

    async def _insist(self, work: Callable[[], Awaitable[None]]) -> None:
        is_done = await self._tried(work)
        while not is_done:
            await trio.sleep(self._times.scan)
            is_done = await self._tried(work)

    async def _tried(self, work: Callable[[], Awaitable[None]]) -> bool:
        """Return whether work was done; False if the database is of no use now. Raises OtherDatabaseError."""
        try:
            await work()
        except OtherDatabaseError:
            raise
        except (CommandError, ConnectionLostError, MustRepeatError, JournalFullError) as error:
            self._outages.failed(_PART, error)
            return False
        self._outages.succeeded(_PART)
        return True

    async def _scan(self) -> None:
        if not self.may_send():
            return  # its lease may end during the scan
        node, held = self.node, dict(self._held)
        # After an outage the first node back would take all slots, and give most of them back one by one.
        may_take = self._registrations == 1 or self._steady() - self._registered_at >= self._times.scan
        scanned: Scanned = await self._call(
            lambda database: leases.scan(database.connection(), node, held, self._times, may_take=may_take)
        )
        self.nodes = scanned.nodes
        if scanned.dead and scanned.taken:
            _log.warning("node.took_over", node=node, dead=list(scanned.dead), slots=len(scanned.taken))
        if node != self.node or not self.may_send():
            return  # lost meanwhile: the next scan gives back what this one has taken
        if scanned.lost:
            _log.error("node.lost_slots", node=node, slots=len(scanned.lost))
            self._count_loss()
            self._lose(self._held.keys() & frozenset(scanned.lost))
        self._held |= scanned.taken
        self.slots_taken += len(scanned.taken)
        if scanned.taken:
            self._feed.announce(SlotsTaken(frozenset(scanned.taken)))
        wanted = frozenset(scanned.surplus) - self._leaving
        if wanted and not self._leaving:
            self._leaving |= wanted
            self._feed.announce(SlotsAskedBack(wanted))

    async def _watch_limit(self) -> None:
        while True:
            seconds = self._limit_at - self._steady()
            if seconds > 0:
                await trio.sleep(seconds)
            elif self._held:
                _log.error("node.out_of_time", node=self.node)
                self._count_loss()
                self._lose_all()
            else:
                await trio.sleep(self._times.scan)

    def _count_loss(self) -> None:
        """Count a lost lease once, whether its time ends, a scan misses slots or a beat is refused first."""
        self.leases_lost += not self._is_loss_counted
        self._is_loss_counted = True

    def _lose_all(self) -> None:
        if self._held:
            self._lose(self._held.keys())

    def _lose(self, slots: AbstractSet[int]) -> None:
        lost = frozenset(slots)
        for slot in lost:
            del self._held[slot]
        self._leaving -= lost
        self._feed.announce(SlotsLost(lost))

    async def _leave(self) -> None:
        node, held = self.node, list(self._held)
        self._lose_all()

        def leave(database: PostgresDatabase) -> None:
            leases.give_back(database.connection(), node, held)
            leases.leave(database.connection(), node)

        try:
            await self._call(leave)
        except (ConnectionLostError, MustRepeatError, JournalFullError) as error:
            _log.warning("node.left_without_word", node=node, error=str(error))
        await self._runner.run(self._close)

    async def _call(self, function: Callable[[PostgresDatabase], T], *, prepares: bool = False) -> T:
        """Call in the thread; raises ConnectionLostError also if the database has been replaced since this call.

        What the process had before must not be mixed with what another database has. Before that one is ready, only
        what `prepares` it is called.
        """
        incarnation = self._incarnations.number
        async with self._one_call:
            began_at = self._steady()
            self._check(incarnation)
            if not prepares:
                self._incarnations.check_ready()
            try:
                result = await self._runner.run(partial(self._run, function, prepares=prepares))
            except ConnectionLostError:
                self.is_connected = False
                if self._unreachable_since is None:
                    self._unreachable_since = began_at
                raise
            self._check(incarnation)
            self.is_connected = True
            if self._unreachable_since is not None:
                self._unreachable_seconds += self._steady() - self._unreachable_since
                self._unreachable_since = None
            return result

    def _check(self, incarnation: int) -> None:
        if incarnation != self._incarnations.number:
            raise ConnectionLostError("the database was replaced meanwhile")

    def _run(self, function: Callable[[PostgresDatabase], T], *, prepares: bool) -> T:
        if self._database is None:
            self._database = self._connect(prepares)
        try:
            with self._database.translated():
                return function(self._database)
        except ConnectionLostError:
            self._close()
            raise

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

"""The lanes of all endpoints and their actors: at most one actor for each endpoint, started when there is work.

"Is it running? Then notify it, else start it" is one synchronous step here, and so are an actor's last look at its lane
and its removal. So no notification is lost between them. A lane outlives its actors, and so do the tokens in its bucket
and the deliveries that are held. Each actor runs under the supervisor of its endpoint.

Of several nodes, each runs the actors of the endpoints that it drives. The lane of one that goes to another node begins
anew. A node that takes over an endpoint doesn't know what was sent to it a moment ago, so its bucket is emptied then.
"""

from collections.abc import AsyncIterator, Callable, Collection, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass

import trio

from webhookd.base.clock import Clock
from webhookd.base.models import Endpoint, Policy, QueuedDelivery
from webhookd.delivery.policy.forgiveness import Forgiveness
from webhookd.dispatch.actor import Actor
from webhookd.dispatch.lane import Lane
from webhookd.dispatch.slots import Slots
from webhookd.dispatch.supervisor import Supervisor
from webhookd.journal import slot_of


@dataclass(slots=True)
class _Entry:
    lane: Lane
    actor: Actor | None = None
    supervisor: Supervisor | None = None
    _changing: trio.Lock | None = None

    @property
    def changing(self) -> trio.Lock:
        """The lock of the endpoint's changes, made when it is first needed: most endpoints are idle."""
        self._changing = self._changing or trio.Lock()
        return self._changing

    def notify(self) -> None:
        if self.actor is not None:
            self.actor.notify()


class Registry:
    """Knows every endpoint and runs the actors of those with work.

    `slots` are those of all requests in flight; `actors` is the number of running actors.
    """

    def __init__(
        self,
        clock: Clock,
        slots: Slots,
        make_actor: Callable[[Lane, trio.Lock], Actor],
        owns: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._clock = clock
        self.slots = slots
        self._owns = owns
        self._make_actor = make_actor
        self._entries: dict[int, _Entry] = {}
        self._pks: dict[str, int] = {}
        self._nursery: trio.Nursery | None = None
        self.actors = 0
        self._is_draining = False
        self._idle = trio.Event()
        self._ended = trio.Event()  # when the next actor has ended
        self._crashes_of_removed = 0
        self._retirements: list[set[int]] = []  # the slots of each `retire` that waits, without those lost meanwhile

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run actors until canceled; the actors of endpoints that were woken before start now."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for entry in self._entries.values():
                if entry.actor is not None:
                    nursery.start_soon(self._supervise, entry, entry.actor)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._is_draining = True  # later commits must start no actor

    async def drain(self) -> None:
        """Start no more requests; return once every request in flight has ended and is on record."""
        self._is_draining = True
        for entry in self._entries.values():
            self._stop(entry)
        if self.actors:
            await self._idle.wait()

    async def retire(self, slots: Collection[int]) -> frozenset[int]:
        """Start no more requests to the endpoints of slots, which must not be owned any more.

        Once those in flight have ended and are on record, return the slots that may be given back: one that was lost
        meanwhile may be this process's again.
        """
        retiring = set(slots)
        leaving = [(slot_of(pk), entry) for pk, entry in self._entries.items() if slot_of(pk) in slots and entry.actor]
        for _, entry in leaving:
            self._stop(entry)
        self._retirements.append(retiring)
        try:
            while any(slot in retiring and entry.actor is not None for slot, entry in leaving):
                await self._ended.wait()
        finally:
            self._retirements = [each for each in self._retirements if each is not retiring]
        self._renew(retiring)
        return frozenset(retiring)

    def lose(self, slots: Collection[int]) -> None:
        """Cut off the requests to the endpoints of slots that another node may drive by now."""
        for retiring in self._retirements:
            retiring.difference_update(slots)
        for pk, entry in self._entries.items():
            if entry.actor is not None and slot_of(pk) in slots:
                self._stop(entry)
                entry.actor.cut_off()
        self._renew(slots)

    def _renew(self, slots: Collection[int]) -> None:
        now = self._clock.now()
        for pk, entry in self._entries.items():
            if entry.supervisor is not None and slot_of(pk) in slots:  # else nothing was ever sent from here
                entry.lane = Lane(entry.lane.endpoint, entry.lane.policy, now)
                entry.actor = None  # one that was cut off may still be ending

    def in_slots(self, slots: Collection[int]) -> list[int]:
        """Return the row numbers of the endpoints of slots."""
        return [pk for pk in self._entries if slot_of(pk) in slots]

    def empty_buckets(self, slots: Collection[int] | None = None) -> None:
        """Empty the buckets of the endpoints of slots (None: of all), to which another node may just have sent."""
        now = self._clock.now()
        for pk, entry in self._entries.items():
            if entry.lane.bucket is not None and (slots is None or slot_of(pk) in slots):
                entry.lane.bucket = entry.lane.bucket.emptied(now)

    def put(self, endpoint: Endpoint, policy: Policy, forgiveness: Forgiveness | None = None) -> None:
        """Add an endpoint, or apply a change of it and what the change forgives."""
        entry = self._entries.get(endpoint.pk)
        if entry is None:
            self._entries[endpoint.pk] = _Entry(Lane(endpoint, policy, self._clock.now()))
            self._pks[endpoint.id] = endpoint.pk
            return
        entry.lane.change(endpoint, policy, forgiveness)
        entry.lane.resize(self._clock.now())  # after the change: reading the clock may shift the lane
        entry.notify()
        if entry.supervisor is not None:
            entry.supervisor.kick()

    def shift(self, seconds: float) -> None:
        """Move the times of all lanes, since the clock was set by so many seconds; `reload` follows."""
        for entry in self._entries.values():
            entry.lane.shift(seconds)
            entry.notify()

    def reload(self) -> None:
        """Have every actor read its settings and its queue again."""
        for entry in self._entries.values():
            entry.lane.reload_all()
            entry.notify()

    def remove(self, endpoint_pk: int) -> None:
        """Remove a deleted endpoint; its requests in flight still end and are recorded."""
        if (entry := self._entries.pop(endpoint_pk, None)) is not None:
            del self._pks[entry.lane.endpoint.id]
            if entry.supervisor is not None:
                self._crashes_of_removed += entry.supervisor.crashes
            self._stop(entry)

    @staticmethod
    def _stop(entry: _Entry) -> None:
        entry.lane.stop()
        entry.notify()
        if entry.supervisor is not None:
            entry.supervisor.kick()

    @contextmanager
    def holding(self, endpoint_pk: int, delivery_pk: int) -> Iterator[None]:
        """Keep a delivery from being sent while its row is changed by hand; the endpoint must be known."""
        entry = self._entries[endpoint_pk]
        entry.lane.hold(delivery_pk)
        try:
            yield
        finally:
            entry.lane.release(delivery_pk)
            entry.notify()

    @asynccontextmanager
    async def changing(self, endpoint_id: str) -> AsyncIterator[None]:
        """Lock an endpoint for a change: until it is on disk no answer is settled and no other change begins."""
        entry = self._entries.get(self._pks.get(endpoint_id, 0))
        if entry is None:
            yield
            return
        async with entry.changing:
            try:
                yield
            finally:
                if entry.actor is not None:
                    await entry.actor.flights.settle_answered()  # noqa: ASYNC102 - it can't be canceled

    def lane(self, endpoint_pk: int) -> Lane | None:
        """Return the lane of an endpoint; None if it is unknown or deleted."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None else entry.lane

    def running(self, endpoint_pk: int) -> Lane | None:
        """Return the lane of an endpoint whose actor is running; without an actor the journal is more current."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None or entry.actor is None else entry.lane

    def supervisor(self, endpoint_pk: int) -> Supervisor | None:
        """Return the supervisor of the endpoint's actor; None if it never had an actor."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None else entry.supervisor

    def endpoints(self) -> list[Endpoint]:
        """Return every endpoint."""
        return [entry.lane.endpoint for entry in self._entries.values()]

    def halted(self) -> list[Endpoint]:
        """Return the endpoints whose actor has crashed so often that it isn't restarted for a while."""
        return [
            entry.lane.endpoint
            for entry in self._entries.values()
            if entry.supervisor is not None and entry.supervisor.is_halted
        ]

    @property
    def crashes(self) -> int:
        """How often an actor has crashed; of a deleted endpoint, until it was deleted."""
        kept = (entry.supervisor.crashes for entry in self._entries.values() if entry.supervisor is not None)
        return self._crashes_of_removed + sum(kept)

    def wake(self, endpoint_pk: int) -> Lane | None:
        """Have the endpoint's actor look at its queue, and start it if it isn't running; return the lane.

        None if the endpoint has been deleted or the server drains. No actor is started if another node drives it.
        """
        entry = self._entries.get(endpoint_pk)
        if entry is None or self._is_draining:
            return None
        if not self._owns(endpoint_pk):
            return entry.lane
        entry.lane.expect_more()
        if entry.actor is None:
            entry.actor = self._make_actor(entry.lane, entry.changing)
            entry.supervisor = entry.supervisor or Supervisor(f"actor {entry.lane.endpoint.id}")
            if self._nursery is not None:
                self._nursery.start_soon(self._supervise, entry, entry.actor)
        entry.notify()
        return entry.lane

    def offer(self, delivery: QueuedDelivery) -> None:
        """Give the endpoint's lane a delivery that has just been queued, which saves a read of the queue."""
        entry = self._entries.get(delivery.endpoint_pk)
        if entry is None or entry.actor is None or self._is_draining:
            self.wake(delivery.endpoint_pk)
        elif entry.lane.offer(delivery):
            entry.actor.flights.proceed()

    def requeued(self, endpoint_pk: int) -> None:
        """Have the endpoint's actor read its queue again, after a change that `offer` doesn't cover."""
        if (lane := self.wake(endpoint_pk)) is not None:
            lane.reload()

    async def _supervise(self, entry: _Entry, actor: Actor) -> None:
        assert entry.supervisor is not None  # noqa: S101 - `wake` sets it with the actor
        self.actors += 1
        try:
            await entry.supervisor.run(actor.run)
        finally:
            if entry.actor is actor:
                entry.actor = None
            self.actors -= 1
            self._ended.set()
            self._ended = trio.Event()
            if self._is_draining and not self.actors:
                self._idle.set()

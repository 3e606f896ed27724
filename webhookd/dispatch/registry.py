"""The lanes of all endpoints, and their actors: at most one for each, started when there is work.

"Running? notify: start" is one synchronous step here, and so is an actor's "nothing left: leave" together with its
removal; between them no notification is lost. A lane outlives its actors, so the fill of its bucket and what is held
by hand do too; each actor runs under its lane's supervisor.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractAsyncContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import trio

from webhookd.base.clock import Clock
from webhookd.base.models import Endpoint, Policy, QueuedDelivery
from webhookd.delivery.policy.forgiveness import Forgiveness
from webhookd.dispatch.actor import Actor
from webhookd.dispatch.lane import Lane
from webhookd.dispatch.slots import Slots
from webhookd.dispatch.supervisor import Supervisor


@dataclass(slots=True)
class _Entry:
    lane: Lane
    changing: trio.Lock
    actor: Actor | None = None
    supervisor: Supervisor | None = None

    def notify(self) -> None:
        if self.actor is not None:
            self.actor.notify()


class Registry:
    """Knows every endpoint and runs the actors of those with work."""

    def __init__(self, clock: Clock, slots: Slots, make_actor: Callable[[Lane, trio.Lock], Actor]) -> None:
        self._clock = clock
        self._slots = slots
        self._make_actor = make_actor
        self._entries: dict[int, _Entry] = {}
        self._pks: dict[str, int] = {}
        self._nursery: trio.Nursery | None = None
        self._actors = 0
        self._is_draining = False
        self._idle = trio.Event()
        self._crashes_of_removed = 0

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Run actors until canceled; endpoints woken before this wait for it."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            for entry in self._entries.values():
                if entry.actor is not None:
                    nursery.start_soon(self._supervise, entry, entry.actor)
            task_status.started()
            try:
                await trio.sleep_forever()
            finally:
                self._is_draining = True  # commits that still come must start nobody

    async def drain(self) -> None:
        """Start nothing more; return once every request in flight has ended and is on record."""
        self._is_draining = True
        for entry in self._entries.values():
            self._retire(entry)
        if self._actors:
            await self._idle.wait()

    def put(self, endpoint: Endpoint, policy: Policy, forgiveness: Forgiveness | None = None) -> None:
        """Add an endpoint, or take over what changed of it, and what the change forgives."""
        entry = self._entries.get(endpoint.pk)
        if entry is None:
            self._entries[endpoint.pk] = _Entry(Lane(endpoint, policy, self._clock.now()), trio.Lock())
            self._pks[endpoint.id] = endpoint.pk
            return
        entry.lane.change(endpoint, policy, forgiveness)
        entry.lane.resize(self._clock.now())  # not before: it may shift what was forgiven as well
        entry.notify()
        if entry.supervisor is not None:
            entry.supervisor.kick()

    def shift(self, seconds: float) -> None:
        """Follow a clock that was set by so many seconds; `reload` says that the journal has followed too."""
        for entry in self._entries.values():
            entry.lane.shift(seconds)
            entry.notify()

    def reload(self) -> None:
        """Have every actor read again what it goes by."""
        for entry in self._entries.values():
            entry.lane.reload_all()
            entry.notify()

    def remove(self, endpoint_pk: int) -> None:
        """Forget a deleted endpoint; its request in flight still ends and is recorded."""
        if (entry := self._entries.pop(endpoint_pk, None)) is not None:
            del self._pks[entry.lane.endpoint.id]
            if entry.supervisor is not None:
                self._crashes_of_removed += entry.supervisor.crashes
            self._retire(entry)

    @staticmethod
    def _retire(entry: _Entry) -> None:
        entry.lane.retire()
        entry.notify()
        if entry.supervisor is not None:
            entry.supervisor.kick()

    @contextmanager
    def holding(self, endpoint_pk: int, delivery_pk: int) -> Iterator[None]:
        """Keep a delivery of an endpoint that is known from being sent while its row is changed by hand."""
        entry = self._entries[endpoint_pk]
        entry.lane.hold(delivery_pk)
        try:
            yield
        finally:
            entry.lane.release(delivery_pk)
            entry.notify()

    def changing(self, endpoint_id: str) -> AbstractAsyncContextManager[object]:
        """Keep an endpoint's answers from being settled while a change of it goes to disk, one after the other."""
        entry = self._entries.get(self._pks.get(endpoint_id, 0))
        return nullcontext() if entry is None else entry.changing

    def lane(self, endpoint_pk: int) -> Lane | None:
        """Return the lane of an endpoint, if that is known."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None else entry.lane

    def running(self, endpoint_pk: int) -> Lane | None:
        """Return the lane of an endpoint whose actor is running; without one, the journal knows better."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None or entry.actor is None else entry.lane

    def supervisor(self, endpoint_pk: int) -> Supervisor | None:
        """Return the supervisor of the endpoint's actor, once it has had one."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None else entry.supervisor

    def halted(self) -> list[Endpoint]:
        """Return the endpoints whose actor keeps crashing."""
        return [
            entry.lane.endpoint
            for entry in self._entries.values()
            if entry.supervisor is not None and entry.supervisor.is_halted
        ]

    @property
    def crashes(self) -> int:
        """How often an actor has crashed; one of a deleted endpoint counts no more from then on."""
        kept = (entry.supervisor.crashes for entry in self._entries.values() if entry.supervisor is not None)
        return self._crashes_of_removed + sum(kept)

    @property
    def actors(self) -> int:
        """How many endpoints have an actor running."""
        return self._actors

    @property
    def in_flight(self) -> int:
        """How many requests are in flight in the whole process."""
        return self._slots.taken

    @property
    def waiting_for_a_slot(self) -> int:
        """How many actors have something to send and may not begin another request yet."""
        return self._slots.waiting

    def wake(self, endpoint_pk: int) -> Lane | None:
        """Have the endpoint's actor look at its queue, and start it if need be.

        None where the endpoint is gone, or where all actors are to end.
        """
        entry = self._entries.get(endpoint_pk)
        if entry is None or self._is_draining:
            return None
        entry.lane.expect_more()
        if entry.actor is None:
            entry.actor = self._make_actor(entry.lane, entry.changing)
            entry.supervisor = entry.supervisor or Supervisor(f"actor {entry.lane.endpoint.id}")
            if self._nursery is not None:
                self._nursery.start_soon(self._supervise, entry, entry.actor)
        entry.notify()
        return entry.lane

    def offer(self, delivery: QueuedDelivery) -> None:
        """Give the endpoint's lane a delivery that has just been queued, which saves it a look at the queue."""
        entry = self._entries.get(delivery.endpoint_pk)
        if entry is None or entry.actor is None or self._is_draining:
            self.wake(delivery.endpoint_pk)
        elif entry.lane.offer(delivery):
            entry.notify()

    def requeued(self, endpoint_pk: int) -> None:
        """Have the endpoint's actor read its queue again, since it was changed in another way than by `offer`."""
        if (lane := self.wake(endpoint_pk)) is not None:
            lane.reload()

    async def _supervise(self, entry: _Entry, actor: Actor) -> None:
        assert entry.supervisor is not None  # noqa: S101 - set where the actor was made
        self._actors += 1
        try:
            await entry.supervisor.run(actor.run)
        finally:
            entry.actor = None
            self._actors -= 1
            if self._is_draining and not self._actors:
                self._idle.set()

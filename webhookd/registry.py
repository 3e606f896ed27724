"""The actors: at most one for each endpoint, started when there is work, each under its own supervisor.

"Registered? wake: start" is one synchronous step here, and so is an actor's "nothing left: leave" together with its
removal; between them no wake is lost. What must outlive an actor (the fill of its bucket, its crash record) is kept.
"""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

import trio

from webhookd.actor import Actor, Owner, Queue, Sender
from webhookd.clock import Clock
from webhookd.delivery.limiter import TokenBucket, new_bucket
from webhookd.delivery.renewal import Renewal
from webhookd.ids import IdFactory
from webhookd.models import Endpoint, Policy, QueuedDelivery
from webhookd.supervisor import Supervisor


@dataclass(slots=True)
class _Entry:
    endpoint: Endpoint
    policy: Policy
    bucket: TokenBucket | None
    judging: trio.Lock
    actor: Actor | None = None
    supervisor: Supervisor | None = None


class Registry:
    """Knows every endpoint and runs the actors of those with work."""

    def __init__(
        self,
        *,
        queue: Queue,
        sender: Sender,
        owner: Owner,
        clock: Clock,
        ids: IdFactory,
        sample: Callable[[], float],
        max_in_flight: int,
    ) -> None:
        self._queue = queue
        self._sender = sender
        self._owner = owner
        self._clock = clock
        self._ids = ids
        self._sample = sample
        self._slots = trio.Semaphore(max_in_flight, max_value=max_in_flight)
        self._entries: dict[int, _Entry] = {}
        self._pks: dict[str, int] = {}
        self._nursery: trio.Nursery | None = None
        self._running = 0
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
            if entry.actor is not None:
                entry.actor.retire()
            if entry.supervisor is not None:
                entry.supervisor.kick()
        if self._running:
            await self._idle.wait()

    def put(self, endpoint: Endpoint, policy: Policy, renewal: Renewal | None = None) -> None:
        """Add an endpoint, or take over what changed of it, and what that has made of its past."""
        entry = self._entries.get(endpoint.pk)
        if entry is None:
            self._entries[endpoint.pk] = _Entry(endpoint, policy, self._fresh_bucket(policy), trio.Lock())
            self._pks[endpoint.id] = endpoint.pk
            return
        bucket = self._resized_bucket(entry, policy)
        entry.endpoint, entry.policy, entry.bucket = endpoint, policy, bucket
        if entry.actor is not None:
            entry.actor.change(endpoint, policy, bucket, renewal)
        if entry.supervisor is not None:
            entry.supervisor.kick()

    def move(self, seconds: float) -> None:
        """Follow a clock that was set by so many seconds; `renew` says that the journal has followed too."""
        for entry in self._entries.values():
            if entry.bucket is not None:
                entry.bucket = entry.bucket.moved(seconds)
            if entry.actor is not None:
                entry.actor.move(seconds)

    def renew(self) -> None:
        """Have every actor read anew what it knows of its endpoint."""
        for entry in self._entries.values():
            if entry.actor is not None:
                entry.actor.renew()

    def remove(self, endpoint_pk: int) -> None:
        """Forget a deleted endpoint; its request in flight still ends and is recorded."""
        entry = self._entries.pop(endpoint_pk, None)
        if entry is not None:
            del self._pks[entry.endpoint.id]
        if entry is not None and entry.supervisor is not None:
            self._crashes_of_removed += entry.supervisor.crashes
        if entry is not None and entry.actor is not None:
            entry.actor.retire()
            if entry.supervisor is not None:
                entry.supervisor.kick()

    def judging(self, endpoint_id: str) -> AbstractAsyncContextManager[object]:
        """Hold an endpoint's answers from being judged while a change of it goes to disk, one after the other."""
        entry = self._entries.get(self._pks.get(endpoint_id, 0))
        return nullcontext() if entry is None else entry.judging

    def endpoint(self, endpoint_pk: int) -> tuple[Endpoint, Policy] | None:
        """Return what is known of an endpoint."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None else (entry.endpoint, entry.policy)

    def actor(self, endpoint_pk: int) -> Actor | None:
        """Return the endpoint's running actor."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None else entry.actor

    def bucket(self, endpoint_pk: int) -> TokenBucket | None:
        """Return the endpoint's bucket as it is; None where it has no rate limit."""
        entry = self._entries.get(endpoint_pk)
        if entry is None:
            return None
        return entry.bucket if entry.actor is None else entry.actor.bucket

    def supervisor(self, endpoint_pk: int) -> Supervisor | None:
        """Return the supervisor of the endpoint's actor, once it has had one."""
        entry = self._entries.get(endpoint_pk)
        return None if entry is None else entry.supervisor

    def halted(self) -> list[Endpoint]:
        """Return the endpoints whose actor keeps crashing."""
        return [
            entry.endpoint
            for entry in self._entries.values()
            if entry.supervisor is not None and entry.supervisor.is_halted
        ]

    @property
    def crashes(self) -> int:
        """How often an actor has crashed; one of a deleted endpoint counts no more from then on."""
        kept = (entry.supervisor.crashes for entry in self._entries.values() if entry.supervisor is not None)
        return self._crashes_of_removed + sum(kept)

    @property
    def running(self) -> int:
        """How many endpoints have an actor running."""
        return self._running

    @property
    def in_flight(self) -> int:
        """How many requests are in flight in the whole process."""
        return (self._slots.max_value or 0) - self._slots.value

    def wake(self, endpoint_pk: int) -> Actor | None:
        """Wake the endpoint's actor, or start it; None where the endpoint is gone, or where all are to end."""
        entry = self._entries.get(endpoint_pk)
        if entry is None or self._is_draining:
            return None
        if entry.actor is not None:
            entry.actor.wake()
            return entry.actor
        entry.actor = Actor(
            entry.endpoint,
            entry.policy,
            queue=self._queue,
            sender=self._sender,
            owner=self._owner,
            clock=self._clock,
            ids=self._ids,
            slots=self._slots,
            sample=self._sample,
            bucket=entry.bucket,
            judging=entry.judging,
        )
        if entry.supervisor is None:
            entry.supervisor = Supervisor(f"actor {entry.endpoint.id}")
        if self._nursery is not None:
            self._nursery.start_soon(self._supervise, entry, entry.actor)
        return entry.actor

    def offer(self, delivery: QueuedDelivery) -> None:
        """Wake the endpoint's actor for a delivery that has just been queued, which saves it the look at the queue."""
        entry = self._entries.get(delivery.endpoint_pk)
        if entry is not None and entry.actor is not None and not self._is_draining:
            entry.actor.offer(delivery)
        else:
            self.wake(delivery.endpoint_pk)

    async def _supervise(self, entry: _Entry, actor: Actor) -> None:
        assert entry.supervisor is not None  # noqa: S101 - set where the actor was made
        self._running += 1
        try:
            await entry.supervisor.run(actor.run)
        finally:
            entry.actor = None
            entry.bucket = actor.bucket
            self._running -= 1
            if self._is_draining and not self._running:
                self._idle.set()

    def _fresh_bucket(self, policy: Policy) -> TokenBucket | None:
        return None if policy.rate_limit is None else new_bucket(policy.rate_limit, self._clock.now())

    def _resized_bucket(self, entry: _Entry, policy: Policy) -> TokenBucket | None:
        current = entry.bucket if entry.actor is None else entry.actor.bucket
        if policy.rate_limit is None or current is None:
            return self._fresh_bucket(policy)
        return current.resized(policy.rate_limit, self._clock.now())

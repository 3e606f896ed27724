"""Records the deliveries that have expired behind the windows of their queues as failed: one task for all endpoints.

A lane knows when a delivery in its window expires, and its actor records that at the moment. What is outside the
windows (behind the first ones of a queue, or waiting for its back-off) is found here a second later, by one index over
all endpoints. A delivery in flight is left to its actor until it has landed.

Between two sweeps the journal isn't read: the time of the next expiry is known from the last sweep, and from what was
queued since.
"""

from math import inf

import trio

from webhookd.base.clock import Clock, wait_seconds
from webhookd.base.models import QueuedDelivery
from webhookd.dispatch.clock_steps import Schedule
from webhookd.dispatch.registry import Registry
from webhookd.dispatch.reporter import Reporter
from webhookd.journal import DeliveriesQueued, Store

GRACE_SECONDS = 1.0  # in which an actor records what is in its window
AT_ONCE = -inf


class ExpirySweep:
    """Sweeps when something has expired, while `run` runs."""

    def __init__(self, store: Store, registry: Registry, reporter: Reporter, schedule: Schedule, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._reporter = reporter
        self._schedule = schedule
        self._clock = clock
        self._next_at = AT_ONCE
        self._is_sooner = trio.Event()

    def note(self, queued: DeliveriesQueued) -> None:
        """Note that deliveries were queued, which may be the next to expire."""
        earliest = min([delivery.expires_at for delivery in queued.deliveries])
        if earliest + GRACE_SECONDS < self._next_at:
            self._sweep_at(earliest + GRACE_SECONDS)

    def look(self) -> None:
        """Have the journal read soon: expiries were changed."""
        self._sweep_at(AT_ONCE)

    def _sweep_at(self, at: float) -> None:
        self._next_at = at
        self._is_sooner.set()

    async def run(self) -> None:
        """Sweep until canceled."""
        self._next_at = AT_ONCE
        while True:
            while (seconds := self._seconds_left()) > 0:
                with trio.move_on_after(seconds):
                    await self._is_sooner.wait()
                self._is_sooner = trio.Event()
            self._next_at = inf  # what is noted during the sweep is earlier
            next_at = await self._sweep()
            self._next_at = min(self._next_at, next_at)

    def _seconds_left(self) -> float:
        return inf if self._next_at == inf else wait_seconds(self._clock, self._next_at)

    async def _sweep(self) -> float:
        """Record what has expired as failed; return when there is something to do again."""
        now = self._clock.now()
        await self._schedule.settled()
        found, has_left = await self._store.deliveries.expired(now), False
        while found.deliveries:
            free = [delivery for delivery in found.deliveries if not self._is_in_flight(delivery)]
            has_left = has_left or len(free) < len(found.deliveries)
            await self._record(free)
            if found.complete:
                break
            found = await self._store.deliveries.expired(now, after=found.deliveries[-1])
        next_at = inf if found.next_expiry_at is None else found.next_expiry_at
        return (min(next_at, now) if has_left else next_at) + GRACE_SECONDS

    def _is_in_flight(self, delivery: QueuedDelivery) -> bool:
        """Whether an expired delivery must be left alone.

        So must one of a deleted endpoint, which is being canceled, and one of an endpoint that another node drives.
        """
        lane = self._registry.lane(delivery.endpoint_pk)
        is_others = not self._store.ownership.owns(delivery.endpoint_pk)
        return lane is None or is_others or delivery.pk in lane.in_flight

    async def _record(self, expired: list[QueuedDelivery]) -> None:
        lanes = {pk: self._registry.lane(pk) for pk in {delivery.endpoint_pk for delivery in expired}}
        endpoints = {pk: lane.endpoint for pk, lane in lanes.items() if lane is not None}
        await self._reporter.expire_together(endpoints, expired)
        for pk in endpoints:
            if self._registry.running(pk) is not None:
                self._registry.requeued(pk)

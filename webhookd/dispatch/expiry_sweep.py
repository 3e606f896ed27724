"""Records the deliveries that have expired behind the windows of their queues as failed: one task for all endpoints.

A lane knows when a delivery in its window expires, and its actor records that at the moment. What is outside the
windows (behind the first ones of a queue, or waiting for its back-off) is found here a second later, by one index over
all endpoints. A delivery in flight is left to its actor until it has landed.

Between two sweeps the journal isn't read: the time of the next expiry is known from the last sweep, and from what was
queued since.

Where several nodes share the journal, other nodes queue for the endpoints of this one, too, and what has ended stays in
the index for a while. So a sweep begins at a floor: nothing that this node drives expires before it, by the last sweep
and by what it was told of since. Of a queue that has grown or was changed elsewhere it isn't known what it got, but
only that the last sweep has seen all that was accepted a minute before it. Every hour a sweep reads all.
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
LATE_SECONDS = 60.0  # that it takes at most until an event that was accepted elsewhere is in the journal
WHOLE_SECONDS = 3600.0  # after which a sweep reads all, whatever was told
NO_FLOOR = 0.0


class ExpirySweep:
    """Sweeps when something has expired, while `run` runs."""

    def __init__(self, store: Store, registry: Registry, reporter: Reporter, schedule: Schedule, clock: Clock) -> None:
        self._store = store
        self._registry = registry
        self._reporter = reporter
        self._schedule = schedule
        self._clock = clock
        self._next_at = AT_ONCE
        self._floor = NO_FLOOR
        self._swept_at = 0.0
        self._whole_at = 0.0
        self._is_sooner = trio.Event()

    def note(self, queued: DeliveriesQueued) -> None:
        """Note that deliveries were queued, which may be the next to expire."""
        self._expires_at(min([delivery.expires_at for delivery in queued.deliveries]))

    def grown(self, endpoint_pk: int) -> None:
        """Note that an endpoint's queue, or its settings, were changed, perhaps by another node."""
        if self._store.is_shared and (lane := self._registry.lane(endpoint_pk)) is not None:
            self._expires_at(self._swept_at - LATE_SECONDS + lane.policy.max_age_seconds)

    def look(self) -> None:
        """Have the journal read soon: expiries were changed, of which `grown` is told."""
        self._sweep_at(AT_ONCE)

    def look_at_all(self) -> None:
        """Have the whole journal read soon: anything may expire."""
        self._floor = NO_FLOOR
        self._sweep_at(AT_ONCE)

    def _expires_at(self, at: float) -> None:
        """Note that something may expire as early as that."""
        self._floor = min(self._floor, at)
        if at + GRACE_SECONDS < self._next_at:
            self._sweep_at(at + GRACE_SECONDS)

    def _sweep_at(self, at: float) -> None:
        self._next_at = at
        self._is_sooner.set()

    async def run(self) -> None:
        """Sweep until canceled."""
        self._next_at, self._floor = AT_ONCE, NO_FLOOR
        while True:
            while (seconds := self._seconds_left()) > 0:
                with trio.move_on_after(seconds):
                    await self._is_sooner.wait()
                self._is_sooner = trio.Event()
            floor, self._floor = self._floor, inf
            self._next_at = inf  # what is noted during the sweep is earlier
            first_at, next_at = await self._sweep(floor)
            self._floor = min(self._floor, first_at)
            self._next_at = min(self._next_at, next_at)

    def _seconds_left(self) -> float:
        return inf if self._next_at == inf else wait_seconds(self._clock, self._next_at)

    async def _sweep(self, floor: float) -> tuple[float, float]:
        """Record what has expired as failed; return the next floor, and when there is something to do again."""
        now = self._swept_at = self._clock.now()
        if not self._store.is_shared or now >= self._whole_at:
            floor, self._whole_at = NO_FLOOR, now + WHOLE_SECONDS
        await self._schedule.settled()
        found, left = await self._store.deliveries.expired(now, floor=floor), inf
        while found.deliveries:
            free = [delivery for delivery in found.deliveries if not self._is_in_flight(delivery)]
            if len(free) < len(found.deliveries):
                left = min(left, found.deliveries[0].expires_at)
            await self._record(free)
            if found.complete:
                break
            found = await self._store.deliveries.expired(now, after=found.deliveries[-1], floor=floor)
        next_at = inf if found.next_expiry_at is None else found.next_expiry_at
        first_at = min(left, next_at)
        latest = self._whole_at if self._store.is_shared else inf
        return first_at, min((min(next_at, now) if left < inf else next_at) + GRACE_SECONDS, latest)

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

"""Bugs of a server that trusts the wall clock, or follows a change of it only in part."""

from collections.abc import Callable
from dataclasses import replace
from math import inf
from typing import Any

import msgspec

from tests.simulation.bugs import BadJournal, BadSchedule
from tests.simulation.model import World
from webhookd.base.clock import Timeline
from webhookd.base.models import Endpoint
from webhookd.delivery.policy.clock_correction import Bounds
from webhookd.delivery.policy.retry import FAILURES_TO_DISABLE
from webhookd.dispatch.clock_steps import Schedule
from webhookd.dispatch.registry import Registry
from webhookd.dispatch.router import Router
from webhookd.journal import Loaded, Store, Ticket
from webhookd.journal.webhooks import Webhooks


class WallClock(Timeline):
    """Returns the time of the wall clock and reports no change of it."""

    def now(self) -> float:
        return self._now()


class UnmovedWebhooks(Webhooks):
    """Reports that times were moved, and moves none."""

    def move_times(self, seconds: float, committed: Callable[[None], None]) -> Ticket[None]:
        return super().move_times(0.0, committed)


class MovesNoQueue(BadJournal):
    """Does not move the times of queued deliveries when the clock is set."""

    def __init__(self, real: Store, world: World) -> None:
        super().__init__(real, world)
        self.webhooks = UnmovedWebhooks(real.transactions)


class UnmovedRegistry(Registry):
    """Does not move the states of endpoints when the clock is set."""

    def shift(self, seconds: float) -> None:
        return None


class FillingRegistry(Registry):
    """Adds tokens to the buckets when the clock is set, as if time had passed."""

    def shift(self, seconds: float) -> None:
        super().shift(seconds)
        for entry in self._entries.values():
            if (bucket := entry.lane.bucket) is not None:
                entry.lane.bucket = replace(
                    bucket,
                    tokens=bucket.tokens + 60.0,
                    draining=False,
                    limit=msgspec.structs.replace(bucket.limit, burst=60),
                )


class MovesNoEndpoint(Router):
    """Moves the times of queued deliveries with the clock, but not the states of endpoints."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = UnmovedRegistry


class FillsBuckets(Router):
    """Allows a burst whenever the clock is set."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = FillingRegistry


class UncorrectedSchedule(Schedule):
    """Corrects no time that is too far ahead."""

    async def load(self, endpoint: Endpoint) -> Loaded | None:
        await self.settled()
        bounds = Bounds(retry_seconds=inf, throttled_seconds=inf, age_seconds=inf)
        found, _ = await self._store.webhooks.load(self._vault, endpoint.pk, bounds, self._clock.running())
        return found


class CorrectsNothing(BadSchedule):
    """Waits for every stored time, even if it is a year ahead."""

    schedule = UncorrectedSchedule


class RestlessSchedule(Schedule):
    """Loads each endpoint that is failing as one that has been tried all the time."""

    async def load(self, endpoint: Endpoint) -> Loaded | None:
        loaded = await super().load(endpoint)
        if loaded is None or loaded[2].failing_since is None:
            return loaded
        found, credentials, state = loaded
        failures = max(state.failures_since_success, FAILURES_TO_DISABLE)
        state = msgspec.structs.replace(state, last_failure_at=None, failures_since_success=failures)
        return found, credentials, state


class CountsGapsAsOutages(BadSchedule):
    """Disables a failing webhook at its first failure after a stop, however few failures came before."""

    schedule = RestlessSchedule

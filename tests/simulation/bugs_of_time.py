"""Bugs of a server that goes by the wall clock, or follows it by half."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from tests.simulation.bugs import BadJournal
from webhookd.clock import Timeline
from webhookd.delivery.retry import FAILURES_TO_DISABLE
from webhookd.journal import Ticket, schedule
from webhookd.models import (
    Credentials,
    Endpoint,
    EndpointState,
)
from webhookd.registry import Registry
from webhookd.router import Router
from webhookd.schedule import _load as read_schedule


class WallClock(Timeline):
    """Believes whatever the wall clock says, and tells nobody."""

    def now(self) -> float:
        return self._clock.now()


class MovesNoQueue(BadJournal):
    """Leaves what is queued where it was when the clock was set."""

    def divide(self, change: Callable[..., Any], committed: Any, *args: Any, **kwargs: Any) -> Ticket[Any]:
        if change is schedule.move:
            return super().divide(lambda _: None, committed)
        return super().divide(change, committed, *args, **kwargs)


class LazyRegistry(Registry):
    """Doesn't follow a clock that is set."""

    def move(self, seconds: float) -> None:
        return None


class FillingRegistry(Registry):
    """Takes the time that a clock was set by for time to fill buckets in."""

    def move(self, seconds: float) -> None:
        super().move(seconds)
        for entry in self._entries.values():
            if entry.actor is not None and entry.actor.bucket is not None:
                bucket = entry.actor.bucket
                entry.actor.bucket = replace(
                    bucket,
                    tokens=bucket.tokens + 60.0,
                    draining=False,
                    limit=msgspec.structs.replace(bucket.limit, burst=60),
                )


class MovesNoEndpoint(Router):
    """Moves the queue with the clock, and not what is known of endpoints."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = LazyRegistry


class FillsBuckets(Router):
    """Lets a burst through whenever the clock is set."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = FillingRegistry


class ReinsNothingIn(Router):
    """Waits for whatever moment it finds, a year ahead as well."""

    async def load(self, endpoint: Endpoint) -> tuple[Endpoint, Credentials, EndpointState] | None:
        await self.settled()
        found, _ = await self._journal.read(
            read_schedule, self._vault, endpoint.pk, self._policy(endpoint), self._clock.running()
        )
        return found


class TakesARestForAnOutage(Router):
    """Disables a webhook that was failing by its first failure after a rest, however few came before."""

    async def load(self, endpoint: Endpoint) -> tuple[Endpoint, Credentials, EndpointState] | None:
        loaded = await super().load(endpoint)
        if loaded is None or loaded[2].failing_since is None:
            return loaded
        found, credentials, state = loaded
        failures = max(state.failures_since_success, FAILURES_TO_DISABLE)
        state = msgspec.structs.replace(state, last_failure_at=None, failures_since_success=failures)
        return found, credentials, state

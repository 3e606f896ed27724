"""Bugs in what a change by hand, a pause and the time after it mean for the next request."""

from typing import Any

import msgspec

from tests.simulation.bugs import BadPolicy
from webhookd.actor import Actor
from webhookd.delivery import breaker
from webhookd.delivery.renewal import Renewal
from webhookd.gate import Move
from webhookd.journal import WebhookChanged
from webhookd.models import BreakerState, Endpoint, Policy
from webhookd.registry import Registry
from webhookd.router import Router


class HeedfulRegistry(Registry):
    """Lets what was in flight as a webhook was changed count against it."""

    def put(self, endpoint: Endpoint, policy: Policy, renewal: Renewal | None = None) -> None:
        super().put(endpoint, policy, renewal)
        entry = self._entries[endpoint.pk]
        if renewal is not None and entry.actor is not None:
            entry.actor._renewals -= 1


class HeedsOldAnswers(Router):
    """Holds the failure of a request to the old URL against the new one."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = HeedfulRegistry


class ForgetsToRenew(Router):
    """Has the journal forget an outage, and goes on with it in memory."""

    def _adopt(self, changed: WebhookChanged) -> None:
        super()._adopt(WebhookChanged(changed.endpoint))
        if changed.renewal is not None and changed.endpoint.is_active:
            self.registry.wake(changed.endpoint.pk)


class HastyActor(Actor):
    """Takes a pause that is over for no pause at all."""

    def next_move(self) -> Move:
        is_over = self.state.paused_until is not None and not breaker.is_paused(self.state, self._clock.now())
        if is_over and self.state.breaker is BreakerState.CLOSED:
            self.state = msgspec.structs.replace(self.state, paused_until=None)
        return super().next_move()


class SuddenActor(Actor):
    """Knows no ramp."""

    def next_move(self) -> Move:
        self.state = msgspec.structs.replace(self.state, recovered_at=None)
        return super().next_move()


class HastyRegistry(Registry):
    """Has actors that send all at once after a pause."""

    actors: type[Actor] = HastyActor

    def wake(self, endpoint_pk: int) -> Actor | None:
        actor = super().wake(endpoint_pk)
        if actor is not None:
            actor.__class__ = self.actors
        return actor


class SuddenRegistry(HastyRegistry):
    """Has actors that send all at once after an outage."""

    actors = SuddenActor


class SendsAllAfterAPause(Router):
    """Lets everything through as soon as a pause is over."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = HastyRegistry


class SendsAllAfterAnOutage(Router):
    """Lets everything through as soon as a probe has succeeded."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = SuddenRegistry


class IgnoresConcurrency(BadPolicy):
    """Has more in flight than was asked for."""

    wrong = {"concurrency": 9}  # noqa: RUF012 - as its base has it

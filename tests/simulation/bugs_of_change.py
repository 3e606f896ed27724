"""Bugs in what a change by hand, a pause and the time after it mean for the next request."""

from typing import Any

import msgspec

from tests.simulation.bugs import BadPolicy
from webhookd.base.models import BreakerState, Endpoint, Policy
from webhookd.delivery.policy import breaker
from webhookd.delivery.policy.forgiveness import Forgiveness
from webhookd.dispatch.lane import Lane, Move
from webhookd.dispatch.registry import Registry
from webhookd.dispatch.router import Router
from webhookd.journal import WebhookChanged


class HeedfulRegistry(Registry):
    """Lets what was in flight as a webhook was changed count against it."""

    def put(self, endpoint: Endpoint, policy: Policy, forgiveness: Forgiveness | None = None) -> None:
        is_known = endpoint.pk in self._entries
        super().put(endpoint, policy, forgiveness)
        if forgiveness is not None and is_known:
            self._entries[endpoint.pk].lane._revision -= 1


class HeedsOldAnswers(Router):
    """Holds the failure of a request to the old URL against the new one."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = HeedfulRegistry


class ForgetsToForgive(Router):
    """Has the journal forget an outage, and goes on with it in memory."""

    def _adopt(self, changed: WebhookChanged) -> None:
        super()._adopt(WebhookChanged(changed.endpoint))
        if changed.forgiveness is not None and changed.endpoint.is_active:
            self.registry.wake(changed.endpoint.pk)


class HastyLane(Lane):
    """Takes a pause that is over for no pause at all."""

    __slots__ = ()

    def next(self, now: float) -> Move:
        is_over = self.state.paused_until is not None and not breaker.is_paused(self.state, now)
        if is_over and self.state.breaker is BreakerState.CLOSED:
            self.state = msgspec.structs.replace(self.state, paused_until=None)
        return super().next(now)


class SuddenLane(Lane):
    """Knows no ramp."""

    __slots__ = ()

    def next(self, now: float) -> Move:
        self.state = msgspec.structs.replace(self.state, recovered_at=None)
        return super().next(now)


class HastyRegistry(Registry):
    """Has lanes that send all at once after a pause."""

    lanes: type[Lane] = HastyLane

    def put(self, endpoint: Endpoint, policy: Policy, forgiveness: Forgiveness | None = None) -> None:
        super().put(endpoint, policy, forgiveness)
        self._entries[endpoint.pk].lane.__class__ = self.lanes


class SuddenRegistry(HastyRegistry):
    """Has lanes that send all at once after an outage."""

    lanes = SuddenLane


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

"""Bugs after a change of a webhook, after a pause and after an outage."""

from typing import Any

import msgspec

from tests.simulation.bugs import BadPolicy
from webhookd.base.models import BreakerState, Endpoint, EndpointState, Policy
from webhookd.delivery.policy import breaker
from webhookd.delivery.policy.forgiveness import Forgiveness
from webhookd.dispatch.lane import Lane, Move
from webhookd.dispatch.registry import Registry
from webhookd.dispatch.router import Router


class OldAnswersRegistry(Registry):
    """Counts the answers of requests that were in flight when a webhook was changed."""

    def put(self, endpoint: Endpoint, policy: Policy, forgiveness: Forgiveness | None = None) -> None:
        is_known = endpoint.pk in self._entries
        super().put(endpoint, policy, forgiveness)
        if forgiveness is not None and is_known:
            self._entries[endpoint.pk].lane._revision -= 1


class CountsOldAnswers(Router):
    """Counts a failure of the old URL against the new one."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = OldAnswersRegistry


class NoProbeLane(Lane):
    """Sends everything at once after a pause."""

    __slots__ = ()

    def next(self, now: float) -> Move:
        is_over = self.state.paused_until is not None and not breaker.is_paused(self.state, now)
        if is_over and self.state.breaker is BreakerState.CLOSED:
            self.state = msgspec.structs.replace(self.state, paused_until=None)
        return super().next(now)


class NoRampLane(Lane):
    """Sends everything at once after an outage."""

    __slots__ = ()

    def next(self, now: float) -> Move:
        self.state = msgspec.structs.replace(self.state, recovered_at=None)
        return super().next(now)


class UnforgivingLane(Lane):
    """Takes the failure state that a change has reset neither from the change nor from the journal."""

    __slots__ = ()

    def _forgive(self, state: EndpointState) -> None:
        super()._forgive(msgspec.structs.replace(self.state, forgiven=state.forgiven))


class NoProbeRegistry(Registry):
    """Has lanes that send everything at once after a pause."""

    lanes: type[Lane] = NoProbeLane

    def put(self, endpoint: Endpoint, policy: Policy, forgiveness: Forgiveness | None = None) -> None:
        super().put(endpoint, policy, forgiveness)
        self._entries[endpoint.pk].lane.__class__ = self.lanes


class NoRampRegistry(NoProbeRegistry):
    """Has lanes that send everything at once after an outage."""

    lanes = NoRampLane


class UnforgivingRegistry(NoProbeRegistry):
    """Has lanes that keep their failure state when their webhook is changed."""

    lanes = UnforgivingLane


class KeepsFailureState(Router):
    """Resets the failure state of a changed webhook in the journal, but not in memory."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = UnforgivingRegistry


class SendsAllAfterAPause(Router):
    """Sends everything as soon as a pause is over."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = NoProbeRegistry


class SendsAllAfterAnOutage(Router):
    """Sends everything as soon as a probe has succeeded."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self.registry.__class__ = NoRampRegistry


class IgnoresConcurrency(BadPolicy):
    """Has more requests in flight than the concurrency allows."""

    wrong = {"concurrency": 9}  # noqa: RUF012 - the base class declares the type

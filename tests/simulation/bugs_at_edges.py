"""Bugs at the sockets, in what a change means, in secrets, and in what webhookd tells of itself."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec

from tests.simulation.bugs import BadJournal, BadPolicy, BadSender
from tests.simulation.model import World
from webhookd.base.event_types import OperationalEvent
from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    Credentials,
    DeliveryError,
    Endpoint,
    EndpointState,
    Outcome,
    Policy,
    PublishResult,
    Target,
    WhenInactive,
)
from webhookd.dispatch.router import Announce, Router
from webhookd.ingest.connection import ProducerConnection
from webhookd.journal import AuditEntry, EventTypeCondition, EventTypeRow, Publish, Store, Ticket
from webhookd.journal.operations import Record


class ForgetsIdsOnRestart(BadJournal):
    """Remembers ids for as long as it runs."""

    def __init__(self, real: Store, world: World) -> None:
        super().__init__(real, world)
        self.own: set[str] = set()

    def publish(
        self, event: AcceptedEvent, targets: tuple[Target, ...], *args: Any, **kwargs: Any
    ) -> Ticket[PublishResult]:
        submission = self.world.submissions.get(event.id)
        if submission is not None and submission.acked is not None and event.id not in self.own:
            event = msgspec.structs.replace(event, id=f"{event.id}-{self.world.dice.getrandbits(32):x}")
        self.own.add(event.id)
        return super().publish(event, targets, *args, **kwargs)


class TakesHalfForYes(BadSender):
    """Takes an answer that ended midway for a success."""

    async def send(self, **request: Any) -> Outcome:
        outcome = await super().send(**request)
        if outcome.error is DeliveryError.PROTOCOL:
            return msgspec.structs.replace(outcome, error=None, status=200)
        return outcome


class IgnoresChangeOfOrder(Router):
    """Goes on in the order that an endpoint was made with."""

    def _policy(self, endpoint: Endpoint) -> Policy:
        policy = super()._policy(endpoint)
        lane = self.registry.lane(endpoint.pk)
        return policy if lane is None else msgspec.structs.replace(policy, ordering=lane.policy.ordering)


class DropsHeld(BadPolicy):
    """Drops what comes for an endpoint that is switched off."""

    wrong: ClassVar[Mapping[str, object]] = {"when_inactive": WhenInactive.DROP}


class ExpiresEarly(BadPolicy):
    """Gives up what is half a minute old."""

    wrong: ClassVar[Mapping[str, object]] = {"max_age_seconds": 30.0}


class ForgetsCatalogue(Router):
    """Acknowledges a type that it doesn't store."""

    async def put_event_type(
        self,
        row: EventTypeRow,
        entry: AuditEntry | None = None,
        condition: EventTypeCondition | None = None,
    ) -> EventTypeRow:
        self.event_types.add(row.name)
        return row


class TellsTwice(Router):
    """Publishes each operational event twice."""

    def _announcer(self, endpoint: Endpoint, name: OperationalEvent) -> Announce:
        announce = super()._announcer(endpoint, name)
        return lambda data: (*announce(data), *announce(data))


class TellsApart(BadJournal):
    """Tells of an attempt in a commit of its own, ahead of the one that has the attempt."""

    def record(self, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
        late = Record(record, ())
        if notices:
            self.transactions.submit(
                lambda _: None, lambda _: self._writer.submit(late), insists=True, tell=lambda _: notices
            )
        else:
            self._writer.submit(late)
        return late.ticket


class KeepsSecrets(Router):
    """Signs with the secret of before for longer than was asked."""

    async def load(self, endpoint: Endpoint) -> tuple[Endpoint, Credentials, EndpointState] | None:
        found = await super().load(endpoint)
        if found is None or found[1].previous_expires_at is None:
            return found
        later = msgspec.structs.replace(found[1], previous_expires_at=found[1].previous_expires_at + 3600)
        return found[0], later, found[2]


class ForgetsSecrets(Router):
    """Signs with the newest secret alone."""

    async def load(self, endpoint: Endpoint) -> tuple[Endpoint, Credentials, EndpointState] | None:
        found = await super().load(endpoint)
        if found is None:
            return None
        alone = msgspec.structs.replace(found[1], previous_secret=None, previous_expires_at=None)
        return found[0], alone, found[2]


class AnswersOutOfTurn(ProducerConnection):
    """Answers the last of several lines first, once in a while."""

    def _put(self, outcome: Any) -> None:
        super()._put(outcome)
        if len(self._outcomes) % 3 == 2:
            self._outcomes.rotate()


class KeepsDeaf(ProducerConnection):
    """Waits for a client that reads nothing for as long as it takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "write_timeout_seconds": 1e6})

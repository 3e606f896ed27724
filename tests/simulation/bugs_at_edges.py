"""Bugs of the ingest socket, of policies, of secrets, and of operational events."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import msgspec
import trio

from tests.simulation.bugs import BadJournal, BadPolicy, BadSchedule, BadSender
from tests.simulation.model import World
from webhookd.base.event_types import OperationalEvent
from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    DeliveryError,
    Endpoint,
    Outcome,
    Policy,
    PublishResult,
    Target,
    WhenInactive,
)
from webhookd.delivery.request import Request
from webhookd.dispatch.clock_steps import Schedule
from webhookd.dispatch.reporter import Announce, Reporter
from webhookd.dispatch.router import Router
from webhookd.ingest.connection import ProducerConnection
from webhookd.journal import EventTypeAdded, EventTypeRow, Loaded, Publish, Store, Ticket
from webhookd.journal.administration import EventTypes
from webhookd.journal.operations import Landed, Record
from webhookd.journal.ownership import Fence


class IgnoresIdsAfterRestart(BadJournal):
    """Recognizes duplicates only of events that were submitted in the same life."""

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


class CountsCutOffAnswers(BadSender):
    """Treats an answer that was cut off as a success."""

    async def send(self, request: Request) -> Outcome:
        outcome = await super().send(request)
        if outcome.error is DeliveryError.PROTOCOL:
            return msgspec.structs.replace(outcome, error=None, status=200)
        return outcome


class IgnoresChangeOfOrder(Router):
    """Keeps the ordering that an endpoint was created with."""

    def _policy(self, endpoint: Endpoint) -> Policy:
        policy = super()._policy(endpoint)
        lane = self.registry.lane(endpoint.pk)
        return policy if lane is None else msgspec.structs.replace(policy, ordering=lane.policy.ordering)


class DropsHeld(BadPolicy):
    """Drops the events of every disabled endpoint, also of those that hold them."""

    wrong: ClassVar[Mapping[str, object]] = {"when_inactive": WhenInactive.DROP}


class ExpiresEarly(BadPolicy):
    """Expires deliveries after half a minute."""

    wrong: ClassVar[Mapping[str, object]] = {"max_age_seconds": 30.0}


class UnstoredEventTypes(EventTypes):
    """Reports an event type as stored without storing it."""

    async def put(self, row: EventTypeRow, *_: Any, **__: Any) -> EventTypeRow:
        await trio.lowlevel.checkpoint()
        self._transactions._feed.announce(EventTypeAdded(row.name))
        return row


class LosesCatalogue(BadJournal):
    """Acknowledges a new event type without storing it."""

    def __init__(self, real: Store, world: World) -> None:
        super().__init__(real, world)
        self.event_types = UnstoredEventTypes(real.transactions)


class TwofoldReporter(Reporter):
    """Creates each operational event twice."""

    def _announcer(self, endpoint: Endpoint, name: OperationalEvent) -> Announce:
        announce = super()._announcer(endpoint, name)
        return lambda data: (*announce(data), *announce(data))


class PublishesTwice(Router):
    """Publishes each operational event twice."""

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._reporter.__class__ = TwofoldReporter


class PublishesBeforeAttempt(BadJournal):
    """Commits an operational event before the attempt that it reports."""

    def record(
        self, record: AttemptRecord, notices: Sequence[Publish] = (), *, fence: Fence | None = None, landed: Landed
    ) -> None:
        late = Record(record, (), landed)
        if notices:
            self.transactions.submit(
                lambda _: None, lambda _: self._writer.submit(late), insists=True, notices_of=lambda _: notices
            )
        else:
            self._writer.submit(late)


class LateSchedule(Schedule):
    """Loads an overlap that ends an hour later."""

    async def load(self, endpoint: Endpoint) -> Loaded | None:
        found = await super().load(endpoint)
        if found is None or found[1].previous_expires_at is None:
            return found
        later = msgspec.structs.replace(found[1], previous_expires_at=found[1].previous_expires_at + 3600)
        return found[0], later, found[2]


class KeepsSecrets(BadSchedule):
    """Signs with the previous secret for an hour longer than the overlap."""

    schedule = LateSchedule


class OneSecretSchedule(Schedule):
    """Loads no previous secret."""

    async def load(self, endpoint: Endpoint) -> Loaded | None:
        found = await super().load(endpoint)
        if found is None:
            return None
        alone = msgspec.structs.replace(found[1], previous_secret=None, previous_expires_at=None)
        return found[0], alone, found[2]


class DropsSecrets(BadSchedule):
    """Signs only with the newest secret."""

    schedule = OneSecretSchedule


class AnswersOutOfOrder(ProducerConnection):
    """Sometimes answers the last of several lines first."""

    def _put(self, outcome: Any) -> None:
        super()._put(outcome)
        if len(self._outcomes) % 3 == 2:
            self._outcomes.rotate()


class WaitsForClients(ProducerConnection):
    """Never closes the connection of a client that reads nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "write_timeout_seconds": 1e6})

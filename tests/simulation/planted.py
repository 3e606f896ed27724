"""Bugs for the simulation to find: the server's parts with one of them misbehaving. The product has no switch for any.

Each is a wrong turn that somebody could take in the real code. `PLANTED` names them; `tests/simulation` must find each
within `MOST_SEEDS` seeds.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, TypeVar

import msgspec

from tests.simulation.life import Parts
from tests.simulation.model import World
from webhookd.clock import Timeline
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy import resolve
from webhookd.ingest.connection import Connection
from webhookd.journal import EventTypeRow, Journal, Ticket, Window, WindowRequest, audit, deliveries, schedule
from webhookd.models import (
    AcceptedEvent,
    AttemptRecord,
    Credentials,
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Message,
    OperationalEvent,
    Ordering,
    Outcome,
    Policy,
    PublishResult,
    QueuedDelivery,
    Target,
    WhenInactive,
)
from webhookd.registry import Registry
from webhookd.router import EndpointSender, Router
from webhookd.schedule import _load as read_schedule

T = TypeVar("T")
MOST_SEEDS = 50


class BadJournal(Journal):
    """A journal that shares everything with the real one that it stands for, until a subclass does one thing wrong."""

    def __init__(self, real: Journal, world: World) -> None:
        vars(self).update(vars(real))
        self.world = world


class BadSender:
    """A sender that hands on to the real one."""

    def __init__(self, real: EndpointSender, world: World) -> None:
        self.real = real
        self.world = world

    async def send(
        self, *, endpoint_id: str, url: str, headers: list[tuple[str, str]], body: bytes, timeout_seconds: float
    ) -> Outcome:
        return await self.real.send(
            endpoint_id=endpoint_id, url=url, headers=headers, body=body, timeout_seconds=timeout_seconds
        )

    async def forget(self, endpoint_id: str) -> None:
        await self.real.forget(endpoint_id)


class AcksEarly(BadJournal):
    """Acknowledges an event before its commit."""

    def publish(
        self, event: AcceptedEvent, targets: tuple[Target, ...], *args: Any, **kwargs: Any
    ) -> Ticket[PublishResult]:
        super().publish(event, targets, *args, **kwargs)
        submission = self.world.submissions.get(event.id)
        acked = None if submission is None else submission.acked
        early: Ticket[PublishResult] = Ticket()
        count = len(targets) if acked is None else acked
        early.succeed(PublishResult(id=event.id, deliveries=count, duplicate=acked is not None))
        return early


class ForgetsIds(BadJournal):
    """Takes an event that is submitted again for a new one."""

    def publish(
        self, event: AcceptedEvent, targets: tuple[Target, ...], *args: Any, **kwargs: Any
    ) -> Ticket[PublishResult]:
        submission = self.world.submissions.get(event.id)
        if submission is not None and submission.acked is not None:
            event = msgspec.structs.replace(event, id=f"{event.id}-{self.world.dice.getrandbits(32):x}")
        return super().publish(event, targets, *args, **kwargs)


class LosesRecords(BadJournal):
    """Says that an attempt is on disk and forgets it, once in a while."""

    def record(self, record: AttemptRecord) -> Ticket[None]:
        if self.world.dice.random() < 0.9:
            return super().record(record)
        done: Ticket[None] = Ticket()
        done.succeed(None)
        return done


class CountsTwice(BadJournal):
    """Counts a retry as two attempts."""

    def record(self, record: AttemptRecord) -> Ticket[None]:
        return super().record(msgspec.structs.replace(record, number=record.number + (record.number > 1)))


class RetriesSucceeded(BadJournal):
    """Leaves a delivery pending that has succeeded, once in a while."""

    def record(self, record: AttemptRecord) -> Ticket[None]:
        if record.status is DeliveryStatus.SUCCEEDED and self.world.dice.random() < 0.1:
            now = self.world.clock.now()
            record = msgspec.structs.replace(
                record, status=DeliveryStatus.PENDING, completed_at=None, next_attempt_at=now
            )
        return super().record(record)


class StoresNoState(BadJournal):
    """Stores every endpoint as a healthy one, so that an outage is forgotten by whoever reads it next."""

    def record(self, record: AttemptRecord) -> Ticket[None]:
        return super().record(msgspec.structs.replace(record, endpoint=EndpointState()))


class SwapsOrder(BadJournal):
    """Hands out a queue with its first two deliveries the wrong way round."""

    async def window(self, request: WindowRequest) -> Window:
        window = await super().window(request)
        return msgspec.structs.replace(window, line=(*reversed(window.line[:2]), *window.line[2:]))


class DropsOnRefill(BadJournal):
    """Leaves a delivery out of the middle of a window."""

    async def window(self, request: WindowRequest) -> Window:
        window = await super().window(request)
        return msgspec.structs.replace(window, line=(*window.line[:1], *window.line[2:]))


class ForgetsFlights(BadJournal):
    """Reads what is in flight as if it were still to be sent."""

    async def window(self, request: WindowRequest) -> Window:
        return await super().window(msgspec.structs.replace(request, in_flight=frozenset()))


class AltersBodies(BadJournal):
    """Writes the body anew instead of sending the bytes that came in."""

    async def message(self, event_pk: int, upcoming: Callable[[], Iterable[int]] = tuple) -> Message:
        message = await super().message(event_pk, upcoming)
        return msgspec.structs.replace(message, body=msgspec.json.encode(msgspec.json.decode(message.body)))


class SkipsEndpoint(BadJournal):
    """Leaves an endpoint out when a server looks for what a crash has left to be done."""

    async def read(self, query: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        found = await super().read(query, *args, **kwargs)
        if query is deliveries.backlog:
            assert isinstance(found, list)
            del found[:1]
        return found


class LosesRecordsWhenFull(BadJournal):
    """Says that attempts are recorded while a full disk has refused them."""

    def record(self, record: AttemptRecord) -> Ticket[None]:
        if self.world.full_since is None:
            return super().record(record)
        done: Ticket[None] = Ticket()
        done.succeed(None)
        return done


class IgnoresRetryAfter(BadSender):
    """Doesn't look at Retry-After."""

    async def send(self, **request: Any) -> Outcome:
        outcome = await super().send(**request)
        headers = tuple(header for header in outcome.headers if header[0] != "retry-after")
        return msgspec.structs.replace(outcome, headers=headers)


class SendsTwice(BadSender):
    """Sends again by itself where no answer came, as if that were harmless."""

    async def send(self, **request: Any) -> Outcome:
        outcome = await super().send(**request)
        return outcome if outcome.status is not None else await super().send(**request)


class BadPolicy(Router):
    """A router that reads one rule of an endpoint wrongly."""

    wrong: ClassVar[Mapping[str, object]] = {}

    def _policy(self, endpoint: Endpoint) -> Policy:
        return msgspec.structs.replace(resolve(endpoint.overrides, DeliveryConfig()), **self.wrong)


class IgnoresBreaker(BadPolicy):
    """Never opens a breaker."""

    wrong: ClassVar[Mapping[str, object]] = {"breaker_threshold": 1000}


class IgnoresRate(BadPolicy):
    """Knows no rate limit."""

    wrong: ClassVar[Mapping[str, object]] = {"rate_limit": None}


class IgnoresOrder(BadPolicy):
    """Sends in any order."""

    wrong: ClassVar[Mapping[str, object]] = {"ordering": Ordering.NONE}


class ForgetsBreaker(Router):
    """Takes every endpoint for a healthy one after a restart."""

    async def load(self, endpoint: Endpoint) -> tuple[Endpoint, Credentials, EndpointState] | None:
        found = await super().load(endpoint)
        return None if found is None else (*found[:2], EndpointState())


class LosesWakes(Router):
    """Tells actors nothing of the events that come in."""

    def _published(self, queued: Sequence[QueuedDelivery]) -> None:
        super()._published(queued[1:])


class CancelsNothing(Router):
    """Leaves behind what a deleted endpoint had queued."""

    async def _cancel_queue(self, endpoint_pk: int) -> None:
        return None


class SendsToInactive(Router):
    """Doesn't notice that an endpoint is switched off."""

    def _adopt(self, endpoint: Endpoint, *, forgive: bool = False) -> None:
        super()._adopt(msgspec.structs.replace(endpoint, is_active=True), forgive=forgive)


class ForgetsIdsOnRestart(BadJournal):
    """Remembers ids for as long as it runs."""

    def __init__(self, real: Journal, world: World) -> None:
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
        known = self.registry.endpoint(endpoint.pk)
        return policy if known is None else msgspec.structs.replace(policy, ordering=known[1].ordering)


class DropsHeld(BadPolicy):
    """Drops what comes for an endpoint that is switched off."""

    wrong: ClassVar[Mapping[str, object]] = {"when_inactive": WhenInactive.DROP}


class ExpiresEarly(BadPolicy):
    """Gives up what is half a minute old."""

    wrong: ClassVar[Mapping[str, object]] = {"max_age_seconds": 30.0}


class ForgetsCatalogue(Router):
    """Acknowledges a type that it doesn't store."""

    async def put_event_type(self, row: EventTypeRow, deed: audit.Deed | None = None) -> EventTypeRow:
        self.event_types.add(row.name)
        return row


class TellsTwice(Router):
    """Publishes each operational event twice."""

    def _announce(self, endpoint: Endpoint, name: OperationalEvent, data: dict[str, object]) -> None:
        super()._announce(endpoint, name, data)
        super()._announce(endpoint, name, data)


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


class AnswersOutOfTurn(Connection):
    """Answers the last of several lines first, once in a while."""

    def _put(self, outcome: Any) -> None:
        super()._put(outcome)
        if len(self._outcomes) % 3 == 2:
            self._outcomes.rotate()


class KeepsDeaf(Connection):
    """Waits for a client that reads nothing for as long as it takes."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "write_timeout_seconds": 1e6})


class WallClock(Timeline):
    """Believes whatever the wall clock says, and tells nobody."""

    def now(self) -> float:
        return self._clock.now()


class MovesNoQueue(BadJournal):
    """Leaves what is queued where it was when the clock was set."""

    def insist(self, change: Callable[..., Any], committed: Any, *args: Any, **kwargs: Any) -> Ticket[Any]:
        if change is schedule.move:
            return super().insist(lambda _: None, committed)
        return super().insist(change, committed, *args, **kwargs)


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
            read_schedule, self._vault, endpoint.pk, self._policy(endpoint), self._clock.now()
        )
        return found


PLANTED: dict[str, Parts] = {
    "acks before the commit": Parts(journal=AcksEarly),
    "forgets ids": Parts(journal=ForgetsIds),
    "loses records": Parts(journal=LosesRecords),
    "loses records while the disk is full": Parts(journal=LosesRecordsWhenFull),
    "counts a retry twice": Parts(journal=CountsTwice),
    "sends again what has succeeded": Parts(journal=RetriesSucceeded),
    "stores no state of endpoints": Parts(journal=StoresNoState),
    "swaps the order": Parts(journal=SwapsOrder),
    "drops a delivery on a refill": Parts(journal=DropsOnRefill),
    "forgets what is in flight": Parts(journal=ForgetsFlights),
    "alters bodies": Parts(journal=AltersBodies),
    "skips an endpoint after a crash": Parts(journal=SkipsEndpoint),
    "ignores Retry-After": Parts(sender=IgnoresRetryAfter),
    "sends twice where no answer came": Parts(sender=SendsTwice),
    "ignores the breaker": Parts(router=IgnoresBreaker),
    "ignores the rate": Parts(router=IgnoresRate),
    "ignores the order": Parts(router=IgnoresOrder),
    "forgets the breaker on a restart": Parts(router=ForgetsBreaker),
    "loses wakes": Parts(router=LosesWakes),
    "leaves the queue of the deleted": Parts(router=CancelsNothing),
    "sends to the inactive": Parts(router=SendsToInactive),
    "forgets ids on a restart": Parts(journal=ForgetsIdsOnRestart),
    "takes half an answer for a yes": Parts(sender=TakesHalfForYes),
    "ignores a change of order": Parts(router=IgnoresChangeOfOrder),
    "drops what should be held": Parts(router=DropsHeld),
    "keeps the catalogue in memory": Parts(router=ForgetsCatalogue),
    "tells everything twice": Parts(router=TellsTwice),
    "signs with a secret of before": Parts(router=KeepsSecrets),
    "signs without the secret of before": Parts(router=ForgetsSecrets),
    "answers out of turn": Parts(connection=AnswersOutOfTurn),
    "keeps a client that reads nothing": Parts(connection=KeepsDeaf),
    "trusts the wall clock": Parts(clock=WallClock),
    "leaves the queue where the clock was": Parts(journal=MovesNoQueue),
    "leaves endpoints where the clock was": Parts(router=MovesNoEndpoint),
    "fills buckets as the clock is set": Parts(router=FillsBuckets),
    "reins nothing in": Parts(router=ReinsNothingIn),
    "expires too early": Parts(router=ExpiresEarly),
}

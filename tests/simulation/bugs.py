"""Bugs in the journal, the sender and the router: each a wrong turn that somebody could take in the real code."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
import trio

from tests.simulation.audit import rows
from tests.simulation.model import World
from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Message,
    Ordering,
    Outcome,
    Policy,
    PublishResult,
    Target,
)
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy.resolve import resolve
from webhookd.delivery.request import RequestSender
from webhookd.dispatch.clock_steps import Schedule
from webhookd.dispatch.router import Router
from webhookd.journal import (
    DeliveriesQueued,
    DeliveryRow,
    Loaded,
    Publish,
    Store,
    Ticket,
    WebhookChanged,
    Window,
    WindowRequest,
)
from webhookd.journal.history import Deliveries

T = TypeVar("T")


class BadJournal(Store):
    """A journal that shares everything with the real one that it stands for, until a subclass does one thing wrong."""

    def __init__(self, real: Store, world: World) -> None:
        vars(self).update(vars(real))
        self.world = world


class BadSender:
    """A sender that hands on to the real one."""

    def __init__(self, real: RequestSender, world: World) -> None:
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

    def record(self, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
        if self.world.dice.random() < 0.9:
            return super().record(record, notices)
        done: Ticket[None] = Ticket()
        done.succeed(None)
        return done


class CountsTwice(BadJournal):
    """Counts a retry as two attempts."""

    def record(self, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
        record = msgspec.structs.replace(record, number=record.number + (record.number > 1))
        return super().record(record, notices)


class RetriesSucceeded(BadJournal):
    """Leaves a delivery pending that has succeeded, once in a while."""

    def record(self, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
        if record.status is DeliveryStatus.SUCCEEDED and self.world.dice.random() < 0.1:
            now = self.world.clock.now()
            record = msgspec.structs.replace(
                record, status=DeliveryStatus.PENDING, completed_at=None, next_attempt_at=now
            )
        return super().record(record, notices)


class StoresNoState(BadJournal):
    """Stores every endpoint as a healthy one, so that an outage is forgotten by whoever reads it next."""

    def record(self, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
        return super().record(msgspec.structs.replace(record, endpoint=EndpointState()), notices)


class SwapsOrder(BadJournal):
    """Hands out a queue with its first two deliveries the wrong way round."""

    async def window(self, request: WindowRequest) -> Window:
        window = await super().window(request)
        return msgspec.structs.replace(window, pending=(*reversed(window.pending[:2]), *window.pending[2:]))


class DropsOnRefill(BadJournal):
    """Leaves a delivery out of the middle of a window."""

    async def window(self, request: WindowRequest) -> Window:
        window = await super().window(request)
        return msgspec.structs.replace(window, pending=(*window.pending[:1], *window.pending[2:]))


class ForgetsFlights(BadJournal):
    """Reads what is in flight as if it were still to be sent."""

    async def window(self, request: WindowRequest) -> Window:
        return await super().window(msgspec.structs.replace(request, in_flight=frozenset()))


class AltersBodies(BadJournal):
    """Writes the body anew instead of sending the bytes that came in."""

    async def message(self, event_pk: int, upcoming: Callable[[], Iterable[int]] = tuple) -> Message:
        message = await super().message(event_pk, upcoming)
        return msgspec.structs.replace(message, body=msgspec.json.encode(msgspec.json.decode(message.body)))


class SkippingDeliveries(Deliveries):
    """Doesn't know of the first endpoint's backlog."""

    async def backlog(self) -> list[int]:
        return (await super().backlog())[1:]


class SkipsEndpoint(BadJournal):
    """Leaves an endpoint out when a server looks for what a crash has left to be done."""

    def __init__(self, real: Store, world: World) -> None:
        super().__init__(real, world)
        self.deliveries = SkippingDeliveries(real.transactions)


class LosesRecordsWhenFull(BadJournal):
    """Says that attempts are recorded while a full disk has refused them."""

    def record(self, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
        if self.world.full_since is None:
            return super().record(record, notices)
        done: Ticket[None] = Ticket()
        done.succeed(None)
        return done


class TrustingDeliveries(Deliveries):
    """Takes it for granted that a delivery is still there when it is to be sent again."""

    async def retry(self, delivery_pk: int, **how: Any) -> DeliveryRow:
        await trio.sleep(0.2)
        [_] = await self._transactions.write(rows, "SELECT pk FROM deliveries WHERE pk = ?", delivery_pk)
        return await super().retry(delivery_pk, **how)


class TrustsALookUp(BadJournal):
    """Takes a delivery that was looked up a while ago to be there for good, whatever retention removes."""

    def __init__(self, real: Store, world: World) -> None:
        super().__init__(real, world)
        self.deliveries = TrustingDeliveries(real.transactions)


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


class BadSchedule(Router):
    """A router whose actors start from something that is wrong; `schedule` says from what."""

    schedule: type[Schedule] = Schedule

    def __init__(self, **parts: Any) -> None:
        super().__init__(**parts)
        self._schedule.__class__ = self.schedule


class HealthySchedule(Schedule):
    """Loads each endpoint as a healthy one."""

    async def load(self, endpoint: Endpoint) -> Loaded | None:
        found = await super().load(endpoint)
        return None if found is None else (*found[:2], EndpointState())


class ForgetsBreaker(BadSchedule):
    """Takes every endpoint for a healthy one after a restart."""

    schedule = HealthySchedule


class LosesWakes(Router):
    """Tells actors nothing of the events that come in."""

    def _offer(self, queued: DeliveriesQueued) -> None:
        super()._offer(DeliveriesQueued(()))


class CancelsNothing(Router):
    """Leaves behind what a deleted endpoint had queued."""

    async def _cancel_queue(self, endpoint_pk: int) -> None:
        return None


class SendsToInactive(Router):
    """Doesn't notice that an endpoint is switched off."""

    def _adopt(self, changed: WebhookChanged) -> None:
        super()._adopt(changed._replace(endpoint=msgspec.structs.replace(changed.endpoint, is_active=True)))

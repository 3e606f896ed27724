"""Bugs in the journal, the sender and the router: each is a mistake that could be made in the real code."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import msgspec
import trio

from tests.senders import TaskSender
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
    QueuedDelivery,
    Target,
)
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy.resolve import resolve
from webhookd.delivery.request import Request
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
from webhookd.journal.operations import Landed
from webhookd.journal.ownership import Fence

T = TypeVar("T")


class BadJournal(Store):
    """Base of journals with one bug: it shares all parts of the real journal, which it replaces."""

    def __init__(self, real: Store, world: World) -> None:
        vars(self).update(vars(real))
        self.world = world


class BadSender(TaskSender):
    """Base of senders with one bug: it forwards to the real sender."""

    def __init__(self, real: TaskSender, world: World) -> None:
        self.nursery = real.nursery
        self.real = real
        self.world = world

    async def send(self, request: Request) -> Outcome:
        return await self.real.send(request)


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


class IgnoresIds(BadJournal):
    """Stores an event that is submitted again as a new one."""

    def publish(
        self, event: AcceptedEvent, targets: tuple[Target, ...], *args: Any, **kwargs: Any
    ) -> Ticket[PublishResult]:
        submission = self.world.submissions.get(event.id)
        if submission is not None and submission.acked is not None:
            event = msgspec.structs.replace(event, id=f"{event.id}-{self.world.dice.getrandbits(32):x}")
        return super().publish(event, targets, *args, **kwargs)


class LosesAttempts(BadJournal):
    """Sometimes reports an attempt as recorded without storing it."""

    def record(
        self, record: AttemptRecord, notices: Sequence[Publish] = (), *, fence: Fence | None = None, landed: Landed
    ) -> None:
        if self.world.dice.random() < 0.9:
            super().record(record, notices, fence=fence, landed=landed)
        else:
            landed_soon(landed)


class CountsTwice(BadJournal):
    """Counts a retry as two attempts."""

    def record(
        self, record: AttemptRecord, notices: Sequence[Publish] = (), *, fence: Fence | None = None, landed: Landed
    ) -> None:
        record = msgspec.structs.replace(record, number=record.number + (record.number > 1))
        super().record(record, notices, fence=fence, landed=landed)


class RetriesSucceeded(BadJournal):
    """Sometimes leaves a succeeded delivery pending."""

    def record(
        self, record: AttemptRecord, notices: Sequence[Publish] = (), *, fence: Fence | None = None, landed: Landed
    ) -> None:
        if record.status is DeliveryStatus.SUCCEEDED and self.world.dice.random() < 0.1:
            now = self.world.clock.now()
            record = msgspec.structs.replace(
                record, status=DeliveryStatus.PENDING, completed_at=None, next_attempt_at=now
            )
        super().record(record, notices, fence=fence, landed=landed)


class StoresNoState(BadJournal):
    """Stores every endpoint as healthy, so that an outage is lost when its state is read again."""

    def record(
        self, record: AttemptRecord, notices: Sequence[Publish] = (), *, fence: Fence | None = None, landed: Landed
    ) -> None:
        super().record(msgspec.structs.replace(record, endpoint=EndpointState()), notices, fence=fence, landed=landed)


class SwapsOrder(BadJournal):
    """Swaps the first two deliveries of each window."""

    async def window(self, request: WindowRequest) -> Window:
        window = await super().window(request)
        return msgspec.structs.replace(window, pending=(*reversed(window.pending[:2]), *window.pending[2:]))


class DropsOnRefill(BadJournal):
    """Leaves the second delivery out of each window."""

    async def window(self, request: WindowRequest) -> Window:
        window = await super().window(request)
        return msgspec.structs.replace(window, pending=(*window.pending[:1], *window.pending[2:]))


class IgnoresInFlight(BadJournal):
    """Includes deliveries in flight in a window, as if they were still to be sent."""

    async def window(self, request: WindowRequest) -> Window:
        return await super().window(msgspec.structs.replace(request, in_flight=frozenset()))


class AltersBodies(BadJournal):
    """Decodes and encodes each body instead of sending the bytes that were submitted."""

    def take_message(self, delivery: QueuedDelivery) -> Message | None:
        message = super().take_message(delivery)
        return None if message is None else altered(message)

    def read_message(
        self, event_pk: int, upcoming: Callable[[], Iterable[int]], got: Callable[[Message | Exception], None]
    ) -> None:
        super().read_message(
            event_pk, upcoming, lambda found: got(found if isinstance(found, Exception) else altered(found))
        )


def altered(message: Message) -> Message:
    return msgspec.structs.replace(message, body=msgspec.json.encode(msgspec.json.decode(message.body)))


def landed_soon(landed: Landed) -> None:
    """Report a record as written, in a later turn of the loop."""
    trio.lowlevel.spawn_system_task(_land, landed)


async def _land(landed: Landed) -> None:
    landed(None)


class SkippingDeliveries(Deliveries):
    """Leaves the first endpoint out of the backlog."""

    async def backlog(self) -> list[int]:
        return (await super().backlog())[1:]


class SkipsEndpoint(BadJournal):
    """Ignores the backlog of one endpoint when a server starts."""

    def __init__(self, real: Store, world: World) -> None:
        super().__init__(real, world)
        self.deliveries = SkippingDeliveries(real.transactions)


class LosesAttemptsWhenFull(BadJournal):
    """Reports attempts as recorded that a full disk has refused."""

    def record(
        self, record: AttemptRecord, notices: Sequence[Publish] = (), *, fence: Fence | None = None, landed: Landed
    ) -> None:
        if self.world.full_since is None:
            super().record(record, notices, fence=fence, landed=landed)
        else:
            landed_soon(landed)


class AssumingDeliveries(Deliveries):
    """Crashes if a delivery was deleted between its look-up and its retry."""

    async def retry(self, delivery_pk: int, **how: Any) -> DeliveryRow:
        await trio.sleep(0.2)
        [_] = await self._transactions.write(rows, "SELECT pk FROM deliveries WHERE pk = ?", delivery_pk)
        return await super().retry(delivery_pk, **how)


class AssumesExistence(BadJournal):
    """Assumes that a delivery which was looked up still exists, although retention may have deleted it."""

    def __init__(self, real: Store, world: World) -> None:
        super().__init__(real, world)
        self.deliveries = AssumingDeliveries(real.transactions)


class IgnoresRetryAfter(BadSender):
    """Ignores Retry-After."""

    async def send(self, request: Request) -> Outcome:
        outcome = await super().send(request)
        headers = tuple(header for header in outcome.headers if header[0] != "retry-after")
        return msgspec.structs.replace(outcome, headers=headers)


class SendsTwice(BadSender):
    """Repeats a request at once when there was no answer."""

    async def send(self, request: Request) -> Outcome:
        outcome = await super().send(request)
        return outcome if outcome.status is not None else await super().send(request)


class BadPolicy(Router):
    """Base of routers that get one setting of each endpoint wrong."""

    wrong: ClassVar[Mapping[str, object]] = {}

    def _policy(self, endpoint: Endpoint) -> Policy:
        return msgspec.structs.replace(resolve(endpoint.overrides, DeliveryConfig()), **self.wrong)


class IgnoresBreaker(BadPolicy):
    """Never opens a circuit breaker."""

    wrong: ClassVar[Mapping[str, object]] = {"breaker_threshold": 1000}


class IgnoresRate(BadPolicy):
    """Has no rate limit."""

    wrong: ClassVar[Mapping[str, object]] = {"rate_limit": None}


class IgnoresOrder(BadPolicy):
    """Sends without order."""

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


class ResetsBreaker(BadSchedule):
    """Treats every endpoint as healthy after a restart."""

    schedule = HealthySchedule


class LosesWakes(Router):
    """Does not wake actors for new deliveries."""

    def _offer(self, queued: DeliveriesQueued) -> None:
        super()._offer(DeliveriesQueued(()))


class CancelsNothing(Router):
    """Leaves the queue of a deleted endpoint pending."""

    async def _cancel_queue(self, endpoint_pk: int) -> None:
        return None


class SendsToInactive(Router):
    """Treats disabled endpoints as enabled."""

    def _adopt(self, changed: WebhookChanged) -> None:
        super()._adopt(changed._replace(endpoint=msgspec.structs.replace(changed.endpoint, is_active=True)))

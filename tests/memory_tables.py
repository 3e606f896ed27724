"""The data of the store in memory, and its commits: what was submitted, in batches and in its order.

Events are planned by the same function as on disk.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec
import trio

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    Credentials,
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Ordering,
    QueuedDelivery,
    Trigger,
)
from webhookd.delivery.policy import breaker
from webhookd.journal import Feed, Floors, Publish, Ticket, Window, WindowRequest
from webhookd.journal.operations import Record
from webhookd.journal.planning import Numbers, plan, settle

T = TypeVar("T")
UNFINISHED = {DeliveryStatus.PENDING, DeliveryStatus.PARKED}


@dataclass(slots=True, kw_only=True)
class Stored:
    """A delivery: what an actor sees of it, and what only lists show."""

    queued: QueuedDelivery
    event_type: str
    completed_at: float | None = None
    error: DeliveryError | None = None
    response_status: int | None = None
    duration_seconds: float | None = None

    @property
    def is_unfinished(self) -> bool:
        return self.queued.status in UNFINISHED

    def change(self, **fields: Any) -> None:
        self.queued = msgspec.structs.replace(self.queued, **fields)


@dataclass(slots=True, kw_only=True)
class Webhook:
    """A webhook with its secrets; a deleted one has no `state`."""

    endpoint: Endpoint
    credentials: Credentials
    state: EndpointState | None = field(default_factory=EndpointState)
    last_sequence: int = 0
    edition: int = 0


@dataclass(slots=True, kw_only=True)
class _Change(Generic[T]):
    """A change, its callback after the commit, and the function that returns the events about its result."""

    make: Callable[[], T]
    committed: Callable[[T], None] | None = None
    notices_of: Callable[[T], Sequence[Publish]] | None = None
    ticket: Ticket[T] = field(default_factory=Ticket)
    notices: Sequence[Publish] = ()

    def fail(self, error: Exception) -> None:
        self.ticket.fail(error)


class Tables:
    """What is stored, and what is submitted and not committed."""

    def __init__(self, ids: IdFactory) -> None:
        self.feed = Feed()
        self.events: dict[int, AcceptedEvent] = {}
        self.event_pks: dict[str, tuple[int, int]] = {}
        self.deliveries: dict[int, Stored] = {}
        self.attempts: list[AttemptRecord] = []
        self.webhooks: dict[int, Webhook] = {}
        self._ids = ids
        self._numbers = Numbers(event=0, delivery=0)
        self._submitted: list[Publish | Record | _Change[Any]] = []
        self._woken = trio.Event()

    def submit(self, operation: Publish | Record | _Change[Any]) -> None:
        self._submitted.append(operation)
        self._woken.set()

    def change(
        self,
        make: Callable[[], T],
        committed: Callable[[T], None] | None = None,
        *,
        notices_of: Callable[[T], Sequence[Publish]] | None = None,
    ) -> Ticket[T]:
        change = _Change(make=make, committed=committed, notices_of=notices_of)
        self.submit(change)
        return change.ticket

    async def run(self) -> None:
        try:
            while True:
                await self._woken.wait()
                self.commit()
        finally:
            self.commit()

    def commit(self) -> None:
        batch, self._submitted = self._submitted, []
        self._woken = trio.Event()
        settled: list[Callable[[], None]] = []
        for operation in batch:
            try:
                settled += self._apply(operation)
            except Rejected as refused:
                settled.append(lambda failed=operation, error=refused: failed.fail(error))  # type: ignore[misc]
        for settle_one in settled:
            settle_one()

    def _apply(self, operation: Publish | Record | _Change[Any]) -> list[Callable[[], None]]:
        match operation:
            case Publish():
                return self._publish([operation])
            case Record():
                self._record(operation.record)
                return [*self._publish(operation.notices), operation.succeed]
            case _:
                result = operation.make()
                notices = () if operation.notices_of is None else operation.notices_of(result)
                callbacks = [] if operation.committed is None else [lambda: operation.committed(result)]  # type: ignore[misc]
                return [*callbacks, *self._publish(notices), lambda: operation.ticket.succeed(result)]

    def _publish(self, publishes: Sequence[Publish]) -> list[Callable[[], None]]:
        known = {
            event_id: (self.events[pk].organization_id, count)
            for publish in publishes
            if (event_id := publish.event.id) in self.event_pks
            for pk, count in [self.event_pks[event_id]]
        }
        alive = {pk: each.last_sequence for pk, each in self.webhooks.items() if each.state is not None}
        planned = plan(
            publishes,
            known=known,
            sequences=alive,
            numbers=self._numbers,
            is_full=False,
            new_delivery_id=lambda: self._ids.new(Prefix.DELIVERY),
        )
        self._numbers = planned.numbers
        for pk, publish, queued in planned.stored:
            self.events[pk] = publish.event
            self.event_pks[publish.event.id] = (pk, len(queued))
            for each in queued:
                self.deliveries[each.pk] = Stored(queued=each, event_type=publish.event.type)
        for endpoint_pk, last in planned.sequences.items():
            self.webhooks[endpoint_pk].last_sequence = last
        settle(planned)
        return [lambda publish=publish: self._settle(publish) for publish in publishes]  # type: ignore[misc]

    def _settle(self, publish: Publish) -> None:
        if publish.queued:
            publish.committed(publish.queued)
        if publish.error is not None:
            publish.ticket.fail(publish.error)
        else:
            assert publish.result is not None
            publish.ticket.succeed(publish.result)

    def _record(self, record: AttemptRecord) -> None:
        self.attempts.append(record)
        stored = self.deliveries[record.delivery.pk]
        outcome = record.outcome
        stored.response_status, stored.duration_seconds = outcome.status, outcome.duration_seconds
        stored.change(attempts=record.number)
        if stored.is_unfinished:
            is_interrupted = record.error is DeliveryError.INTERRUPTED
            stored.change(
                status=record.status,
                trigger=record.trigger if is_interrupted else Trigger.AUTO,
                refusals=record.refusals,
                backoff_step=record.backoff_step,
                next_attempt_at=record.next_attempt_at,
            )
            stored.completed_at, stored.error = record.completed_at, record.error
        webhook = self.webhooks[record.delivery.endpoint_pk]
        if webhook.state is not None and webhook.state.forgiven == record.endpoint.forgiven:
            webhook.state = record.endpoint

    def move(self, seconds: float) -> None:
        """Move every scheduled time by that many seconds."""
        for each in self.deliveries.values():
            if each.is_unfinished:
                queued = each.queued
                each.change(
                    next_attempt_at=round(queued.next_attempt_at + seconds, 3),
                    expires_at=round(queued.expires_at + seconds, 3),
                )
        for webhook in self.webhooks.values():
            if webhook.state is not None:
                webhook.state = breaker.shifted(webhook.state, seconds)

    def of(self, endpoint_pk: int, *statuses: DeliveryStatus) -> list[Stored]:
        """Return a webhook's deliveries of these statuses, in the order of their sequences."""
        own = (each for each in self.deliveries.values() if each.queued.endpoint_pk == endpoint_pk)
        return sorted(
            (each for each in own if not statuses or each.queued.status in statuses),
            key=lambda each: each.queued.sequence,
        )

    def alive(self, endpoint_id: str) -> Webhook:
        for webhook in self.webhooks.values():
            if webhook.endpoint.id == endpoint_id and webhook.state is not None:
                return webhook
        raise Rejected(ErrorCode.NOT_FOUND, f"there is no webhook {endpoint_id}")


def due_if_fresh(delivery: QueuedDelivery, now: float) -> QueuedDelivery:
    """Return a delivery that doesn't back off as due now at the latest."""
    if delivery.backoff_step or delivery.next_attempt_at <= now:
        return delivery
    return msgspec.structs.replace(delivery, next_attempt_at=now)


def by_hand_of(pending: Iterable[QueuedDelivery], request: WindowRequest) -> list[QueuedDelivery]:
    """Return the deliveries retried by hand that are due and that no order holds back, which are sent first."""
    found = [
        each
        for each in pending
        if each.trigger is Trigger.MANUAL
        and each.next_attempt_at <= request.now
        and (request.ordering is Ordering.NONE or (request.ordering is Ordering.KEY and each.ordering_key is None))
    ]
    return sorted(found, key=lambda each: (each.next_attempt_at, each.sequence))


def floor_of(delivery: QueuedDelivery, floors: Floors) -> int:
    """Return the floor of the part of the queue in which a pending delivery is."""
    return floors.backing_off if delivery.backoff_step else floors.fresh


def window_of(tables: Tables, request: WindowRequest) -> Window:
    """Return a window, as the docstrings of `Window` and `windows.read` define it."""
    now, limit = request.now, request.limit + len(request.in_flight)
    pending = [due_if_fresh(each.queued, now) for each in tables.of(request.endpoint_pk, DeliveryStatus.PENDING)]
    parked = [each.queued for each in tables.of(request.endpoint_pk, DeliveryStatus.PARKED)]
    webhook = tables.webhooks[request.endpoint_pk]
    edition = 0 if webhook.state is None else webhook.edition
    fit = [each for each in pending if each.sequence >= floor_of(each, request.floors.at(edition))]
    match request.ordering:
        case Ordering.KEY:
            fit = [
                each
                for each in fit
                if (each.next_attempt_at <= now if each.ordering_key is None else True)
                and each.ordering_key not in request.blocked_keys
            ]
        case Ordering.NONE:
            due = [each for each in fit if each.next_attempt_at <= now]
            fit = sorted(due, key=lambda each: (each.next_attempt_at, each.sequence))
    by_hand = by_hand_of(fit, request)
    due_parked = sorted(
        (each for each in parked if each.next_attempt_at <= now), key=lambda each: each.next_attempt_at
    )[:limit]
    later = [each.next_attempt_at for each in parked if each.next_attempt_at > now]
    if request.ordering is not Ordering.STRICT:
        later += [each.next_attempt_at for each in pending if each.next_attempt_at > now]
    queued = [*by_hand, *(each for each in fit[:limit] if each not in by_hand)]

    def free(found: Iterable[QueuedDelivery], *, expired: bool) -> tuple[QueuedDelivery, ...]:
        return tuple(each for each in found if each.pk not in request.in_flight and (each.expires_at <= now) is expired)

    return Window(
        pending=free(queued, expired=False),
        parked=free(due_parked, expired=False),
        expired=free([*queued, *due_parked], expired=True),
        complete=max(len(fit), len(due_parked)) < limit,
        next_attempt_at=min(later, default=None),
        last_sequence=0 if webhook.state is None else webhook.last_sequence,
        edition=edition,
    )

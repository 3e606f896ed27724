"""Test deliveries: one request at once, outside the endpoint's queue, with its attempt on record.

A test ignores circuit breaker and rate limit, and doesn't change the endpoint's state.
"""

from collections.abc import Awaitable, Callable

import msgspec
import trio

from webhookd.base.clock import Clock
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import seal_envelope
from webhookd.base.event_types import TEST_EVENT
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    Credentials,
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Outcome,
    Policy,
    QueuedDelivery,
    Trigger,
)
from webhookd.delivery.policy.breaker import AnswerKind
from webhookd.delivery.policy.retry import classify
from webhookd.delivery.request import Receiver, Request, RequestSender, compose, send
from webhookd.journal import AuditEntry, DeliveryDetail, Store

MOST_AT_ONCE = 16

Load = Callable[[Endpoint], Awaitable[tuple[Endpoint, Credentials, EndpointState] | None]]


class Tester:
    """Makes test deliveries, at most 16 at a time; `load` reads an endpoint and its secrets."""

    def __init__(
        self,
        store: Store,
        sender: RequestSender,
        clock: Clock,
        ids: IdFactory,
        *,
        load: Load,
        policy: Callable[[Endpoint], Policy],
    ) -> None:
        self._store = store
        self._sender = sender
        self._clock = clock
        self._ids = ids
        self._load = load
        self._policy = policy
        self._slots = trio.Semaphore(MOST_AT_ONCE, max_value=MOST_AT_ONCE)

    async def test(self, endpoint: Endpoint, entry: AuditEntry | None = None) -> DeliveryDetail:
        """Send `webhook.test` to an endpoint; return the delivery and its attempt once they are on disk."""
        async with self._slots:
            if (loaded := await self._load(endpoint)) is None:
                raise Rejected(ErrorCode.NOT_FOUND, f"the webhook {endpoint.id} has just been deleted")
            endpoint, credentials, _ = loaded
            began_at, now = trio.current_time(), self._clock.now()
            event = own_event(
                TEST_EVENT, endpoint, {"webhookId": endpoint.id}, event_id=self._ids.new(Prefix.EVENT), now=now
            )
            delivery = _delivery(endpoint, self._ids.new(Prefix.DELIVERY), now)
            headers = compose(
                receiver=Receiver(endpoint, credentials),
                message=event.message,
                delivery_id=delivery.id,
                number=1,
                sequence=None,
                at=now,
            )
            try:
                timeout_seconds = self._policy(endpoint).timeout_seconds
                outcome = await send(
                    self._sender, Request(endpoint.id, endpoint.url, headers, event.body, timeout_seconds)
                )
            except trio.Cancelled:
                seconds = trio.current_time() - began_at
                cut_off = Outcome(duration_seconds=seconds, error=DeliveryError.INTERRUPTED, detail="given up")
                self._store.deliveries.add_test(event, self._record(delivery, cut_off), endpoint, entry)
                raise
            return await self._store.deliveries.add_test(event, self._record(delivery, outcome), endpoint, entry).wait()

    def _record(self, delivery: QueuedDelivery, outcome: Outcome) -> AttemptRecord:
        found = classify(outcome)
        return AttemptRecord(
            delivery=delivery,
            attempt_id=self._ids.new(Prefix.ATTEMPT),
            number=1,
            trigger=Trigger.TEST,
            started_at=delivery.created_at,
            outcome=outcome,
            error=found.error,
            status=DeliveryStatus.SUCCEEDED if found.answer is AnswerKind.SUCCESS else DeliveryStatus.FAILED,
            refusals=0,
            backoff_step=0,
            completed_at=self._clock.now(),
            endpoint=EndpointState(),
        )


def own_event(name: str, endpoint: Endpoint, data: dict[str, object], *, event_id: str, now: float) -> AcceptedEvent:
    """Return an event of webhookd's own about an endpoint, in the endpoint's organization."""
    return AcceptedEvent(
        id=event_id,
        type=name,
        organization_id=endpoint.organization_id,
        ordering_key=endpoint.id,
        traceparent=None,
        timestamp=now,
        accepted_at=now,
        body=seal_envelope(event_id, name, now, msgspec.json.encode(data), endpoint.organization_id),
    )


def _delivery(endpoint: Endpoint, delivery_id: str, now: float) -> QueuedDelivery:
    return QueuedDelivery(
        pk=0,  # its row is inserted after the attempt
        id=delivery_id,
        endpoint_pk=endpoint.pk,
        event_pk=0,
        ordering_key=None,
        sequence=0,
        status=DeliveryStatus.PENDING,
        trigger=Trigger.TEST,
        attempts=0,
        refusals=0,
        backoff_step=0,
        next_attempt_at=now,
        created_at=now,
        expires_at=now,
    )

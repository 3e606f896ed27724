"""The last attempts, in memory, for live views that don't query the journal.

Their number is bounded. A reader that asks too seldom misses some, and can tell; the journal has every attempt. The
process numbers them from 1; `run` distinguishes its numbers from those of another process.
"""

import os
from collections import deque
from collections.abc import Iterator
from itertools import islice

from msgspec import Struct

from webhookd.base.models import AttemptRecord, BreakerState, DeliveryError, DeliveryStatus, Endpoint, Message, Trigger

MOST_KEPT = 1000


class AttemptFacts(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt with the resulting state of its delivery and endpoint, as a flat record for the log and the feed."""

    id: str
    endpoint_id: str
    organization_id: str | None
    delivery_id: str
    event_id: str
    event_type: str
    traceparent: str | None
    sequence: int
    number: int
    trigger: Trigger
    started_at: float
    duration_seconds: float
    waited_seconds: float
    body_bytes: int
    remote_address: str | None
    is_reused: bool | None
    response_status: int | None
    error: DeliveryError | None
    detail: str
    retry_after_seconds: float | None
    status: DeliveryStatus
    refusals: int
    next_attempt_at: float | None
    breaker: BreakerState
    consecutive_faults: int


def facts_of(endpoint: Endpoint, message: Message, record: AttemptRecord) -> AttemptFacts:
    """Return the flat record of an attempt."""
    delivery, outcome = record.delivery, record.outcome
    return AttemptFacts(
        id=record.attempt_id,
        endpoint_id=endpoint.id,
        organization_id=endpoint.organization_id,
        delivery_id=delivery.id,
        event_id=message.event_id,
        event_type=message.type,
        traceparent=message.traceparent,
        sequence=delivery.sequence,
        number=record.number,
        trigger=record.trigger,
        started_at=record.started_at,
        duration_seconds=outcome.duration_seconds,
        waited_seconds=max(record.started_at - delivery.created_at, 0.0),  # the clock may have been set back
        body_bytes=len(message.body),
        remote_address=outcome.remote_address,
        is_reused=outcome.is_reused,
        response_status=outcome.status,
        error=record.error,
        detail=outcome.detail,
        retry_after_seconds=record.retry_after_seconds,
        status=record.status,
        refusals=record.refusals,
        next_attempt_at=record.next_attempt_at,
        breaker=record.endpoint.breaker,
        consecutive_faults=record.endpoint.consecutive_faults,
    )


class AttemptFeed:
    """The last 1,000 attempts of this process."""

    def __init__(self) -> None:
        self.run = int.from_bytes(os.urandom(6))
        self.last = 0
        self._kept: deque[AttemptFacts] = deque(maxlen=MOST_KEPT)

    def add(self, attempt: AttemptFacts) -> None:
        """Add an attempt; above the limit the oldest is dropped."""
        self.last += 1
        self._kept.append(attempt)

    def after(self, place: int) -> Iterator[tuple[int, AttemptFacts]]:
        """Yield the attempts after the number `place` that are still kept, oldest first, with their numbers."""
        # Counted from the newest: a reader that follows the feed has seen nearly all of them.
        first = max(len(self._kept) - max(self.last - place, 0), 0)
        numbers = range(self.last - len(self._kept) + 1 + first, self.last + 1)
        yield from zip(numbers, islice(self._kept, first, None), strict=True)

    def has_gap(self, place: int) -> bool:
        """Whether some attempts after the number `place` are no longer kept."""
        return self.last - place > len(self._kept)

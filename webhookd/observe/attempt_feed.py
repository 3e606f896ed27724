"""The last attempts, in memory: what a live view shows without asking the journal.

Bounded in number, so a reader that comes too seldom has gaps, and is told; the journal keeps every attempt. They are
numbered from 1 by the process, whose `run` tells its numbers from those of another run.
"""

import os
from collections import deque
from collections.abc import Iterator
from itertools import islice

from msgspec import Struct

from webhookd.base.models import AttemptRecord, BreakerState, DeliveryError, DeliveryStatus, Endpoint, Message, Trigger

MOST_KEPT = 1000


class AttemptFacts(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt and what it made of its delivery and its endpoint, flat: the log and the feed tell of it by this."""

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
    """Return what there is to tell of an attempt."""
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
    """Keeps the last 1,000 attempts; the first one of a process has the number 1."""

    def __init__(self) -> None:
        self.run = int.from_bytes(os.urandom(6))
        self.last = 0
        self._kept: deque[AttemptFacts] = deque(maxlen=MOST_KEPT)

    def add(self, attempt: AttemptFacts) -> None:
        """Keep one; the oldest goes where there are too many."""
        self.last += 1
        self._kept.append(attempt)

    def after(self, place: int) -> Iterator[tuple[int, AttemptFacts]]:
        """Yield what is kept of those that came after the one with that number, oldest first, with their numbers."""
        # Counted from the newest: who follows has seen nearly all of them.
        first = max(len(self._kept) - max(self.last - place, 0), 0)
        numbers = range(self.last - len(self._kept) + 1 + first, self.last + 1)
        yield from zip(numbers, islice(self._kept, first, None), strict=True)

    def has_gap(self, place: int) -> bool:
        """Whether some that came after the one with that number are no longer kept."""
        return self.last - place > len(self._kept)

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


class RecentAttempt(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt and what it made of its delivery and its endpoint."""

    place: int
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
    remote_address: str | None
    is_reused: bool | None
    response_status: int | None
    error: DeliveryError | None
    detail: str
    status: DeliveryStatus
    refusals: int
    next_attempt_at: float | None
    breaker: BreakerState


class AttemptFeed:
    """Keeps the last 1,000."""

    def __init__(self) -> None:
        self.run = int.from_bytes(os.urandom(6))
        self.last = 0
        self._kept: deque[RecentAttempt] = deque(maxlen=MOST_KEPT)

    def add(self, endpoint: Endpoint, message: Message, record: AttemptRecord) -> None:
        """Keep one, which the oldest goes for."""
        self.last += 1
        delivery, outcome = record.delivery, record.outcome
        self._kept.append(
            RecentAttempt(
                place=self.last,
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
                waited_seconds=record.started_at - delivery.created_at,
                remote_address=outcome.remote_address,
                is_reused=outcome.is_reused,
                response_status=outcome.status,
                error=record.error,
                detail=outcome.detail,
                status=record.status,
                refusals=record.refusals,
                next_attempt_at=record.next_attempt_at,
                breaker=record.endpoint.breaker,
            )
        )

    def after(self, place: int) -> Iterator[RecentAttempt]:
        """Yield what is kept of those that came after the one with that number, oldest first."""
        # Counted from the newest: whoever follows has seen nearly all of them.
        first = max(len(self._kept) - max(self.last - place, 0), 0)
        yield from islice(self._kept, first, None)

    def has_gap(self, place: int) -> bool:
        """Whether some that came after the one with that number are no longer kept."""
        return self.last - place > len(self._kept)

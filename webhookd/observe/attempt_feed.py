"""The last attempts, in memory, for live views that don't query the journal.

Their number is bounded. A reader that asks too seldom misses some, and can tell; the journal has every attempt. The
process numbers them from 1; `run` distinguishes its numbers from those of another process. Of several nodes none has
the attempts of all: there they are read from the journal.
"""

import os
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import NamedTuple

from msgspec import Struct

from webhookd.base.models import AttemptRecord, BreakerState, DeliveryError, DeliveryStatus, Endpoint, Message, Trigger

MOST_KEPT = 1000


class AttemptFacts(Struct, frozen=True, gc=False):
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
    # By position, in the order of the fields: by name it takes eight times as long.
    return AttemptFacts(
        record.attempt_id,
        endpoint.id,
        endpoint.organization_id,
        delivery.id,
        message.event_id,
        message.type,
        message.traceparent,
        delivery.sequence,
        record.number,
        record.trigger,
        record.started_at,
        outcome.duration_seconds,
        max(record.started_at - delivery.created_at, 0.0),  # the clock may have been set back
        len(message.body),
        outcome.remote_address,
        outcome.is_reused,
        outcome.status,
        record.error,
        outcome.detail,
        record.retry_after_seconds,
        record.status,
        record.refusals,
        record.next_attempt_at,
        record.endpoint.breaker,
        record.endpoint.consecutive_faults,
    )


Place = tuple[int, ...]
"""The place of an attempt in a feed: its numbers are the feed's own."""


class FeedPage(NamedTuple):
    """Attempts with their places, oldest first; `gap`: some before them are missing.

    `last` is where the next ones begin.
    """

    attempts: Sequence[tuple[Place, AttemptFacts]]
    last: Place
    gap: bool


class AttemptFeed:
    """The last 1,000 attempts of this process; a place is its `run` and a number."""

    def __init__(self) -> None:
        self.run = int.from_bytes(os.urandom(6))
        self.last = 0
        self._kept: deque[AttemptFacts] = deque(maxlen=MOST_KEPT)

    def add(self, attempt: AttemptFacts) -> None:
        """Add an attempt; above the limit the oldest is dropped."""
        self.last += 1
        self._kept.append(attempt)

    def after(self, place: Place | None) -> FeedPage:
        """Return the attempts after a place, or all without one, as far as they are still kept."""
        number, gap = 0, False
        if place is not None:
            run, number = place
            if run != self.run or number > self.last:  # from before a restart of the server
                number, gap = 0, True
            gap = gap or self.last - number > len(self._kept)
        # Counted from the newest: a reader that follows the feed has seen nearly all of them.
        first = max(len(self._kept) - max(self.last - number, 0), 0)
        numbers = range(self.last - len(self._kept) + 1 + first, self.last + 1)
        places = ((self.run, each) for each in numbers)
        kept = zip(places, islice(self._kept, first, None), strict=True)
        return FeedPage(attempts=list(kept), last=(self.run, self.last), gap=gap)

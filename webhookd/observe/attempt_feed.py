"""The last attempts, in memory, for live views that don't query the journal.

Their number is bounded. A reader that asks too seldom misses some, and can tell; the journal has every attempt. The
process numbers them from 1; `run` distinguishes its numbers from those of another process.
"""

import os
from collections import deque
from collections.abc import Iterator
from itertools import islice

from msgspec import Struct
from msgspec.structs import replace

from webhookd.base.models import AttemptRecord, Endpoint, Message

MOST_KEPT = 1000


class Attempt(Struct, frozen=True, kw_only=True, gc=False):
    """One attempt with its endpoint and its event, for the log and the feed."""

    endpoint: Endpoint
    message: Message
    record: AttemptRecord

    @property
    def waited_seconds(self) -> float:
        """The time from the delivery's creation to the attempt; the clock may have been set back."""
        return max(self.record.started_at - self.record.delivery.created_at, 0.0)


class AttemptFeed:
    """The last 1,000 attempts of this process."""

    def __init__(self) -> None:
        self.run = int.from_bytes(os.urandom(6))
        self.last = 0
        self._kept: deque[Attempt] = deque(maxlen=MOST_KEPT)

    def add(self, attempt: Attempt) -> None:
        """Add an attempt, without bodies and headers, which take memory; above the limit the oldest is dropped."""
        self.last += 1
        outcome = replace(attempt.record.outcome, body=b"", headers=())
        self._kept.append(
            Attempt(
                endpoint=attempt.endpoint,
                message=replace(attempt.message, body=b""),
                record=replace(attempt.record, outcome=outcome),
            )
        )

    def after(self, place: int) -> Iterator[tuple[int, Attempt]]:
        """Yield the attempts after the number `place` that are still kept, oldest first, with their numbers."""
        # Counted from the newest: a reader that follows the feed has seen nearly all of them.
        first = max(len(self._kept) - max(self.last - place, 0), 0)
        numbers = range(self.last - len(self._kept) + 1 + first, self.last + 1)
        yield from zip(numbers, islice(self._kept, first, None), strict=True)

    def has_gap(self, place: int) -> bool:
        """Whether some attempts after the number `place` are no longer kept."""
        return self.last - place > len(self._kept)

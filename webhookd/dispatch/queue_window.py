"""The window of one endpoint's queue: the part that was last read from the journal, and when to read again. Pure.

However long the backlog is, a window holds no more than one read may return.
"""

from collections.abc import Collection, Container, Iterable
from dataclasses import dataclass, field

from webhookd.base.models import DeliveryStatus, Ordering, QueuedDelivery, Trigger, Verdict
from webhookd.journal import NO_FLOORS, NOTHING_UNFINISHED, Floors, Window

MOST_BODIES_AHEAD = 49  # with the first one a whole window of a strict queue
_UNFINISHED = (DeliveryStatus.PENDING, DeliveryStatus.PARKED)


@dataclass(slots=True, eq=False)
class QueueWindow:
    """The known part of an endpoint's queue.

    `is_being_read`: the journal has been asked and hasn't answered yet. `is_stale`: the journal was changed after the
    read. `has_more`: the journal may hold deliveries that aren't in the window. `lacks_keys`: the read left out the
    deliveries of some ordering keys. `expired` are deliveries that are too old and have yet to be recorded as failed.

    `_floors` are those of the last read, and `_floors_since` cover what has become pending again since it was begun.
    """

    is_stale: bool = True
    has_more: bool = False
    lacks_keys: bool = False
    is_being_read: bool = False
    expired: tuple[QueuedDelivery, ...] = ()
    _pending: list[QueuedDelivery] = field(default_factory=list)
    _parked: list[QueuedDelivery] = field(default_factory=list)
    _waiting: dict[str, float] = field(default_factory=dict)
    _refill_at: float | None = None
    _was_taken_from: bool = False
    _lacks_flights: bool = False
    _limit: int = 0
    _last_sequence: int = 0
    _taken_since_bodies: int = 0
    _floors: Floors = NO_FLOORS
    _floors_since: Floors = NO_FLOORS

    def __len__(self) -> int:
        return len(self._pending) + len(self._parked) + len(self.expired)

    def begin_read(self, limit: int, *, lacks_keys: bool, lacks_flights: bool) -> Floors:
        """Note that the journal is about to be read, perhaps without what is in flight; later changes are noted again.

        Nothing may be taken until the window has been loaded, since it may be out of date. Return from where on the
        journal has to be read.
        """
        floors = self._floors.and_below(self._floors_since)
        self._floors_since = NOTHING_UNFINISHED
        self.is_stale = self.has_more = False
        self.is_being_read = True
        self.lacks_keys = lacks_keys
        self._lacks_flights = lacks_flights
        self._limit = limit
        return floors

    def came_back(self, delivery: QueuedDelivery, verdict: Verdict | None) -> None:
        """Note that a delivery was recorded that has not succeeded: the window must be read again.

        Its record may have moved it from one part of the queue to the other.
        """
        self.is_stale = True
        if verdict is not None and verdict.status in _UNFINISHED:
            at = delivery.next_attempt_at if verdict.next_attempt_at is None else verdict.next_attempt_at
            self._floors_since = self._floors_since.covering(delivery.sequence, at)

    def forget_floors(self) -> None:
        """Note that any part of the queue may have been changed, so that all of it must be read the next time."""
        self._floors_since = NO_FLOORS

    def load(self, window: Window) -> None:
        """Load the window that the journal returned."""
        self.is_being_read = False
        self.expired = window.expired
        self.has_more = self.has_more or not window.complete
        self._last_sequence = window.last_sequence
        self._floors = window.floors
        self._pending = list(window.pending)
        self._parked = list(window.parked)
        self._was_taken_from = self._lacks_flights
        # What is outside the window expires without it: see `expiry_sweep`.
        expiries = [delivery.expires_at for delivery in (*self._pending, *self._parked)]
        self._refill_at = earliest(window.next_attempt_at, *expiries)

    def append(self, delivery: QueuedDelivery) -> bool:
        """Append the last delivery of the queue, or note that the journal has more.

        It is appended only to a window that isn't being read and holds everything before it. A gap in the sequences
        means that other deliveries were queued without `append`. Return whether this changes anything for a queue in
        strict order, where a delivery behind a waiting head changes nothing.
        """
        before = bool(self._pending), self.has_more, self._refill_at
        knows_all = not (self.is_stale or self.has_more or self.lacks_keys or self.is_being_read)
        follows = delivery.sequence == self._last_sequence + 1
        if not (knows_all and follows) or len(self._pending) >= self._limit:
            self.has_more = True
        else:
            self._last_sequence += 1
            self._pending.append(delivery)
            self._refill_at = earliest(self._refill_at, delivery.expires_at)
        return before != (True, self.has_more, self._refill_at)

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to send, now or later."""
        return not len(self) and self._refill_at is None

    @property
    def knows_next(self) -> bool:
        """Whether the window is up to date and has a delivery."""
        return bool(self._pending) and not self.is_stale and not self.expired

    @property
    def is_spent(self) -> bool:
        """Whether all deliveries of the window have been taken, so that only the journal knows what comes later."""
        return not len(self) and self._was_taken_from

    def needs_read(self, now: float, ordering: Ordering, *, found: bool) -> bool:
        """Whether the journal must be read before the next move; `found`: the window has a delivery to send.

        In strict order a head that waits for its back-off is enough to know, whatever is queued after it.
        """
        if self.is_stale or (self._refill_at is not None and now >= self._refill_at):
            return True
        return self.has_more and not found and not (ordering is Ordering.STRICT and self._pending)

    def next_event_at(self, now: float, ordering: Ordering) -> float | None:
        """Return when the next known delivery falls due or expires; None if there is none."""
        heads = self._pending[:1] if ordering is Ordering.STRICT else self._pending
        waiting = [delivery.next_attempt_at for delivery in heads if delivery.next_attempt_at > now]
        return earliest(self._refill_at, *waiting)

    def candidate(
        self, now: float, ordering: Ordering, *, busy_keys: Container[str], held: Collection[int], by_hand_first: bool
    ) -> QueuedDelivery | None:
        """Return the delivery to send next, or None.

        Parked deliveries that are due come first: they are few and have waited longest. With `by_hand_first` (an open
        breaker) a delivery that was retried by hand is preferred, since it may be the probe.
        """
        if ordering is Ordering.STRICT and not (self._parked or held or by_hand_first):
            head = self._pending[0] if self._pending else None
            return head if head is not None and head.next_attempt_at <= now else None
        chosen = None
        for delivery in self._eligible(now, ordering, busy_keys):
            if delivery.pk in held:
                continue
            if not by_hand_first or delivery.trigger is Trigger.MANUAL:
                return delivery
            chosen = chosen or delivery
        return chosen

    def take(self, delivery: QueuedDelivery) -> None:
        """Remove a delivery, which is sent now."""
        self._was_taken_from = True
        self._taken_since_bodies += 1
        for waiting in (self._pending, self._parked):
            if waiting and waiting[0] is delivery:
                del waiting[0]
                return
        (self._parked if delivery in self._parked else self._pending).remove(delivery)

    def upcoming(self) -> list[int]:
        """Return the row numbers of the events of the next deliveries, whose bodies are read ahead.

        They are twice as many as were taken since the last call. So a queue that flows has its bodies read in large
        parts, and one that waits, or loses what was read ahead before it is needed, in small ones.
        """
        ahead = min(2 * self._taken_since_bodies, MOST_BODIES_AHEAD)
        self._taken_since_bodies = 0
        return [delivery.event_pk for delivery in self._pending[:ahead]]

    def waiting_keys(self, now: float) -> frozenset[str]:
        """Return the ordering keys whose first delivery waits for its back-off, in this window or in earlier ones.

        A window may be full of deliveries that wait behind one of them. If the key were forgotten after the next read,
        the one after that would be full of them again.
        """
        if self.is_stale:
            self._waiting.clear()  # a retry by hand may have ended a back-off
        else:
            self._waiting = {key: at for key, at in self._waiting.items() if at > now}
            for delivery in self._pending:
                key = delivery.ordering_key
                if key is not None and key not in self._waiting and delivery.next_attempt_at > now:
                    self._waiting[key] = delivery.next_attempt_at
        return frozenset(self._waiting)

    def _eligible(self, now: float, ordering: Ordering, busy_keys: Container[str]) -> Iterable[QueuedDelivery]:
        yield from (delivery for delivery in self._parked if delivery.next_attempt_at <= now)
        if ordering is Ordering.STRICT:
            yield from (delivery for delivery in self._pending[:1] if delivery.next_attempt_at <= now)
            return
        seen: set[str] = set()
        for delivery in self._pending:
            key = delivery.ordering_key if ordering is Ordering.KEY else None
            if key is not None:
                if key in seen or key in busy_keys:
                    continue
                seen.add(key)
            if delivery.next_attempt_at <= now:
                yield delivery


def earliest(*times: float | None) -> float | None:
    """Return the earliest of the times that aren't None."""
    return min([at for at in times if at is not None], default=None)

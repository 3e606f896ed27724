"""A plain model of what is promised of one endpoint: a list of deliveries, and for each moment which may be sent.

It stands for the journal too: it answers reads of the queue, and keeps what the written records made of the rows.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

import msgspec

from tests.memory_tables import by_hand_of
from tests.samples import AT, endpoint, queued_delivery
from webhookd.base.models import (
    BreakerState,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Ordering,
    Policy,
    QueuedDelivery,
    RateLimit,
    Trigger,
    Verdict,
)
from webhookd.delivery.policy.forgiveness import Forgiveness
from webhookd.delivery.request import Receiver
from webhookd.journal import Floors, Window, WindowRequest

RAMP_SECONDS = 10.0
ROUNDING = 1e-6


@dataclass
class Row:
    """A delivery as the journal has it; `end` says how it ended."""

    delivery: QueuedDelivery
    end: str | None = None


@dataclass
class InFlight:
    """A delivery in flight; `verdict` once it is settled."""

    delivery: QueuedDelivery
    receiver: Receiver
    is_probe: bool
    verdict: Verdict | None = None
    is_written: bool = False


@dataclass
class Model:
    """What is promised; `window_rows` bounds what a read of the queue returns."""

    policy: Policy
    window_rows: int
    now: float = AT
    endpoint: Endpoint = field(default_factory=endpoint)
    state: EndpointState = field(default_factory=EndpointState)
    stored: EndpointState = field(default_factory=EndpointState)
    rows: dict[int, Row] = field(default_factory=dict)
    flights: dict[int, InFlight] = field(default_factory=dict)
    held: list[int] = field(default_factory=list)
    tokens: float = 1.0
    is_draining: bool = True
    edition: int = 0

    # What happens.

    def queue(self, key: str | None) -> QueuedDelivery:
        """Store one more delivery."""
        number = len(self.rows) + 1
        delivery = msgspec.structs.replace(
            queued_delivery(),
            pk=number,
            event_pk=number,
            sequence=number,
            ordering_key=key,
            next_attempt_at=self.now,
            created_at=self.now,
            expires_at=self.now + self.policy.max_age_seconds,
        )
        self.rows[number] = Row(delivery)
        return delivery

    def pass_time(self, seconds: float) -> None:
        """Let time pass, in which the bucket fills: with one token at most while it drains a backlog."""
        self.now += seconds
        if (limit := self.policy.rate_limit) is not None:
            most = 1.0 if self.is_draining else float(limit.burst)
            self.tokens = min(self.tokens + seconds * limit.per_second, most)

    def set_clock(self, seconds: float) -> None:
        """Set the clock, and all that waits with it."""
        self.now += seconds
        for row in self.rows.values():
            due, expires_at = row.delivery.next_attempt_at + seconds, row.delivery.expires_at + seconds
            row.delivery = msgspec.structs.replace(row.delivery, next_attempt_at=due, expires_at=expires_at)
        self.state, self.stored = self._shifted(self.state, seconds), self._shifted(self.stored, seconds)

    @staticmethod
    def _shifted(state: EndpointState, seconds: float) -> EndpointState:
        times = {name: getattr(state, name) for name in EndpointState.SHIFTED}
        moved = {name: round(at + seconds, 3) for name, at in times.items() if at is not None}
        return msgspec.structs.replace(state, **moved)

    def take(self, delivery: QueuedDelivery, receiver: Receiver) -> None:
        """Send a delivery."""
        self.flights[delivery.pk] = InFlight(delivery, receiver, self._needs_probe)
        if self._needs_probe and self.state.breaker is not BreakerState.CLOSED:
            self.state = msgspec.structs.replace(self.state, breaker=BreakerState.HALF_OPEN)
        if self.policy.rate_limit is not None:
            self.tokens -= 1.0

    def write(self, flight: InFlight) -> None:
        """Put what an attempt made of delivery and endpoint on disk."""
        if flight.is_written or (verdict := flight.verdict) is None:
            return
        flight.is_written = True
        self.stored = verdict.endpoint
        row = self.rows[flight.delivery.pk]
        if verdict.completed_at is not None:
            row.end = verdict.status.value
        assert (verdict.next_attempt_at is None) == (row.end is not None)
        row.delivery = msgspec.structs.replace(
            flight.delivery,
            status=verdict.status,
            trigger=Trigger.AUTO,
            attempts=flight.delivery.attempts + 1,
            refusals=verdict.refusals,
            backoff_step=verdict.backoff_step,
            next_attempt_at=verdict.next_attempt_at or self.now,
        )

    def retry(self, pk: int) -> None:
        """Make a delivery that isn't in flight go again by hand."""
        self.edition += 1
        row = self.rows[pk]
        row.end = None
        row.delivery = msgspec.structs.replace(
            row.delivery,
            status=DeliveryStatus.PENDING,
            trigger=Trigger.MANUAL,
            refusals=0,
            backoff_step=0,
            next_attempt_at=self.now,
            expires_at=self.now + self.policy.max_age_seconds,
        )

    def sweep(self) -> None:
        """Record what has expired as failed, in a window or not; what is in flight is left alone."""
        for row in self.unended:
            if row.delivery.expires_at <= self.now and row.delivery.pk not in self.flights:
                row.end = "expired"

    def change(self, changed: Endpoint, policy: Policy, forgiveness: Forgiveness | None) -> None:
        """Change the endpoint, and its queue where the change forgives something."""
        if policy.rate_limit is not None:
            if self.policy.rate_limit is None:
                self.tokens, self.is_draining = 1.0, True
            self.tokens = min(self.tokens, float(policy.rate_limit.burst))
        self.endpoint, self.policy = changed, policy
        if forgiveness is None:
            return
        self.state = self.stored = forgiveness.state
        for flight in self.flights.values():
            flight.is_probe = False
        self.edition += 1
        for row in self.rows.values():
            if row.delivery.next_attempt_at > forgiveness.due_at:
                row.delivery = msgspec.structs.replace(row.delivery, next_attempt_at=forgiveness.due_at, backoff_step=0)

    # What is promised.

    @property
    def unended(self) -> list[Row]:
        """What is still to be sent, in sequence."""
        return [row for row in self.rows.values() if row.end is None]

    def sendable(self, at: float) -> list[Row]:
        """Return what may be sent at a moment, the pace not looked at."""
        return [row for row in self.unended if self._may_send(row.delivery, at)]

    @property
    def has_token(self) -> bool:
        """Whether the bucket holds a token, if there is one."""
        return self.policy.rate_limit is None or self.tokens >= 1.0 - ROUNDING

    def allowance(self, at: float) -> int:
        """Return how many may be in flight at a moment."""
        if self.policy.ordering is Ordering.STRICT:
            return 1
        recovered_at, most = self.state.recovered_at, self.policy.concurrency
        if recovered_at is None or self.policy.rate_limit is not None or at >= recovered_at + RAMP_SECONDS:
            return most
        return 1 + int((most - 1) * max(at - recovered_at, 0.0) / RAMP_SECONDS) if at >= recovered_at else most

    def is_retry_with_key(self, delivery: QueuedDelivery) -> bool:
        """Whether a delivery was retried by hand and has its place in the order of a key."""
        is_ordered = self.policy.ordering is Ordering.KEY and delivery.ordering_key is not None
        return is_ordered and delivery.trigger is Trigger.MANUAL

    @property
    def _needs_probe(self) -> bool:
        return self.state.breaker is not BreakerState.CLOSED or self.state.paused_until is not None

    def _may_send(self, delivery: QueuedDelivery, at: float) -> bool:
        state = self.state
        is_paused = state.paused_until is not None and at < state.paused_until
        is_open = state.breaker is BreakerState.OPEN and at < (state.retry_at or 0.0)
        return (
            self.endpoint.is_active
            and delivery.pk not in self.flights
            and delivery.pk not in self.held
            and delivery.next_attempt_at <= at < delivery.expires_at
            and self._is_first(delivery)
            and len(self.flights) < self.allowance(at)
            and not is_paused
            and not (is_open and delivery.trigger is not Trigger.MANUAL)
            and not (self._needs_probe and any(flight.is_probe for flight in self.flights.values()))
        )

    def _is_first(self, delivery: QueuedDelivery) -> bool:
        return delivery.status is DeliveryStatus.PARKED or not any(self._before(delivery))

    def _before(self, delivery: QueuedDelivery) -> Iterator[bool]:
        ordering, key = self.policy.ordering, delivery.ordering_key
        if ordering is Ordering.NONE or (ordering is Ordering.KEY and key is None):
            return
        for row in self.unended:
            other = row.delivery
            if other.sequence < delivery.sequence and other.status is DeliveryStatus.PENDING:
                yield ordering is Ordering.STRICT or other.ordering_key == key

    # What the journal answers.

    def read(self, request: WindowRequest) -> Window:
        """Return the part of the queue that was asked for: all that isn't below a floor of its edition."""
        floors, now, ordering = request.floors.at(self.edition), request.now, request.ordering
        queued = [row.delivery for row in self.unended]
        line = [each for each in queued if each.status is DeliveryStatus.PENDING and self._is_in_line(each, floors)]
        parked = [each for each in queued if each.status is DeliveryStatus.PARKED]
        by_time = [*parked, *(each for each in queued if self._is_by_time(each, ordering))]
        due = [each for each in by_time if floors.due_at <= each.next_attempt_at <= now]
        if ordering is Ordering.NONE:
            backing_off = [each for each in due if each.status is DeliveryStatus.PENDING and each.backoff_step]
            line = [each for each in line if not each.backoff_step] + backing_off
        known = [each for each in line if each.pk not in request.in_flight and self._is_asked_for(each, request)]
        if ordering is Ordering.NONE:
            known.sort(key=lambda each: (each.next_attempt_at, each.sequence))
        by_hand = [each for each in by_hand_of(queued, request) if each in due and each.pk not in request.in_flight]
        due_parked = sorted(
            (each for each in due if each.status is DeliveryStatus.PARKED and each.pk not in request.in_flight),
            key=lambda each: each.next_attempt_at,
        )
        waiting = parked if ordering is Ordering.STRICT else [*parked, *(each for each in queued if each.backoff_step)]
        later = [each.next_attempt_at for each in waiting if each.next_attempt_at > now]
        next_attempt_at = min((at for at in later if at >= floors.later_at), default=None)
        in_window = [*by_hand, *(each for each in known[: self.window_rows] if each not in by_hand)]
        parked_in_window = due_parked[: self.window_rows]
        return Window(
            pending=tuple(each for each in in_window if each.expires_at > now),
            parked=tuple(each for each in parked_in_window if each.expires_at > now),
            expired=tuple(each for each in (*in_window, *parked_in_window) if each.expires_at <= now),
            complete=max(len(known), len(due_parked)) <= self.window_rows,
            next_attempt_at=next_attempt_at,
            last_sequence=len(self.rows),
            edition=self.edition,
            floors=Floors(
                edition=self.edition,
                fresh=self._first(line, backs_off=False),
                backing_off=self._first(line, backs_off=True) if ordering is not Ordering.NONE else 0,
                due_at=min((each.next_attempt_at for each in due), default=now),
                later_at=inf if next_attempt_at is None else next_attempt_at,
            ),
        )

    def _first(self, line: list[QueuedDelivery], *, backs_off: bool) -> int:
        found = (each.sequence for each in line if bool(each.backoff_step) is backs_off)
        return min(found, default=len(self.rows) + 1)

    @staticmethod
    def _is_in_line(delivery: QueuedDelivery, floors: Floors) -> bool:
        return delivery.sequence >= (floors.backing_off if delivery.backoff_step else floors.fresh)

    @staticmethod
    def _is_by_time(delivery: QueuedDelivery, ordering: Ordering) -> bool:
        """Whether a pending delivery is read by its time, too."""
        if delivery.status is not DeliveryStatus.PENDING or ordering is Ordering.STRICT:
            return False
        is_by_hand = delivery.trigger is Trigger.MANUAL
        if ordering is Ordering.KEY:
            return is_by_hand and delivery.ordering_key is None
        return is_by_hand or delivery.backoff_step > 0

    @staticmethod
    def _is_asked_for(delivery: QueuedDelivery, request: WindowRequest) -> bool:
        is_due = delivery.next_attempt_at <= request.now
        match request.ordering:
            case Ordering.STRICT:
                return True
            case Ordering.KEY if delivery.ordering_key is not None:
                return delivery.ordering_key not in request.blocked_keys
            case _:
                return is_due


def paced(per_second: float, burst: int) -> RateLimit:
    """Return a rate limit."""
    return RateLimit(per_second=per_second, burst=burst)

"""A lane: the state by which one endpoint's actor decides what to send and when. Each change is one synchronous step.

A lane is pure: no I/O, no clock, no randomness; `now` and samples are arguments. It holds the endpoint's settings, the
window of its queue, its circuit breaker (`EndpointState`), its token bucket, its probe, the deliveries in flight and
the deliveries that are held. `forgiveness.forgive` decides, in a change's transaction, what the change forgives; the
lane applies the result.

    queued --take--> in flight --settle--> settled --landed--> written, failed or refused
             <--put_back--

A delivery is put back if settings change or the lane stops before its request begins. It is settled when its answer has
come: `settle` returns the verdict that the journal records. It stays in flight until the record has landed, and its
successor is sent only then. If the record failed, memory and journal may differ, and nothing is sent until the lane
begins again. If it was refused, the lane stops.

Anything but a success makes the window stale. Nothing is then sent until the window has been read from the journal.
`next` checks, in this order: is there something to send, is the webhook active, does its breaker admit a request, do
its concurrency and its rate limit?
"""

from dataclasses import InitVar, dataclass, field
from enum import Enum

import msgspec

from webhookd.base.models import (
    BreakerState,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Ordering,
    Outcome,
    Policy,
    QueuedDelivery,
    Trigger,
    Verdict,
)
from webhookd.delivery.policy import breaker, rate_limit
from webhookd.delivery.policy.breaker import Hold
from webhookd.delivery.policy.forgiveness import Forgiveness
from webhookd.delivery.policy.rate_limit import TokenBucket, new_bucket
from webhookd.delivery.policy.retry import Since, decide
from webhookd.delivery.request import Receiver
from webhookd.dispatch.queue_window import QueueWindow, earliest
from webhookd.journal import Window, WindowRequest

LINGER_SECONDS = 30.0
MIN_WINDOW = 50
NO_KEYS: frozenset[str] = frozenset()


class Why(Enum):
    """What an actor waits for."""

    READING = "reading"
    HELD = "held"
    IDLE = "idle"
    INACTIVE = "inactive"
    PAUSED = "paused"
    OPEN = "open"
    PROBING = "probing"
    BACK_OFF = "back_off"
    RATE = "rate"
    SENDING = "sending"


class Send(msgspec.Struct, frozen=True, gc=False):
    """Send this delivery now."""

    delivery: QueuedDelivery


class Expire(msgspec.Struct, frozen=True, gc=False):
    """Record these deliveries, whose age has passed, as failed."""

    deliveries: tuple[QueuedDelivery, ...]


class Wait(msgspec.Struct, frozen=True, gc=False):
    """Wait for a change of the lane, at most until then (None: without a limit)."""

    until: float | None
    why: Why


class Step(Enum):
    """The moves that have no data."""

    REFILL = "refill"
    LEAVE = "leave"


Move = Send | Expire | Wait | Step


class Landing(Enum):
    """The result of recording an attempt."""

    WRITTEN = "written"
    FAILED = "failed"  # a crash: the record may be on disk or not
    REFUSED = "refused"  # not on disk: the journal takes no more records from this lane


@dataclass(slots=True)
class Flight:
    """A delivery in flight, with its verdict once it is settled."""

    delivery: QueuedDelivery
    verdict: Verdict | None = None


_CLEAN = EndpointState()
_WHY = {Hold.PAUSED: Why.PAUSED, Hold.OPEN: Why.OPEN, Hold.PROBING: Why.PROBING}


@dataclass(slots=True, eq=False)
class Lane:
    """The state of one endpoint.

    `needs_load`: settings and secrets must be read before the next delivery is taken; nothing is taken during the read,
    nor before `begin` and after `close`. `_revision` counts the changes that forgave something: an attempt that began
    before such a change counts less, see `retry.Since`.
    """

    endpoint: Endpoint
    policy: Policy
    now: InitVar[float]
    bucket: TokenBucket | None = None
    state: EndpointState = _CLEAN
    queue: QueueWindow = field(default_factory=QueueWindow)
    in_flight: dict[int, Flight] = field(default_factory=dict)
    needs_load: bool = True
    is_loaded: bool = False
    is_stopped: bool = False
    _held: tuple[int, ...] = ()
    _probe: int | None = None
    _revision: int = 0
    _active_at: float = 0.0
    _is_ahead: bool = False

    def __post_init__(self, now: float) -> None:
        self.resize(now)

    def begin(self, now: float) -> None:
        """Begin again with nothing in flight; settings, secrets and `state` must be read before a delivery is taken."""
        self.queue = QueueWindow()  # the last actor may have ended during a read
        self.needs_load = True
        self._active_at = now
        self._is_ahead = False

    def begin_load(self) -> int:
        """Note that settings and secrets are about to be read; return their revision."""
        self.needs_load = self.is_loaded = False
        return self._revision

    def loaded(self) -> None:
        """Note that settings and secrets have been read."""
        self.is_loaded = True

    def close(self) -> None:
        """Take nothing until the lane begins again; requests in flight may still end."""
        self.is_loaded = False

    def stop(self) -> None:
        """Send nothing more; requests in flight still end and are recorded."""
        self.is_stopped = True

    def offer(self, delivery: QueuedDelivery) -> bool:
        """Append a delivery that has just been queued; return whether the actor may have something to do now.

        While a webhook is disabled, or the head of a strict queue waits, deliveries behind a first one don't wake the
        actor.
        """
        is_news = self.queue.append(delivery)
        return is_news or (self.endpoint.is_active and self.policy.ordering is not Ordering.STRICT)

    def expect_more(self) -> None:
        """Note that the journal may hold more deliveries after those in the window."""
        self.queue.has_more = True

    def reload(self) -> None:
        """Note that the journal was changed, so that the window must be read again."""
        self.queue.is_stale = True

    def begin_refill(self, now: float) -> WindowRequest:
        """Note that the queue is about to be read; return the request to the journal."""
        has_keys = self.policy.ordering is Ordering.KEY
        blocked_keys = self._busy_keys() | self.queue.waiting_keys(now) if has_keys else NO_KEYS
        limit = max(MIN_WINDOW, 2 * self.policy.concurrency)
        floors = self.queue.begin_read(limit, lacks_keys=bool(blocked_keys), lacks_flights=bool(self.in_flight))
        return WindowRequest(
            endpoint_pk=self.endpoint.pk,
            ordering=self.policy.ordering,
            limit=limit,
            now=now,
            blocked_keys=blocked_keys,
            in_flight=frozenset(self.in_flight),
            floors=floors,
        )

    def load(self, window: Window) -> None:
        """Load the window that the journal returned to the request of `begin_refill`."""
        self.queue.load(window)

    def hold(self, delivery_pk: int) -> None:
        """Keep a delivery from being sent while its row is changed by hand."""
        self._held = (*self._held, delivery_pk)

    def release(self, delivery_pk: int) -> None:
        """End one `hold`; the window is read again, since the row has changed."""
        at = self._held.index(delivery_pk)
        self._held = self._held[:at] + self._held[at + 1 :]
        self.reload()

    def next(self, now: float) -> Move:
        """Return the next move."""
        if self.is_stopped or self._is_ahead:
            return Step.LEAVE
        queue, ordering, state = self.queue, self.policy.ordering, self.state
        if queue.is_being_read:
            return Wait(None, Why.READING)
        if queue.expired and not queue.is_stale:
            expired = tuple([delivery for delivery in queue.expired if delivery.pk not in self._held])
            return Expire(expired) if expired else Wait(None, Why.HELD)
        candidate = queue.candidate(
            now,
            ordering,
            busy_keys=self._busy_keys() if ordering is Ordering.KEY else NO_KEYS,
            held=self._held,
            by_hand_first=state.breaker is not BreakerState.CLOSED,
        )
        if queue.needs_read(now, ordering, found=candidate is not None):
            return Step.REFILL
        if candidate is None or not self.endpoint.is_active:
            return self._without_candidate(now)
        is_by_hand = candidate.trigger is Trigger.MANUAL
        if (hold := breaker.admit(state, now, probing=self._probe is not None, by_hand=is_by_hand)) is not None:
            until, why = hold[1], _WHY[hold[0]]
        elif len(self.in_flight) >= (most := rate_limit.allowed_in_flight(self.policy, state.recovered_at, now))[0]:
            until, why = most[1], Why.SENDING
        elif self.bucket is not None and (ready_at := self.bucket.ready_at(now)) > now:
            until, why = ready_at, Why.RATE
        else:
            return Send(candidate)
        return Wait(earliest(until, queue.next_event_at(now, ordering)), why)

    def _without_candidate(self, now: float) -> Move:
        event_at = self.queue.next_event_at(now, self.policy.ordering)
        if self.in_flight:
            return Wait(event_at, Why.SENDING)
        if self.queue.is_spent or self.queue.is_empty:
            leave_at = self._active_at + LINGER_SECONDS
            if now < leave_at:
                return Wait(earliest(leave_at, event_at), Why.IDLE)
            return Step.REFILL if self.queue.is_spent else Step.LEAVE
        return Wait(event_at, Why.BACK_OFF if self.endpoint.is_active else Why.INACTIVE)

    def _busy_keys(self) -> frozenset[str]:
        keys = (flight.delivery.ordering_key for flight in self.in_flight.values())
        return frozenset([key for key in keys if key is not None])

    def drained(self, now: float) -> None:
        """Note that the backlog is sent: the bucket may save tokens for a burst again."""
        if self.bucket is not None:
            self.bucket = self.bucket.drained(now)

    @property
    def awaits_answer(self) -> bool:
        """Whether the next move is surely to wait: in strict order a request is in flight, and its successor known."""
        return bool(self.in_flight) and self.policy.ordering is Ordering.STRICT and self.queue.knows_next

    @property
    def may_send(self) -> bool:
        """Whether a request may begin now, with the settings and secrets that were read last."""
        return self.is_loaded and not self.needs_load and not self.is_stopped

    def take(self, now: float) -> Move:
        """Return the next move; a delivery to send is in flight from now on, and has its token and the probe."""
        move = self.next(now)
        if not isinstance(move, Send):
            return move
        if not self.may_send:
            return Wait(None, Why.READING)
        delivery = move.delivery
        self._active_at = now
        self.queue.take(delivery)
        self.in_flight[delivery.pk] = Flight(delivery)
        if self.bucket is not None:
            self.bucket = self.bucket.take(now)
        if self.state.needs_probe:
            self.state = breaker.probe(self.state)
            self._probe = delivery.pk
        return move

    def put_back(self, delivery: QueuedDelivery) -> None:
        """Undo `take` before a request has begun, except for the token; the window is read again."""
        del self.in_flight[delivery.pk]
        self._end_probe(delivery)
        self.queue.is_stale = True

    def settle(
        self, delivery: QueuedDelivery, outcome: Outcome, receiver: Receiver, *, now: float, sample: float
    ) -> Verdict:
        """Apply the outcome of an attempt to `receiver`; return the verdict to record.

        `sample` is random, uniform in [0, 1). The verdict's `disable` is set only if it changes an active webhook.
        """
        before = self.state
        verdict = decide(
            outcome,
            delivery,
            before,
            self.policy,
            now=now,
            sample=sample,
            is_probe=delivery.pk == self._probe,
            since=self._changed_since(receiver),
        )
        self.state = verdict.endpoint
        if self.bucket is not None and before.is_unhealthy and not self.state.is_unhealthy:
            self.bucket = self.bucket.emptied(now)
        if not self.endpoint.is_active:
            verdict = msgspec.structs.replace(verdict, disable=None)
        elif verdict.disable is not None:
            self.endpoint = msgspec.structs.replace(
                self.endpoint, is_active=False, disabled_reason=verdict.disable, disabled_at=now
            )
        self.in_flight[delivery.pk].verdict = verdict
        return verdict

    def _changed_since(self, receiver: Receiver) -> Since:
        if receiver.revision == self._revision:
            return Since.NOTHING
        return Since.CHANGED if receiver.url == self.endpoint.url else Since.MOVED

    def landed(self, delivery: QueuedDelivery, landing: Landing) -> None:
        """Remove a delivery from those in flight."""
        flight = self.in_flight.pop(delivery.pk)
        self._end_probe(delivery)
        if landing is Landing.REFUSED:
            self.stop()
        elif landing is Landing.FAILED:
            self._is_ahead = True
        elif flight.verdict is None or flight.verdict.status is not DeliveryStatus.SUCCEEDED:
            self.queue.came_back(delivery, flight.verdict)
        elif self.queue.lacks_keys:
            self.queue.has_more = True  # the next one of its key may be among those left out

    def _end_probe(self, delivery: QueuedDelivery) -> None:
        if self._probe == delivery.pk:
            self._probe = None

    def change(self, endpoint: Endpoint, policy: Policy, forgiveness: Forgiveness | None) -> None:
        """Apply changed settings, and what the change forgives; call `resize` after it."""
        self.endpoint, self.policy = endpoint, policy
        if forgiveness is not None:
            self._forgive(forgiveness.state)
        self.reload_all()

    def forgive(self, state: EndpointState) -> int | None:
        """Apply what a change at another node has forgiven, by the state on disk; return the new revision.

        None if there is nothing new.
        """
        if state.forgiven <= self.state.forgiven:
            return None
        self._forgive(state)
        self.reload()
        return self._revision

    def _forgive(self, state: EndpointState) -> None:
        self.state = state
        self._revision += 1
        self._probe = None  # the answer in flight no longer decides
        self.queue.forget_floors()

    def resize(self, now: float) -> None:
        """Adapt the bucket to the settings; it keeps its tokens as far as they fit."""
        limit, bucket = self.policy.rate_limit, self.bucket
        if limit is None or bucket is None:
            self.bucket = None if limit is None else new_bucket(limit, now)
        else:
            self.bucket = bucket.resized(limit, now)

    def reload_all(self) -> None:
        """Note that settings, secrets and queue must be read again."""
        self.needs_load = True
        self.queue.forget_floors()
        self.reload()

    def shift(self, seconds: float) -> None:
        """Shift all times, since the clock was set by so many seconds.

        The journal shifts its own times, so queue, settings and the expiry of a previous secret must be read again.
        """
        self.state = breaker.shifted(self.state, seconds)
        if self.bucket is not None:
            self.bucket = self.bucket.shifted(seconds)
        self._active_at += seconds
        self.reload_all()

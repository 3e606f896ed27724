"""One endpoint: window -> gate -> send -> record.

An actor is the only task that decides when and what is sent to its endpoint. The journal is the queue; the actor holds
a small window onto it (`Line`: ids and times, never a body) and reads again when it runs out, when someone changed the
journal, or when the time comes at which a delivery outside it falls due or expires.

The loop asks the gate, one synchronous look at what is known, for the next move: send, expire, refill, wait or leave.
In strict order the loop itself flies, so nothing can overtake a request; in the other modes up to `concurrency` flights
run beside it. A flight signs, sends, asks `decide` what the outcome means and submits attempt, delivery and endpoint
state as one journal record; its delivery stays in flight until that record is on disk, so the line goes on only then
and a crash repeats at most what was in flight. It then takes the next delivery for as long as the gate says "send".

Whatever isn't plain success makes the window stale: the journal then says what comes next, and nothing leaves until it
has said so. Wakes are level-triggered and carry no data. "Nothing left and not woken: leave" is one synchronous step,
as is "registered? wake: start" at the registry. A canceled flight is recorded as interrupted, which counts against
nobody; the writer outlives the actors and puts that on disk too. After a crash the first thing a run waits for is what
the one before had submitted: a journal that is read earlier would still hold as pending what has been delivered.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from math import inf
from typing import NamedTuple, Protocol

import msgspec
import trio

from webhookd.clock import Clock, wait_seconds
from webhookd.delivery import breaker
from webhookd.delivery.limiter import TokenBucket
from webhookd.delivery.renewal import Renewal
from webhookd.delivery.requests import Receiver, compose
from webhookd.delivery.retry import Since, decide
from webhookd.gate import Move, Send, Step, Wait, Why, busy_keys, next_move
from webhookd.ids import IdFactory, Prefix
from webhookd.journal import Publish, Ticket, Window, WindowRequest
from webhookd.line import Line
from webhookd.models import (
    AttemptRecord,
    Credentials,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    Endpoint,
    EndpointState,
    Message,
    Ordering,
    Outcome,
    Policy,
    QueuedDelivery,
)

MIN_WINDOW = 50


class Queue(Protocol):
    """What an actor needs of the journal."""

    async def window(self, request: WindowRequest) -> Window:
        """Read a window of the endpoint's queue."""
        ...

    async def message(self, event_pk: int, upcoming: Callable[[], Iterable[int]]) -> Message:
        """Load what is sent of an event; where it has to be read, what is `upcoming` is brought along."""
        ...

    def record(self, record: AttemptRecord, notices: Sequence[Publish]) -> Ticket[None]:
        """Submit an attempt, what it made of delivery and endpoint, and what tells of it, in one transaction."""
        ...


class Sender(Protocol):
    """What an actor needs of the transport: every outcome is a value."""

    async def send(
        self, *, endpoint_id: str, url: str, headers: list[tuple[str, str]], body: bytes, timeout_seconds: float
    ) -> Outcome:
        """Make one request."""
        ...


class Owner(Protocol):
    """What an actor asks of whoever keeps the endpoints."""

    async def load(self, endpoint: Endpoint) -> tuple[Endpoint, Credentials, EndpointState] | None:
        """Read the endpoint, its secrets and its past, all as of one moment; None where it has been deleted."""
        ...

    async def settled(self) -> None:
        """Return once the journal's times are those of the clock, if that was set."""
        ...

    async def expire(self, endpoint: Endpoint, deliveries: tuple[QueuedDelivery, ...]) -> None:
        """Record deliveries whose age has passed as failed."""
        ...

    def disable(self, endpoint: Endpoint, reason: DisabledReason) -> None:
        """Switch the endpoint off, in the journal and for the router."""
        ...

    def notices(
        self, endpoint: Endpoint, message: Message, record: AttemptRecord, before: EndpointState
    ) -> Sequence[Publish]:
        """Return the events that tell of an attempt; `before` is the endpoint's state until then."""
        ...

    def attempted(self, endpoint: Endpoint, message: Message, record: AttemptRecord, before: EndpointState) -> None:
        """Hear of an attempt whose record has been submitted."""
        ...


class _Target(NamedTuple):
    """Where requests go and with what, and how often the endpoint had been renewed when that was read."""

    receiver: Receiver
    renewals: int


class _Flight(NamedTuple):
    """One attempt that has begun: `began_at` is trio's time, `started_at` the wall clock's."""

    delivery: QueuedDelivery
    message: Message
    target: _Target
    began_at: float
    started_at: float


class Actor:
    """The actor of one endpoint; `run` it under a supervisor, once at a time.

    `slots` bounds the requests in flight of the whole process; `sample` returns random numbers in [0, 1) for jitter.
    A change of the endpoint holds `judging` until it is on disk; an answer that arrives meanwhile is judged after it.
    All methods but `run` are one synchronous step and may be called at any time.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        policy: Policy,
        *,
        queue: Queue,
        sender: Sender,
        owner: Owner,
        clock: Clock,
        ids: IdFactory,
        slots: trio.Semaphore,
        sample: Callable[[], float],
        bucket: TokenBucket | None,
        judging: trio.Lock,
    ) -> None:
        self.endpoint = endpoint
        self.policy = policy
        self.bucket = bucket
        self.state = EndpointState()
        self.in_flight: dict[int, QueuedDelivery] = {}
        self._unrecorded: set[Ticket[None]] = set()
        self._queue = queue
        self._sender = sender
        self._owner = owner
        self._clock = clock
        self._ids = ids
        self._slots = slots
        self._sample = sample
        self._judging = judging
        self._line = Line()
        self._target: _Target | None = None
        self._is_changed = False
        self._renewals = 0
        self._is_retired = False
        self._probing: int | None = None
        self._held: list[int] = []
        self._woken = trio.Event()
        self._active_at = 0.0

    def wake(self) -> None:
        """Say that the endpoint may have more to send."""
        self._line.has_more = True
        self._woken.set()

    def offer(self, delivery: QueuedDelivery) -> None:
        """Hand over the delivery that was queued last; the line takes it if it knows all that stands before it."""
        is_news = self._line.append(delivery)
        # A queue that only grows, behind a head that waits or on a webhook that is off, costs no look at it.
        if is_news or (self.endpoint.is_active and self.policy.ordering is not Ordering.STRICT):
            self._woken.set()

    def reload(self) -> None:
        """Say that the journal was changed behind the actor's window."""
        self._line.is_stale = True
        self._woken.set()

    def change(self, endpoint: Endpoint, policy: Policy, bucket: TokenBucket | None, renewal: Renewal | None) -> None:
        """Take over changed settings and secrets, and what the change has made of the past."""
        self.endpoint, self.policy, self.bucket = endpoint, policy, bucket
        if renewal is not None:
            self.state = renewal.state
            self._renewals += 1
            self._probing = None  # what is in flight has nothing more to say of the endpoint
        self.renew()

    def renew(self) -> None:
        """Say that settings, secrets and queue are to be read again."""
        self._is_changed = True
        self.reload()

    def move(self, seconds: float) -> None:
        """Follow a clock that was set by so many seconds; `renew` says that the journal has followed too."""
        self.state = breaker.moved(self.state, seconds)
        if self.bucket is not None:
            self.bucket = self.bucket.moved(seconds)
        self._active_at += seconds
        self.reload()

    def retire(self) -> None:
        """Stop for a deleted endpoint: a request in flight still ends and is recorded, nothing more is sent."""
        self._is_retired = True
        self._woken.set()

    @contextmanager
    def holding(self, delivery_pk: int) -> Iterator[None]:
        """Keep a delivery from being sent while its row is changed by hand; the window is read again afterwards."""
        self._held.append(delivery_pk)
        try:
            yield
        finally:
            self._held.remove(delivery_pk)
            self.reload()

    def next_move(self) -> Move:
        """Return what the actor does next, as things stand."""
        if self._is_retired:
            return Step.LEAVE
        now = self._clock.now()  # first: it may move the rest
        return next_move(
            line=self._line,
            state=self.state,
            policy=self.policy,
            bucket=self.bucket,
            in_flight=self.in_flight,
            held=self._held,
            is_active=self.endpoint.is_active,
            is_probing=self._probing is not None,
            active_at=self._active_at,
            now=now,
        )

    async def run(self) -> None:
        """Send what is queued until there has been nothing left for a while.

        Raises what a bug raises. Where it returns, the last look at the queue and the return are one step.
        """
        if self._is_retired:
            return
        self._active_at = self._clock.now()
        self._line = Line()  # the last one may have been left in the middle of a read
        while self._unrecorded:
            await self._unrecorded.pop().settled()
        if (state := await self._take_over()) is None:
            return
        self.state = state
        while True:
            async with trio.open_nursery() as flights:
                await self._work(flights)
            if self.next_move() is Step.LEAVE:
                return

    async def _work(self, flights: trio.Nursery) -> None:
        while True:
            if self._is_changed and not self._is_retired:
                await self._take_over()
            if (delivery := await self._take_off()) is not None:
                if self.policy.ordering is Ordering.STRICT:
                    await self._fly(delivery)
                else:
                    flights.start_soon(self._fly_beside, delivery)
                continue
            match self.next_move():
                case Send():
                    continue  # it has just come, or the settings have
                case Step.REFILL:
                    await self._refill()
                case Step.EXPIRE:
                    await self._expire()
                case Step.LEAVE:
                    return
                case Wait(until=until, why=why):
                    if why is Why.IDLE and self.bucket is not None:
                        self.bucket = self.bucket.drained(self._clock.now())
                    await self._wait(until)

    async def _take_over(self) -> EndpointState | None:
        """Read where to send and with what; return the state on disk, None where the endpoint has been deleted."""
        self._is_changed = True
        while self._is_changed:  # again where it is changed meanwhile
            self._is_changed, renewals = False, self._renewals
            if (loaded := await self._owner.load(self.endpoint)) is None:
                self.retire()
                return None
            endpoint, credentials, state = loaded
            self._target = _Target(Receiver(endpoint, credentials), renewals)
        return state

    async def _refill(self) -> None:
        await self._owner.settled()
        now = self._clock.now()
        blocked_keys: frozenset[str] = frozenset()
        if self.policy.ordering is Ordering.KEY:
            blocked_keys = busy_keys(self.in_flight) | self._line.waiting_keys(now)
        limit = max(MIN_WINDOW, 2 * self.policy.concurrency)
        self._line.begin_refill(blocked_keys)
        window = await self._queue.window(
            WindowRequest(
                endpoint_pk=self.endpoint.pk,
                ordering=self.policy.ordering,
                limit=limit,
                now=now,
                blocked_keys=blocked_keys,
                in_flight=frozenset(self.in_flight),
            )
        )
        self._line.load(window, limit)

    async def _expire(self) -> None:
        expired = tuple(delivery for delivery in self._line.expired if delivery.pk not in self._held)
        if expired:
            await self._owner.expire(self.endpoint, expired)
            self._line.is_stale = True
        else:  # all of them are being changed by hand, which ends in a wake
            await self._wait(None)

    async def _wait(self, until: float | None) -> None:
        with trio.move_on_after(inf if until is None else wait_seconds(self._clock, until)):
            await self._woken.wait()
        self._woken = trio.Event()

    async def _take_off(self) -> QueuedDelivery | None:
        """Commit to the delivery that the gate lets through, if there is one; wait for a slot where they are taken."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            if not isinstance(self.next_move(), Send):
                return None
            await self._slots.acquire()
        if (delivery := self._cleared()) is None:
            self._slots.release()
        return delivery

    def _cleared(self) -> QueuedDelivery | None:
        """Return the delivery that goes now, the token and the probe given to it; the caller has a slot for it."""
        move = self.next_move()
        if self._is_changed or not isinstance(move, Send):
            return None
        delivery = move.delivery
        self._active_at = self._clock.now()
        self._line.take(delivery)
        self.in_flight[delivery.pk] = delivery
        if self.bucket is not None:
            self.bucket = self.bucket.take(self._active_at)
        if self.state.needs_probe:
            self.state = breaker.probe(self.state)
            self._probing = delivery.pk
        return delivery

    async def _fly(self, delivery: QueuedDelivery | None) -> None:
        while delivery is not None:
            succeeded = False
            try:
                ticket, succeeded = await self._attempt(delivery)
                await ticket.wait()
                self._unrecorded.discard(ticket)
            finally:
                self._land(delivery, succeeded=succeeded)
            delivery = await self._take_off()

    async def _fly_beside(self, delivery: QueuedDelivery) -> None:
        await self._fly(delivery)
        self._woken.set()

    async def _attempt(self, delivery: QueuedDelivery) -> tuple[Ticket[None], bool]:
        """Make one request and submit what came of it; return the record's ticket and whether it was a success."""
        try:
            message = await self._queue.message(delivery.event_pk, self._line.upcoming)
            flight = self._begin(delivery, message)
            try:
                outcome = await self._send(flight)
            except trio.Cancelled:
                seconds = trio.current_time() - flight.began_at
                cut_off = Outcome(
                    duration_seconds=seconds, error=DeliveryError.INTERRUPTED, detail="the server stopped"
                )
                await self._judge(flight, cut_off)  # noqa: ASYNC102 - shielded there, until a commit has ended
                raise
        finally:
            self._slots.release()
        return await self._judge(flight, outcome)

    def _begin(self, delivery: QueuedDelivery, message: Message) -> _Flight:
        assert self._target is not None  # noqa: S101 - `run` has made it
        return _Flight(delivery, message, self._target, trio.current_time(), self._clock.now())

    async def _send(self, flight: _Flight) -> Outcome:
        receiver = flight.target.receiver  # taken in one step: a URL never meets the headers and secrets of another
        headers = compose(
            receiver=receiver,
            message=flight.message,
            delivery_id=flight.delivery.id,
            number=flight.delivery.attempts + 1,
            sequence=flight.delivery.sequence,
            at=flight.started_at,
        )
        return await self._sender.send(
            endpoint_id=self.endpoint.id,
            url=receiver.url,
            headers=headers,
            body=flight.message.body,
            timeout_seconds=self.policy.timeout_seconds,
        )

    async def _judge(self, flight: _Flight, outcome: Outcome) -> tuple[Ticket[None], bool]:
        """Settle an outcome, after a change of the endpoint that is on its way to the disk; not interrupted."""
        if not self._judging.locked():
            return self._settle(flight, outcome)
        with trio.CancelScope(shield=True):
            async with self._judging:
                settled = self._settle(flight, outcome)
        return settled

    def _settle(self, flight: _Flight, outcome: Outcome) -> tuple[Ticket[None], bool]:
        """Decide what the outcome means and submit it all as one record; one step, so nothing comes between."""
        delivery, message = flight.delivery, flight.message
        now = self._clock.now()
        before = self.state
        verdict = decide(
            outcome,
            delivery,
            before,
            self.policy,
            now=now,
            sample=self._sample(),
            is_probe=delivery.pk == self._probing,
            since=self._changed_since(flight),
        )
        self.state = verdict.endpoint
        if (before.breaker, before.needs_probe) != (self.state.breaker, self.state.needs_probe):
            self._woken.set()  # more may leave from now on than this flight carries on with
        if self.bucket is not None and before.is_ill and not verdict.endpoint.is_ill:
            self.bucket = self.bucket.emptied(now)
        record = AttemptRecord(
            delivery=delivery,
            attempt_id=self._ids.new(Prefix.ATTEMPT),
            number=delivery.attempts + 1,
            trigger=delivery.trigger,
            started_at=flight.started_at,
            outcome=outcome,
            error=verdict.error,
            retry_after_seconds=verdict.retry_after_seconds,
            status=verdict.status,
            refusals=verdict.refusals,
            backoff_step=verdict.backoff_step,
            next_attempt_at=verdict.next_attempt_at,
            completed_at=verdict.completed_at,
            endpoint=verdict.endpoint,
        )
        ticket = self._queue.record(record, self._owner.notices(self.endpoint, message, record, before))
        self._unrecorded.add(ticket)
        self._owner.attempted(self.endpoint, message, record, before)
        if verdict.disable is not None and self.endpoint.is_active:
            self.endpoint = msgspec.structs.replace(
                self.endpoint, is_active=False, disabled_reason=verdict.disable, disabled_at=now
            )
            self._owner.disable(self.endpoint, verdict.disable)
        return ticket, verdict.status is DeliveryStatus.SUCCEEDED

    def _changed_since(self, flight: _Flight) -> Since:
        if flight.target.renewals == self._renewals:
            return Since.NOTHING
        return Since.RENEWED if flight.target.receiver.url == self.endpoint.url else Since.MOVED

    def _land(self, delivery: QueuedDelivery, *, succeeded: bool) -> None:
        """Forget a flight: its record is on disk, or it was canceled."""
        del self.in_flight[delivery.pk]
        if self._probing == delivery.pk:
            self._probing = None
        if not succeeded:
            self._line.is_stale = True
        elif self._line.lacks_keys:
            self._line.has_more = True  # among them may be its key's successor

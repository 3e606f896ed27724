"""The flights of one lane: each delivery from the moment it is taken until the record of its attempt has landed.

    go_on -> take -> body -> launch -> answered -> settle -> record -> landed -> go_on

Each arrow is a callback or a call, and each step is synchronous: no task waits for a flight. So between an answer and
the next request there is nothing but the commit of the record. What has to wait for something else is the actor's: it
is woken when the lane's next move is not covered by what it waits for.

A change of the endpoint holds `changing` until it is on disk; an answer that arrives meanwhile is settled at its end.
A delivery whose body arrives after a change, a deletion or the beginning of a drain is put back into the queue, so no
request begins with old settings. An attempt that is cut off is recorded as interrupted, which counts neither against
its delivery nor against its endpoint; the journal's writer outlives the actors and writes that record too. An exception
in a step is a bug: no caller of these steps sees it, but `crash` is called with it, which ends the actor's run and with
it the other flights of the lane.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial, wraps
from typing import Concatenate, ParamSpec

import trio

from webhookd.base.clock import Clock
from webhookd.base.errors import Rejected
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import AttemptRecord, DeliveryError, Message, Outcome, QueuedDelivery
from webhookd.base.stages import reached
from webhookd.delivery.request import Cancelable, Receiver, Request, RequestSender, compose
from webhookd.dispatch.lane import Landing, Lane, Move, Send, Wait, Why
from webhookd.dispatch.reporter import Reporter
from webhookd.dispatch.slots import Slots
from webhookd.journal import Fence, FencedError, Store

P = ParamSpec("P")

ENDED_A_TURN = 64  # flights that are cut off or settled together before other tasks get a turn
_SENDING = Wait(None, Why.SENDING)


@dataclass(frozen=True, slots=True)
class Shared:
    """What the actors of all lanes share.

    `slots` bound the requests in flight of the whole process; `sample` returns random numbers in [0, 1) for jitter.
    """

    store: Store
    sender: RequestSender
    reporter: Reporter
    clock: Clock
    ids: IdFactory
    slots: Slots
    sample: Callable[[], float]


@dataclass(slots=True, eq=False)
class _Flight:
    """A delivery in flight, whose request began at `started_at` (wall-clock time).

    `fence` says in which lease of its endpoint it was taken. While its body is read there is no `request`, and before
    it is answered no `outcome`.
    """

    delivery: QueuedDelivery
    fence: Fence | None = None
    message: Message | None = None
    receiver: Receiver | None = None
    request: Cancelable | None = None
    outcome: Outcome | None = None
    started_at: float = 0.0


def _called_back(step: "Callable[Concatenate[Flights, P], None]") -> "Callable[Concatenate[Flights, P], None]":
    """Decorate a step that others call: what it raises goes to `crash` instead."""

    @wraps(step)
    def guarded(flights: "Flights", /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            step(flights, *args, **kwargs)
        except Exception as error:  # noqa: BLE001 - the actor raises it
            flights.crash(error)

    return guarded


class Flights:
    """Sends the deliveries of one lane, each to the current `receiver`.

    `heed` is called with the lane's next move after each callback, and `crash` with an exception.
    """

    receiver: Receiver

    def __init__(
        self,
        lane: Lane,
        changing: trio.Lock,
        shared: Shared,
        *,
        heed: Callable[[Move], None],
        crash: Callable[[Exception], None],
    ) -> None:
        self.crash = crash
        self._lane = lane
        self._changing = changing
        self._shared = shared
        self._slots = shared.slots
        self._owner = lane.endpoint.organization_id or lane.endpoint.id
        self._heed = heed
        self._flights: dict[int, _Flight] = {}  # those whose record has yet to be submitted

    @_called_back
    def proceed(self) -> None:
        """Go on after a change of the lane, and have the actor heed the next move."""
        self._heed(self.go_on())

    def go_on(self) -> Move:
        """Send what the lane allows now; return its next move, which is to send only if there is no slot."""
        lane, slots = self._lane, self._slots
        now = self._shared.clock.now()
        while True:
            has_slot = slots.may_take(self._owner)
            move = lane.take(now) if has_slot else lane.next(now)
            if isinstance(move, Wait) and move.why is Why.IDLE:
                lane.drained(now)
            if not (has_slot and isinstance(move, Send)):
                return move
            slots.take(self._owner)
            self._begin(move.delivery, now)
            if lane.awaits_answer:
                return _SENDING

    async def go_on_with_slot(self) -> None:
        """Wait for a slot, and send the next delivery if the lane still has one."""
        await self._slots.acquire(self._owner)
        is_used = False
        try:
            now = self._shared.clock.now()
            if isinstance(move := self._lane.take(now), Send):
                is_used = True
                self._begin(move.delivery, now)
        finally:
            if not is_used:
                self._slots.release(self._owner)

    async def close(self) -> None:
        """Take nothing more, cut off what is in flight, and submit its records; can't be canceled."""
        self._lane.close()
        while unanswered := [flight for flight in self._flights.values() if flight.outcome is None]:
            for flight in unanswered[:ENDED_A_TURN]:
                self._cut_off(flight)
            await trio.lowlevel.cancel_shielded_checkpoint()
        if self._flights:
            with trio.CancelScope(shield=True):
                async with self._changing:  # until a commit has ended
                    await self.settle_answered()

    async def settle_answered(self) -> None:
        """Settle the answers that arrived during a change of the endpoint, which is on disk now; can't be canceled.

        `changing` must be held, so that no other change begins meanwhile.
        """
        while answered := [flight for flight in self._flights.values() if flight.outcome is not None]:
            for flight in answered[:ENDED_A_TURN]:
                self._settle_late(flight)
            await trio.lowlevel.cancel_shielded_checkpoint()

    def _cut_off(self, flight: _Flight) -> None:
        self._slots.release(self._owner)
        if flight.request is None:
            self._drop(flight)
            return
        flight.request.cancel()
        seconds = trio.current_time() - flight.request.started_at
        flight.outcome = Outcome(duration_seconds=seconds, error=DeliveryError.INTERRUPTED, detail="the server stopped")

    def _begin(self, delivery: QueuedDelivery, now: float) -> None:
        fence = self._shared.store.ownership.fence(delivery.endpoint_pk)
        flight = self._flights[delivery.pk] = _Flight(delivery, fence)
        if (message := self._shared.store.take_message(delivery)) is not None:
            self._launch(flight, message, now)
        else:
            got = partial(self._got_message, flight)
            self._shared.store.read_message(delivery.event_pk, self._lane.queue.upcoming, got)

    @_called_back
    def _got_message(self, flight: _Flight, result: Message | Exception) -> None:
        if self._flights.get(flight.delivery.pk) is not flight:
            return  # it was cut off, and the delivery may have been taken again
        if isinstance(result, Exception):
            raise result
        now = self._shared.clock.now()  # first, since it may shift the lane
        if self._lane.may_send:
            self._launch(flight, result, now)
        else:
            self._put_back(flight)

    def _put_back(self, flight: _Flight) -> None:
        """Give up a flight whose request must not begin: the endpoint was changed, or the lane was stopped."""
        del self._flights[flight.delivery.pk]
        self._slots.release(self._owner)
        self._lane.put_back(flight.delivery)
        self.proceed()

    def _launch(self, flight: _Flight, message: Message, now: float) -> None:
        delivery, receiver = flight.delivery, self.receiver
        headers = compose(
            receiver=receiver,
            message=message,
            delivery_id=delivery.id,
            number=delivery.attempts + 1,
            sequence=delivery.sequence,
            at=now,
        )
        reached("request.begun")
        flight.message, flight.receiver = message, receiver
        flight.started_at = now
        endpoint_id, timeout_seconds = self._lane.endpoint.id, self._lane.policy.timeout_seconds
        request = Request(endpoint_id, receiver.url, headers, message.body, timeout_seconds)
        flight.request = self._shared.sender.start(request, partial(self._answered, flight))

    @_called_back
    def _answered(self, flight: _Flight, result: Outcome | Exception) -> None:
        self._slots.release(self._owner)
        if isinstance(result, Exception):
            self._drop(flight)
            raise result
        reached("answer.received")
        flight.outcome = result
        if not self._changing.locked():
            self._settle(flight)

    @_called_back
    def _settle_late(self, flight: _Flight) -> None:
        self._settle(flight)

    def _settle(self, flight: _Flight) -> None:
        """Settle an outcome and submit its record."""
        delivery, message, receiver, outcome = flight.delivery, flight.message, flight.receiver, flight.outcome
        del self._flights[delivery.pk]
        assert message is not None and receiver is not None and outcome is not None  # noqa: S101, PT018 - it was sent
        lane, shared = self._lane, self._shared
        is_submitted = False
        try:
            now = shared.clock.now()  # first, since it may shift the lane
            endpoint, before = lane.endpoint, lane.state
            verdict = lane.settle(delivery, outcome, receiver, now=now, sample=shared.sample())
            record = AttemptRecord(
                delivery=delivery,
                attempt_id=shared.ids.new(Prefix.ATTEMPT),
                number=delivery.attempts + 1,
                trigger=delivery.trigger,
                started_at=flight.started_at,
                outcome=outcome,
                status=verdict.status,
                refusals=verdict.refusals,
                backoff_step=verdict.backoff_step,
                endpoint=verdict.endpoint,
                error=verdict.error,
                retry_after_seconds=verdict.retry_after_seconds,
                next_attempt_at=verdict.next_attempt_at,
                completed_at=verdict.completed_at,
                disable=verdict.disable,
            )
            notices = shared.reporter.notices(endpoint, message, record, before)
            shared.store.record(record, notices, fence=flight.fence, landed=partial(self._landed, delivery))
            is_submitted = True
            shared.reporter.attempted(endpoint, message, record, before)
            if verdict.disable is not None:
                shared.reporter.disable(lane.endpoint, verdict.disable, forgiven=verdict.endpoint.forgiven)
            after = verdict.endpoint
            if (before.breaker, before.needs_probe) != (after.breaker, after.needs_probe):
                self._heed(self.go_on())  # more requests than before may be allowed
        finally:
            if not is_submitted:
                lane.landed(delivery, Landing.FAILED)

    @_called_back
    def _landed(self, delivery: QueuedDelivery, error: Exception | None) -> None:
        if error is None:
            reached("record.committed")
            self._lane.landed(delivery, Landing.WRITTEN)
        elif isinstance(error, Rejected | FencedError):
            # The actor leaves; the delivery is sent again after the next start, or by the node that drives it by now.
            self._lane.landed(delivery, Landing.REFUSED)
        else:
            self._lane.landed(delivery, Landing.FAILED)
            raise error
        self._heed(self.go_on())

    def _drop(self, flight: _Flight) -> None:
        """Give up a flight of which there is nothing to record."""
        del self._flights[flight.delivery.pk]
        self._lane.landed(flight.delivery, Landing.FAILED)

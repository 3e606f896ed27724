"""One endpoint: take -> send -> settle -> record, for as long as its lane has something to send.

An actor is the only task that sends to its endpoint. What is sent and when is decided by its `Lane`; the actor asks
for the next move, does it, and waits where there is none. The journal is the queue; the lane holds a small window onto
it (ids and times, never a body), which is read again when it runs out, when the journal was changed by another way, or
when the time comes at which a delivery outside it falls due or expires.

In strict order the loop itself flies, so nothing can overtake a request; in the other modes up to `concurrency` flights
run beside it. A flight's delivery stays in flight until its record is on disk, so its successor leaves only then and a
crash repeats at most what was in flight. It then takes the next delivery for as long as the lane says "send".

Notifications are level-triggered and carry no data: the lane has been changed before. "Nothing left and not notified:
leave" is one synchronous step, as is "running? notify: start" at the registry. After a crash the first thing a run
waits for is what the last one had submitted: a journal that is read earlier would still hold as pending what has been
delivered.
"""

from collections.abc import Callable
from math import inf
from typing import Protocol

import trio

from webhookd.base.clock import Clock, wait_seconds
from webhookd.base.ids import IdFactory
from webhookd.base.models import Credentials, Endpoint, EndpointState, Ordering, QueuedDelivery
from webhookd.base.stages import reached
from webhookd.delivery.request import Receiver, RequestSender
from webhookd.dispatch import attempt
from webhookd.dispatch.attempt import Attempts
from webhookd.dispatch.lane import Expire, Landing, Lane, Send, Step, Wait, Why
from webhookd.dispatch.slots import Slots
from webhookd.journal import Window, WindowRequest


class ActorQueue(attempt.AttemptQueue, Protocol):
    """What an actor needs of the journal."""

    async def window(self, request: WindowRequest) -> Window:
        """Read a window of the endpoint's queue."""
        ...


class ActorOwner(attempt.AttemptOwner, Protocol):
    """What an actor asks of the part that keeps the endpoints."""

    async def load(self, endpoint: Endpoint) -> tuple[Endpoint, Credentials, EndpointState] | None:
        """Read the endpoint, its secrets and its past, all as of one moment; None where it has been deleted."""
        ...

    async def settled(self) -> None:
        """Return once the journal's times are those of the clock, if that was set."""
        ...

    async def expire(self, endpoint: Endpoint, deliveries: tuple[QueuedDelivery, ...]) -> None:
        """Record deliveries whose age has passed as failed."""
        ...


class Actor:
    """The actor of one lane; `run` it under a supervisor, once at a time.

    `slots` are those of all requests in flight; `sample` returns random numbers in [0, 1) for jitter.
    """

    def __init__(
        self,
        lane: Lane,
        changing: trio.Lock,
        *,
        queue: ActorQueue,
        sender: RequestSender,
        owner: ActorOwner,
        clock: Clock,
        ids: IdFactory,
        slots: Slots,
        sample: Callable[[], float],
    ) -> None:
        self._lane = lane
        self._slots = slots.share(lane.endpoint.organization_id or lane.endpoint.id)
        self._attempts = Attempts(lane, changing, queue, sender, owner, clock, ids, self._slots, sample)
        self._queue = queue
        self._owner = owner
        self._clock = clock
        self._notified = trio.Event()

    def notify(self) -> None:
        """Say that the lane was changed."""
        self._notified.set()

    async def run(self) -> None:
        """Send what is queued until there has been nothing left for a while.

        Raises what a bug raises. Where it returns, the last look at the lane and the return are one step.
        """
        lane = self._lane
        if lane.is_retired:
            return
        lane.begin(self._clock.now())
        await self._attempts.settled()
        if (state := await self._load()) is None:
            return
        lane.state = state  # before anything asks for the time, which may shift it
        while True:
            async with trio.open_nursery() as flights:
                await self._work(flights)
            if lane.next(self._clock.now()) is Step.LEAVE:
                return

    async def _work(self, flights: trio.Nursery) -> None:
        lane = self._lane
        while True:
            if lane.needs_load and not lane.is_retired:
                await self._load()
            if (delivery := await self._take()) is not None:
                if lane.policy.ordering is Ordering.STRICT:
                    await self._fly(delivery)
                else:
                    flights.start_soon(self._fly_beside, delivery)
                continue
            match lane.next(self._clock.now()):
                case Send():
                    continue  # it has just come, or the settings have
                case Step.REFILL:
                    await self._refill()
                case Expire(deliveries):
                    await self._owner.expire(lane.endpoint, deliveries)
                    lane.reload()
                case Step.LEAVE:
                    return
                case Wait(until=until, why=why):
                    if why is Why.IDLE:
                        lane.drained(self._clock.now())
                    await self._wait(until)

    async def _load(self) -> EndpointState | None:
        """Read where to send and with what; return the state on disk, None where the endpoint has been deleted."""
        state = None
        while self._lane.needs_load:  # again where it is changed meanwhile
            revision = self._lane.begin_load()
            if (loaded := await self._owner.load(self._lane.endpoint)) is None:
                self._lane.retire()
                return None
            endpoint, credentials, state = loaded
            self._attempts.receiver = Receiver(endpoint, credentials, revision)
        return state

    async def _refill(self) -> None:
        await self._owner.settled()
        self._lane.load(await self._queue.window(self._lane.begin_refill(self._clock.now())))
        reached("window.read")

    async def _wait(self, until: float | None) -> None:
        with trio.move_on_after(inf if until is None else wait_seconds(self._clock, until)):
            await self._notified.wait()
        self._notified = trio.Event()

    async def _take(self) -> QueuedDelivery | None:
        """Commit to the delivery that goes now, if there is one; wait for a slot where they are taken."""
        try:
            self._slots.acquire_nowait()
        except trio.WouldBlock:
            if not isinstance(self._lane.next(self._clock.now()), Send):
                return None
            await self._slots.acquire()
        if (delivery := self._lane.take(self._clock.now())) is None:
            self._slots.release()
        return delivery

    async def _fly(self, delivery: QueuedDelivery | None) -> None:
        while delivery is not None:
            landing = Landing.FAILED
            try:
                ticket, opens = await self._attempts.make(delivery)
                if opens:
                    self.notify()
                await ticket.wait()
                reached("record.committed")
                self._attempts.unrecorded.discard(ticket)
                landing = Landing.WRITTEN
            finally:
                self._lane.landed(delivery, landing)
            delivery = await self._take()

    async def _fly_beside(self, delivery: QueuedDelivery) -> None:
        await self._fly(delivery)
        self.notify()

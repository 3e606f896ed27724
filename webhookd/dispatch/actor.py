"""The actor of one endpoint: read the queue, send, settle and record, for as long as there is something to send.

An actor is the only task that sends to its endpoint. Its `Lane` decides what is sent and when: the actor asks for the
next move, makes it, and waits if there is none. The queue is in the journal. The lane holds a small window of it (ids
and times, no bodies). The actor reads the window again when it is used up, after every attempt that wasn't a success,
when the journal was changed by other code, and when a delivery outside it falls due or expires.

In strict order the actor's own loop makes the attempts, so no request can overtake another. In the other modes up to
`concurrency` tasks make them. A delivery stays in flight until its record is on disk, and its successor is sent only
then, so a crash repeats at most what was in flight.

A notification carries no data, since the lane has been changed before. None is lost: there is no await between an
actor's last check of its lane and its return, nor between the registry's check and its notification or start. After
a crash the next run first waits for the records that the last one submitted. A window that is read before they are
written would hold deliveries that have already succeeded.
"""

from collections.abc import Callable
from functools import partial
from math import inf

import trio

from webhookd.base.clock import Clock, wait_seconds
from webhookd.base.errors import Rejected
from webhookd.base.ids import IdFactory
from webhookd.base.models import EndpointState, Ordering, QueuedDelivery
from webhookd.base.stages import reached
from webhookd.delivery.request import Receiver, RequestSender
from webhookd.dispatch.attempt import Attempts
from webhookd.dispatch.clock_steps import Schedule
from webhookd.dispatch.lane import Expire, Landing, Lane, Send, Step, Wait, Why
from webhookd.dispatch.reporter import Reporter
from webhookd.dispatch.slots import Slots
from webhookd.journal import Store


class Actor:
    """The actor of one lane; `run` it under a supervisor, one run at a time.

    `slots` bound the requests in flight of the whole process; `sample` returns random numbers in [0, 1) for jitter.
    """

    def __init__(
        self,
        lane: Lane,
        changing: trio.Lock,
        *,
        store: Store,
        sender: RequestSender,
        schedule: Schedule,
        reporter: Reporter,
        clock: Clock,
        ids: IdFactory,
        slots: Slots,
        sample: Callable[[], float],
    ) -> None:
        self._lane = lane
        self._store = store
        self._schedule = schedule
        self._reporter = reporter
        self._clock = clock
        self._slots = slots
        self._slot_owner = lane.endpoint.organization_id or lane.endpoint.id
        release_slot = partial(slots.release, self._slot_owner)
        self._attempts = Attempts(lane, changing, store, sender, reporter, clock, ids, release_slot, sample)
        self._notified = trio.Event()

    def notify(self) -> None:
        """Tell the actor that its lane was changed."""
        self._notified.set()

    async def run(self) -> None:
        """Send what is queued, and return once nothing has been left for 30 s.

        Any exception is a bug. The last look at the lane and the return are one step.
        """
        lane = self._lane
        if lane.is_stopped:
            return
        lane.begin(self._clock.now())
        await self._attempts.settled()
        if (state := await self._load()) is None:
            return
        lane.state = state  # before the clock is read again, which may shift the lane
        while True:
            async with trio.open_nursery() as nursery:
                await self._make_moves(nursery)
            if lane.next(self._clock.now()) is Step.LEAVE:
                return

    async def _make_moves(self, nursery: trio.Nursery) -> None:
        """Make the lane's moves until it says to leave."""
        lane = self._lane
        while True:
            if lane.needs_load and not lane.is_stopped:
                await self._load()
            if (delivery := await self._take()) is not None:
                if lane.policy.ordering is Ordering.STRICT:
                    await self._deliver(delivery)
                else:
                    nursery.start_soon(self._deliver_and_notify, delivery)
                continue
            match lane.next(self._clock.now()):
                case Send():
                    continue  # a delivery has just come in, or the settings were changed
                case Step.REFILL:
                    await self._refill()
                case Expire(deliveries):
                    await self._reporter.expire(lane.endpoint, deliveries)
                    lane.reload()
                case Step.LEAVE:
                    return
                case Wait(until=until, why=why):
                    if why is Why.IDLE:
                        lane.drained(self._clock.now())
                    await self._wait(until)

    async def _load(self) -> EndpointState | None:
        """Read the endpoint and its secrets; return the state on disk, or None if the endpoint has been deleted."""
        state = None
        while self._lane.needs_load:  # again if the endpoint is changed during the read
            revision = self._lane.begin_load()
            if (loaded := await self._schedule.load(self._lane.endpoint)) is None:
                self._lane.stop()
                return None
            endpoint, credentials, state = loaded
            self._attempts.receiver = Receiver(endpoint, credentials, revision)
        return state

    async def _refill(self) -> None:
        await self._schedule.settled()
        self._lane.load(await self._store.window(self._lane.begin_refill(self._clock.now())))
        reached("window.read")

    async def _wait(self, until: float | None) -> None:
        with trio.move_on_after(inf if until is None else wait_seconds(self._clock, until)):
            await self._notified.wait()
        self._notified = trio.Event()

    async def _take(self) -> QueuedDelivery | None:
        """Take a slot and the delivery to send now; None, without a slot, if there is nothing to send."""
        try:
            self._slots.acquire_nowait(self._slot_owner)
        except trio.WouldBlock:
            if not isinstance(self._lane.next(self._clock.now()), Send):
                return None
            await self._slots.acquire(self._slot_owner)
        if (delivery := self._lane.take(self._clock.now())) is None:
            self._slots.release(self._slot_owner)
        return delivery

    async def _deliver(self, delivery: QueuedDelivery | None) -> None:
        """Make one attempt at this delivery, and go on with the next ones while the lane has one to send."""
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
            except Rejected:
                landing = Landing.REFUSED  # the actor ends, and the delivery is sent again after the next start
            finally:
                self._lane.landed(delivery, landing)
            delivery = await self._take()

    async def _deliver_and_notify(self, delivery: QueuedDelivery) -> None:
        await self._deliver(delivery)
        self.notify()

"""The actor of one endpoint: it does what has to wait, for as long as there is something to send.

An actor is the only one that sends to its endpoint. Its `Lane` decides what is sent and when; its `Flights` send and
record, by callbacks that go on as long as the lane allows. The actor's task reads the queue, settings and secrets, has
what is too old recorded, and waits for a slot, for the end of a pause or for the next delivery that falls due.

The queue is in the journal. The lane holds a small window of it (ids and times, no bodies). The actor reads the window
again when it is used up, after every attempt that wasn't a success, when the journal was changed by other code, when a
delivery outside it falls due, and when one in it expires. What expires outside the windows is recorded by the
`expiry_sweep` of all endpoints. A delivery stays in flight until its record is on disk, and its successor is sent only
then, so a crash repeats at most what was in flight.

A notification carries no data, since the lane has been changed before. None is lost: there is no await between an
actor's last check of its lane and its return, nor between the registry's check and its notification or start. After
a crash the next run first waits for the records that the last one submitted. A window that is read before they are
written would hold deliveries that have already succeeded.
"""

import trio

from webhookd.base.clock import wait_seconds
from webhookd.base.models import EndpointState
from webhookd.base.stages import reached
from webhookd.delivery.request import Receiver
from webhookd.dispatch.clock_steps import Schedule
from webhookd.dispatch.flights import Flights, Shared
from webhookd.dispatch.lane import LINGER_SECONDS, Expire, Lane, Move, Send, Step, Wait
from webhookd.journal import FencedError


class Actor:
    """The actor of one lane; `run` it under a supervisor, one run at a time."""

    def __init__(self, lane: Lane, changing: trio.Lock, *, shared: Shared, schedule: Schedule) -> None:
        self._lane = lane
        self._store = shared.store
        self._schedule = schedule
        self._reporter = shared.reporter
        self._clock = shared.clock
        self.flights = Flights(lane, changing, shared, heed=self._heed, crash=self._crash)
        self._notified = trio.Event()
        self._sleeps_until: float | None = None
        self._scope = trio.CancelScope()
        self._slot_scope = trio.CancelScope()
        self._error: Exception | None = None

    def notify(self) -> None:
        """Tell the actor that its lane was changed; if that has stopped, the actor no longer waits for a slot."""
        self._notified.set()
        if self._lane.is_stopped:
            self._slot_scope.cancel()

    def cut_off(self) -> None:
        """End the run now: what is in flight is cut off."""
        self._lane.close()
        self._scope.cancel()
        self._notified.set()

    async def run(self) -> None:
        """Send what is queued, and return once nothing has been left for 30 s.

        Any exception is a bug. The last look at the lane and the return are one step.
        """
        lane = self._lane
        while lane.in_flight:
            await self._wait()
        if lane.is_stopped:
            return
        self._error = None
        with trio.CancelScope() as self._scope:
            try:
                lane.begin(self._clock.now())
                if (state := await self._load(begins=True)) is not None:
                    lane.state = state  # before the clock is read again, which may shift the lane
                    await self._make_moves()
            except FencedError:
                lane.stop()  # the node that drives the endpoint by now goes on
            finally:
                await self.flights.close()  # noqa: ASYNC102 - it shields what it waits for
        if self._error is not None:
            raise self._error

    async def _make_moves(self) -> None:
        """Make the lane's moves until it says to leave."""
        lane = self._lane
        while True:
            if lane.needs_load and not lane.is_stopped:
                await self._load()
            match self.flights.go_on():
                case Send():
                    with trio.CancelScope() as self._slot_scope:
                        await self.flights.go_on_with_slot()
                case Step.REFILL:
                    await self._refill()
                case Expire(deliveries):
                    await self._reporter.expire(lane.endpoint, deliveries)
                    lane.reload()
                case Step.LEAVE:
                    if not lane.in_flight:
                        return
                    await self._wait()
                case Wait(until=until):
                    await self._sleep(until)

    async def _load(self, *, begins: bool = False) -> EndpointState | None:
        """Read the endpoint and its secrets; return the state on disk, or None if the endpoint has been deleted.

        Unless the run just begins, what a change at another node has forgiven, by that state, is applied.
        """
        state = None
        while self._lane.needs_load:  # again if the endpoint is changed during the read
            revision = self._lane.begin_load()
            if (loaded := await self._schedule.load(self._lane.endpoint)) is None:
                self._lane.stop()
                return None
            endpoint, credentials, state = loaded
            if not begins and (forgiving := self._lane.forgive(state)) is not None:
                revision = forgiving
            self.flights.receiver = Receiver(endpoint, credentials, revision)
        self._lane.loaded()
        return state

    async def _refill(self) -> None:
        await self._schedule.settled()
        self._lane.load(await self._store.window(self._lane.begin_refill(self._clock.now())))
        reached("window.read")

    async def _sleep(self, until: float | None) -> None:
        """Wait for a notification, or for a move that is due; LINGER_SECONDS at most, which covers most moves."""
        latest = self._clock.now() + LINGER_SECONDS
        self._sleeps_until = latest if until is None else min(until, latest)
        try:
            with trio.move_on_after(wait_seconds(self._clock, self._sleeps_until)):
                await self._notified.wait()
        finally:
            self._sleeps_until = None
        self._notified = trio.Event()

    async def _wait(self) -> None:
        await self._notified.wait()
        self._notified = trio.Event()

    def _heed(self, move: Move) -> None:
        """Wake up for the lane's next move, unless the present sleep ends before it anyway."""
        is_covered = (
            self._sleeps_until is not None
            and isinstance(move, Wait)
            and (move.until is None or self._sleeps_until <= move.until)
        )
        if not is_covered:
            self.notify()

    def _crash(self, error: Exception) -> None:
        """End the run with this exception."""
        self._lane.close()
        self._error = self._error or error
        self._scope.cancel()
        self._notified.set()

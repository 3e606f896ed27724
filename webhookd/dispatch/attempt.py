"""One attempt: the request, and one record for the journal of its outcome, its delivery and its endpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec
import trio

from webhookd.base.clock import Clock
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import (
    AttemptRecord,
    DeliveryError,
    Message,
    Outcome,
    QueuedDelivery,
)
from webhookd.base.stages import reached
from webhookd.delivery.request import Receiver, Request, RequestSender, compose, send
from webhookd.dispatch.lane import Lane
from webhookd.dispatch.reporter import Reporter
from webhookd.journal import Store, Ticket


class _Attempt(NamedTuple):
    """One attempt that has begun: `began_at` is trio's time, `started_at` wall-clock time."""

    delivery: QueuedDelivery
    message: Message
    receiver: Receiver
    began_at: float
    started_at: float


@dataclass(slots=True, eq=False)
class Attempts:
    """Makes the attempts of one lane, each to the current `receiver`.

    A change of the endpoint holds `changing` until it is on disk; an answer that arrives meanwhile is settled after it.
    An attempt that is canceled is recorded as interrupted, which counts neither against its delivery nor against its
    endpoint; the journal's writer outlives the actors and writes that record too. `unrecorded` are the tickets of the
    records that are not yet known to be on disk. `release_slot` gives back the slot of one request.
    """

    lane: Lane
    changing: trio.Lock
    store: Store
    sender: RequestSender
    reporter: Reporter
    clock: Clock
    ids: IdFactory
    release_slot: Callable[[], None]
    sample: Callable[[], float]
    receiver: Receiver | None = None
    unrecorded: set[Ticket[None]] = field(default_factory=set)

    async def settled(self) -> None:
        """Return once the journal has written or refused every record."""
        while self.unrecorded:
            await self.unrecorded.pop().settled()

    async def make(self, delivery: QueuedDelivery) -> tuple[Ticket[None], bool]:
        """Make one request, release its slot, and submit the record of the attempt.

        Return the record's ticket, and whether the lane may now allow more requests than before.
        """
        try:
            message = await self.store.message(delivery.event_pk, self.lane.queue.upcoming)
            assert self.receiver is not None  # noqa: S101 - it is loaded before any delivery is taken
            attempt = _Attempt(delivery, message, self.receiver, trio.current_time(), self.clock.now())
            try:
                outcome = await self._send(attempt)
            except trio.Cancelled:
                interrupted = Outcome(
                    duration_seconds=trio.current_time() - attempt.began_at,
                    error=DeliveryError.INTERRUPTED,
                    detail="the server stopped",
                )
                await self._settle(attempt, interrupted)  # noqa: ASYNC102 - shielded there, until a commit has ended
                raise
        finally:
            self.release_slot()
        reached("answer.received")
        return await self._settle(attempt, outcome)

    async def _send(self, attempt: _Attempt) -> Outcome:
        receiver, delivery = attempt.receiver, attempt.delivery
        headers = compose(
            receiver=receiver,
            message=attempt.message,
            delivery_id=delivery.id,
            number=delivery.attempts + 1,
            sequence=delivery.sequence,
            at=attempt.started_at,
        )
        reached("request.begun")
        timeout_seconds = self.lane.policy.timeout_seconds
        return await send(
            self.sender, Request(self.lane.endpoint.id, receiver.url, headers, attempt.message.body, timeout_seconds)
        )

    async def _settle(self, attempt: _Attempt, outcome: Outcome) -> tuple[Ticket[None], bool]:
        """Settle an outcome, after any change of the endpoint that is being written; can't be canceled."""
        if not self.changing.locked():
            return self._submit(attempt, outcome)
        with trio.CancelScope(shield=True):
            async with self.changing:
                submitted = self._submit(attempt, outcome)
        return submitted

    def _submit(self, attempt: _Attempt, outcome: Outcome) -> tuple[Ticket[None], bool]:
        """Settle an outcome and submit its record, in one synchronous step."""
        delivery, message = attempt.delivery, attempt.message
        now = self.clock.now()  # first, since it may shift the lane
        endpoint, before = self.lane.endpoint, self.lane.state
        verdict = self.lane.settle(delivery, outcome, attempt.receiver, now=now, sample=self.sample())
        record = AttemptRecord(
            delivery=delivery,
            attempt_id=self.ids.new(Prefix.ATTEMPT),
            number=delivery.attempts + 1,
            trigger=delivery.trigger,
            started_at=attempt.started_at,
            outcome=outcome,
            **msgspec.structs.asdict(verdict),
        )
        ticket = self.store.record(record, self.reporter.notices(endpoint, message, record, before))
        self.unrecorded.add(ticket)  # before the next call, in case it raises
        self.reporter.attempted(endpoint, message, record, before)
        if verdict.disable is not None:
            self.reporter.disable(self.lane.endpoint, verdict.disable)
        after = verdict.endpoint
        return ticket, (before.breaker, before.needs_probe) != (after.breaker, after.needs_probe)

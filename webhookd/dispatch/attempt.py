"""One attempt: what is sent, and what its outcome makes of delivery and endpoint, as one record for the journal."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import msgspec
import trio

from webhookd.base.clock import Clock
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import (
    AttemptRecord,
    DeliveryError,
    DisabledReason,
    Endpoint,
    EndpointState,
    Message,
    Outcome,
    QueuedDelivery,
)
from webhookd.base.stages import reached
from webhookd.delivery.request import Receiver, RequestSender, compose
from webhookd.dispatch.lane import Lane
from webhookd.dispatch.slots import Share
from webhookd.journal import Publish, Ticket


class AttemptQueue(Protocol):
    """What an attempt needs of the journal."""

    async def message(self, event_pk: int, upcoming: Callable[[], Iterable[int]]) -> Message:
        """Load what is sent of an event; where it has to be read, what is `upcoming` is brought along."""
        ...

    def record(self, record: AttemptRecord, notices: Sequence[Publish]) -> Ticket[None]:
        """Submit an attempt, what it made of delivery and endpoint, and what tells of it, in one transaction."""
        ...


class AttemptOwner(Protocol):
    """What an attempt tells the part that keeps the endpoints; `before` is the endpoint's state until then."""

    def notices(
        self, endpoint: Endpoint, message: Message, record: AttemptRecord, before: EndpointState
    ) -> Sequence[Publish]:
        """Return the events that tell of an attempt."""
        ...

    def attempted(self, endpoint: Endpoint, message: Message, record: AttemptRecord, before: EndpointState) -> None:
        """Hear of an attempt whose record has been submitted."""
        ...

    def disable(self, endpoint: Endpoint, reason: DisabledReason) -> None:
        """Disable the endpoint, in the journal and for the router."""
        ...


class _Attempt(NamedTuple):
    """One attempt that has begun: `began_at` is trio's time, `started_at` the wall clock's."""

    delivery: QueuedDelivery
    message: Message
    receiver: Receiver
    began_at: float
    started_at: float


@dataclass(slots=True, eq=False)
class Attempts:
    """Makes the attempts of one lane, to `receiver` as it is when the request is composed.

    A change of the endpoint holds `changing` until it is on disk; an answer that arrives meanwhile is settled after it.
    A canceled attempt is recorded as interrupted, which counts against nobody; the writer outlives the actors and puts
    that on disk too. `unrecorded` are the records that aren't known to be on disk.
    """

    lane: Lane
    changing: trio.Lock
    queue: AttemptQueue
    sender: RequestSender
    owner: AttemptOwner
    clock: Clock
    ids: IdFactory
    slots: Share
    sample: Callable[[], float]
    receiver: Receiver | None = None
    unrecorded: set[Ticket[None]] = field(default_factory=set)

    async def settled(self) -> None:
        """Return once the journal has answered to every record, whatever the answer is."""
        while self.unrecorded:
            await self.unrecorded.pop().settled()

    async def make(self, delivery: QueuedDelivery) -> tuple[Ticket[None], bool]:
        """Make one request in a slot that was acquired for it, and submit what came of it.

        Return the record's ticket, and whether more may leave from now on than one delivery for one that landed.
        """
        try:
            message = await self.queue.message(delivery.event_pk, self.lane.queue.upcoming)
            assert self.receiver is not None  # noqa: S101 - it is loaded before anything is taken
            attempt = _Attempt(delivery, message, self.receiver, trio.current_time(), self.clock.now())
            try:
                outcome = await self._send(attempt)
            except trio.Cancelled:
                seconds = trio.current_time() - attempt.began_at
                cut_off = Outcome(
                    duration_seconds=seconds, error=DeliveryError.INTERRUPTED, detail="the server stopped"
                )
                await self._settle(attempt, cut_off)  # noqa: ASYNC102 - shielded there, until a commit has ended
                raise
        finally:
            self.slots.release()
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
        return await self.sender.send(
            endpoint_id=self.lane.endpoint.id,
            url=receiver.url,
            headers=headers,
            body=attempt.message.body,
            timeout_seconds=self.lane.policy.timeout_seconds,
        )

    async def _settle(self, attempt: _Attempt, outcome: Outcome) -> tuple[Ticket[None], bool]:
        """Settle an outcome, after a change of the endpoint that is on its way to the disk; not interrupted."""
        if not self.changing.locked():
            return self._submit(attempt, outcome)
        with trio.CancelScope(shield=True):
            async with self.changing:
                submitted = self._submit(attempt, outcome)
        return submitted

    def _submit(self, attempt: _Attempt, outcome: Outcome) -> tuple[Ticket[None], bool]:
        """Settle an outcome and submit its record; one step, so nothing comes between."""
        delivery, message = attempt.delivery, attempt.message
        now = self.clock.now()  # first: it may shift the lane
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
        ticket = self.queue.record(record, self.owner.notices(endpoint, message, record, before))
        self.unrecorded.add(ticket)
        self.owner.attempted(endpoint, message, record, before)
        if verdict.disable is not None:
            self.owner.disable(self.lane.endpoint, verdict.disable)
        after = verdict.endpoint
        return ticket, (before.breaker, before.needs_probe) != (after.breaker, after.needs_probe)

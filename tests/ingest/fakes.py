"""A publisher that a test controls: which tickets complete when, and whether there is room."""

from collections.abc import Callable, Hashable

import trio

from webhookd.base.errors import Rejected
from webhookd.base.models import NewEvent, PublishResult


class FakeTicket:
    """A ticket that the test completes."""

    def __init__(self) -> None:
        self._done = trio.Event()
        self._result: PublishResult | Rejected | None = None

    def complete(self, result: PublishResult | Rejected) -> None:
        self._result = result
        self._done.set()

    async def wait(self) -> PublishResult:
        if self._result is None:
            await self._done.wait()
        if isinstance(self._result, Rejected):
            raise self._result
        assert self._result is not None
        return self._result


def accepted(new: NewEvent) -> PublishResult:
    return PublishResult(id=new.id or "evt_0", deliveries=1, duplicate=False)


class FakePublisher:
    """Accepts every event; completes its ticket at once unless `holds`; refuses if `refusal` returns an error."""

    def __init__(self, *, holds: bool = False) -> None:
        self.events: list[NewEvent] = []
        self.tickets: list[FakeTicket] = []
        self.holds = holds
        self.no_room: Rejected | None = None
        self.has_room = trio.Event()
        self.has_room.set()
        self.refuse: Callable[[NewEvent], Rejected | None] = lambda _new: None

    async def room(self, flow: Hashable) -> None:
        if not self.has_room.is_set():
            await self.has_room.wait()
        if self.no_room is not None:
            raise self.no_room

    def publish(self, new: NewEvent, flow: Hashable) -> FakeTicket:
        refusal = self.refuse(new)
        if refusal is not None:
            raise refusal
        ticket = FakeTicket()
        self.events.append(new)
        self.tickets.append(ticket)
        if not self.holds:
            ticket.complete(accepted(new))
        return ticket

    def complete(self, position: int) -> None:
        self.tickets[position].complete(accepted(self.events[position]))

"""What can be submitted to the writer, and the ticket on which a submitter waits."""

from collections.abc import Callable, Hashable, Sequence
from typing import Generic, TypeVar

import trio
from peewee import Database

from webhookd.base.models import AcceptedEvent, AttemptRecord, PublishResult, QueuedDelivery, Target

T = TypeVar("T")

_DELIVERY_BYTES = 500  # of one row with its place in the indexes, roughly
_DELIVERY_COST = 2  # its indexes are many
_RECORD_COST = 2  # an attempt, its delivery, its endpoint
_CALL_COST = 20  # a few statements in a savepoint, and an entry in the audit log
QueuedCallback = Callable[[Sequence[QueuedDelivery]], None]


class Ticket(Generic[T]):
    """The answer to come of something that was submitted; whoever gives up waiting takes nothing back."""

    __slots__ = ("_done", "_error", "_event", "_result")

    def __init__(self) -> None:
        self._done = False
        self._result: T | None = None
        self._error: Exception | None = None
        self._event: trio.Event | None = None

    async def wait(self) -> T:
        """Return the result once it is on disk, or raise what kept it from there."""
        if not self._done:
            await self.settled()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set by `succeed`; None is a result as well

    async def settled(self) -> None:
        """Return once the answer is there, whatever it is."""
        if not self._done:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()

    @property
    def is_done(self) -> bool:
        """Whether the answer is there."""
        return self._done

    def succeed(self, result: T) -> None:
        """Give the result; for the writer alone."""
        self._result = result
        self._finish()

    def fail(self, error: Exception) -> None:
        """Give the error; for the writer alone."""
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._done = True
        if self._event is not None:
            self._event.set()


class Publish:
    """Store an event and its deliveries.

    One that `insists` belongs to a record or a change, with which it waits for room; one that `may_repeat` has an id
    that somebody else chose. Those of one `flow` keep their order. `event_pk` is None for a duplicate, and `queued` are
    the deliveries that came of it.
    """

    __slots__ = (
        "committed",
        "error",
        "event",
        "event_pk",
        "flow",
        "insists",
        "may_repeat",
        "queued",
        "result",
        "targets",
        "ticket",
    )

    def __init__(
        self,
        event: AcceptedEvent,
        targets: tuple[Target, ...],
        committed: QueuedCallback,
        *,
        flow: Hashable,
        insists: bool,
        may_repeat: bool,
    ) -> None:
        self.flow = flow
        self.insists = insists
        self.may_repeat = may_repeat
        self.event = event
        self.targets = targets
        self.committed = committed
        self.ticket: Ticket[PublishResult] = Ticket()
        self.result: PublishResult | None = None
        self.error: Exception | None = None
        self.event_pk: int | None = None
        self.queued: Sequence[QueuedDelivery] = ()


class Record:
    """Store an attempt, what it made of its delivery and endpoint, and the events that tell of it."""

    __slots__ = ("error", "flow", "notices", "record", "ticket")

    def __init__(self, record: AttemptRecord, notices: Sequence[Publish]) -> None:
        self.record = record
        self.notices = notices
        self.flow: Hashable = ("endpoint", record.delivery.endpoint_pk)
        self.ticket: Ticket[None] = Ticket()
        self.error: Exception | None = None


class DatabaseCall:
    """Run a function on the database, in a savepoint of its own; one that `insists` waits for room on a full disk.

    A barrier changes what is on disk by then and nothing else: no operation passes it, in either direction.
    `tell` makes the events that tell of the result, which are stored with it.
    """

    __slots__ = ("change", "committed", "error", "insists", "is_barrier", "notices", "result", "tell", "ticket")

    def __init__(
        self,
        change: Callable[[Database], object],
        committed: Callable[[object], None] | None,
        *,
        insists: bool,
        is_barrier: bool = False,
        tell: Callable[[object], Sequence[Publish]] | None = None,
    ) -> None:
        self.is_barrier = is_barrier
        self.tell = tell
        self.notices: Sequence[Publish] = ()
        self.change = change
        self.committed = committed
        self.insists = insists
        self.ticket: Ticket[object] = Ticket()
        self.result: object = None
        self.error: Exception | None = None


Submission = Publish | Record | DatabaseCall


def size_of(operation: Submission) -> int:
    """Return roughly what an operation adds to the log."""
    if not isinstance(operation, Publish):
        return sum(map(size_of, operation.notices))
    return len(operation.event.body) + len(operation.targets) * _DELIVERY_BYTES


def cost_of(operation: Submission) -> int:
    """Return roughly what the rows of an operation cost the disk, the row of an event being 1."""
    if isinstance(operation, Publish):
        return 1 + len(operation.targets) * _DELIVERY_COST
    own = _RECORD_COST if isinstance(operation, Record) else _CALL_COST
    return own + sum(map(cost_of, operation.notices))


def can_wait(operation: Submission) -> bool:
    """Whether it is an event, which waits while the log is long."""
    return isinstance(operation, Publish)


def is_barrier(operation: Submission) -> bool:
    """Whether nothing may pass it."""
    return isinstance(operation, DatabaseCall) and operation.is_barrier


def is_kept(operation: Submission) -> bool:
    """Whether nobody could submit it again: an attempt was made, a moment has passed."""
    return isinstance(operation, Record) or (isinstance(operation, DatabaseCall) and operation.insists)

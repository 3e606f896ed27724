"""The operations that the writer takes, and the ticket on which a submitter waits for the result."""

from collections.abc import Callable, Hashable, Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Generic, NamedTuple, TypeVar

import trio
from peewee import Database

from webhookd.base.models import AcceptedEvent, AttemptRecord, PublishResult, QueuedDelivery, Target
from webhookd.journal.feed import Setting
from webhookd.journal.ownership import Fence

T = TypeVar("T")


class ChangeMark(NamedTuple):
    """A change of settings: its number, and a random token, since a restored database gives numbers out again."""

    number: int = 0
    token: bytes = b""


NO_CHANGE = ChangeMark()
"""The mark before the first change, and where no other process makes any."""

_DELIVERY_BYTES = 500  # of one row with its index entries, roughly
_DELIVERY_COST = 2  # it has many indexes
_RECORD_COST = 2  # an attempt, its delivery, its endpoint
_CALL_COST = 20  # a few statements in a savepoint, and an entry in the audit log
QueuedCallback = Callable[[Sequence[QueuedDelivery]], None]
Landed = Callable[[Exception | None], None]
"""Takes the error of a record, or None; called on the event loop, and must not raise."""


class Ticket(Generic[T]):
    """The future result of an operation. A submitter that stops waiting doesn't cancel the operation."""

    __slots__ = ("_done", "_error", "_event", "_result")

    def __init__(self) -> None:
        self._done = False
        self._result: T | None = None
        self._error: Exception | None = None
        self._event: trio.Event | None = None

    async def wait(self) -> T:
        """Return the result once it is on disk, or raise the operation's error."""
        if not self._done:
            await self.settled()
        if self._error is not None:
            raise self._error
        return self._result  # type: ignore[return-value]  # set by `succeed`; None is a result as well

    async def settled(self) -> None:
        """Return once there is a result or an error."""
        if not self._done:
            if self._event is None:
                self._event = trio.Event()
            await self._event.wait()

    @property
    def is_done(self) -> bool:
        """Whether there is a result or an error."""
        return self._done

    def settle(self, result: T | Exception) -> None:
        """Set the result or the error."""
        if isinstance(result, Exception):
            self.fail(result)
        else:
            self.succeed(result)

    def succeed(self, result: T) -> None:
        """Set the result; for the writer only."""
        self._result = result
        self._finish()

    def fail(self, error: Exception) -> None:
        """Set the error; for the writer only."""
        self._error = error
        self._finish()

    def _finish(self) -> None:
        self._done = True
        if self._event is not None:
            self._event.set()


@dataclass(slots=True, eq=False)
class Publish:
    """Store an event and its deliveries.

    An event that `insists` belongs to a record or a change, and waits for room together with it. `may_repeat` says that
    a producer chose the id, so it may be a duplicate. Events of one `flow` keep their order. `committed` is called with
    the deliveries that were queued, in parts. `event_pk` is None for a duplicate. `targets` were found when all changes
    of settings up to `as_of` were known; `aim` finds them again.
    """

    event: AcceptedEvent
    targets: tuple[Target, ...]
    committed: QueuedCallback
    _: KW_ONLY
    flow: Hashable
    insists: bool
    may_repeat: bool
    as_of: ChangeMark = NO_CHANGE
    aim: Callable[[], tuple[Target, ...]] | None = None
    ticket: Ticket[PublishResult] = field(default_factory=Ticket, init=False)
    result: PublishResult | None = field(default=None, init=False)
    error: Exception | None = field(default=None, init=False)
    event_pk: int | None = field(default=None, init=False)
    queued: Sequence[QueuedDelivery] = field(default=(), init=False)

    @property
    def is_done(self) -> bool:
        """Whether there is a result or an error."""
        return self.ticket.is_done

    def fail(self, error: Exception) -> None:
        """Report that nothing was stored; for the writer only."""
        self.ticket.fail(error)


@dataclass(slots=True, eq=False)
class Record:
    """Store an attempt, the resulting state of its delivery and endpoint, and the operational events about it.

    `landed` is called once, without an error when all of it is on disk, and with FencedError if another node drives the
    endpoint by now.
    """

    record: AttemptRecord
    notices: Sequence[Publish]
    landed: Landed
    fence: Fence | None = None
    error: Exception | None = field(default=None, init=False)
    is_done: bool = field(default=False, init=False)

    @property
    def flow(self) -> Hashable:
        """The flow in which a record waits if it has notices."""
        return ("endpoint", self.record.delivery.endpoint_pk)

    def succeed(self) -> None:
        """Report that it is on disk; for the writer only."""
        self.is_done = True
        self.landed(None)

    def fail(self, error: Exception) -> None:
        """Report that nothing was stored; for the writer only."""
        self.is_done = True
        self.landed(error)


@dataclass(slots=True, eq=False)
class DatabaseCall:
    """Run a function on the database, in its own savepoint; one that `insists` waits for room while the disk is full.

    No operation overtakes a barrier or is overtaken by it: it applies to exactly what was submitted before it.
    `notices_of` returns the operational events about the result, which are stored in the same commit. `announces`
    returns what other processes must learn of the result; `marks` are then the change before and this one. If another
    node has one of the slots in `fences` by now, it fails with FencedError. `follows_key` is set once the change is
    repeated after another node has changed the master key.
    """

    change: Callable[[Database], object]
    committed: Callable[[object], None] | None
    _: KW_ONLY
    insists: bool
    is_barrier: bool = False
    notices_of: Callable[[object], Sequence[Publish]] | None = None
    fences: Sequence[Fence] = ()
    announces: Callable[[object], Setting] | None = None
    follows_key: bool = field(default=False, init=False)
    marks: tuple[ChangeMark, ChangeMark] | None = field(default=None, init=False)
    ticket: Ticket[object] = field(default_factory=Ticket, init=False)
    result: object = field(default=None, init=False)
    error: Exception | None = field(default=None, init=False)
    notices: Sequence[Publish] = field(default=(), init=False)

    @property
    def is_done(self) -> bool:
        """Whether there is a result or an error."""
        return self.ticket.is_done

    def fail(self, error: Exception) -> None:
        """Report that nothing was changed; for the writer only."""
        self.ticket.fail(error)


Submission = Publish | Record | DatabaseCall


def size_of(operation: Submission) -> int:
    """Return roughly how many bytes an operation adds to the write-ahead log."""
    if not isinstance(operation, Publish):
        return sum(map(size_of, operation.notices))
    return len(operation.event.body) + len(operation.targets) * _DELIVERY_BYTES


def cost_of(operation: Submission) -> int:
    """Return roughly what it costs to write the rows of an operation; the row of an event costs 1."""
    if isinstance(operation, Publish):
        return 1 + len(operation.targets) * _DELIVERY_COST
    own = _RECORD_COST if isinstance(operation, Record) else _CALL_COST
    return own + sum(map(cost_of, operation.notices))


def can_wait(operation: Submission) -> bool:
    """Whether an operation is an event, which waits while the log is long."""
    return isinstance(operation, Publish)


def is_change(operation: Submission) -> bool:
    """Whether an operation is a function on the database."""
    return isinstance(operation, DatabaseCall)


def is_barrier(operation: Submission) -> bool:
    """Whether no operation may overtake this one."""
    return isinstance(operation, DatabaseCall) and operation.is_barrier


def is_kept(operation: Submission) -> bool:
    """Whether an operation is kept while the disk is full, because nobody can submit it again."""
    return isinstance(operation, Record) or (isinstance(operation, DatabaseCall) and operation.insists)

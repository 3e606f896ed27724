"""A store in memory, for tests that need no disk; the conformance tests check it by the same rules as the one on disk.

Reads see the last commit. It has no replays, statistics, keys, audit log or backups: those are tested on disk.
"""

from collections.abc import AsyncIterator, Callable, Hashable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from pathlib import Path

import trio

from tests.memory_deliveries import MemoryDeliveries
from tests.memory_tables import Tables, window_of
from tests.memory_webhooks import MemoryWebhooks
from webhookd.base.event_types import STARTING_EVENT_TYPES
from webhookd.base.ids import IdFactory
from webhookd.base.models import AcceptedEvent, AttemptRecord, Message, PublishResult, QueuedDelivery, Target
from webhookd.journal import (
    DeliveriesQueued,
    Driver,
    EventTypeRow,
    Publish,
    ReplayRow,
    Store,
    Ticket,
    Window,
    WindowRequest,
)
from webhookd.journal.administration import EventTypes
from webhookd.journal.history import Replays
from webhookd.journal.operations import Landed, Record
from webhookd.journal.ownership import Everything, Fence


@asynccontextmanager
async def open_memory_store(ids: IdFactory) -> AsyncIterator["MemoryStore"]:
    """Make an empty store, as `open_store` opens one on disk."""
    yield MemoryStore(ids)


class MemoryStore(Store):
    """The store, without a disk under it."""

    def __init__(self, ids: IdFactory) -> None:
        self.path = Path("/dev/null")
        self.ownership = Everything()
        self.tables = Tables(ids)
        self.feed = self.tables.feed
        self.webhooks = MemoryWebhooks(self.tables)
        self.deliveries = MemoryDeliveries(self.tables)
        self.event_types = MemoryEventTypes()
        self.replays = NoReplays()

    @property
    def is_shared(self) -> bool:
        return False

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self.tables.run()

    async def room(self, flow: Hashable = None) -> None:
        await trio.lowlevel.checkpoint()

    def has_room(self, flow: Hashable) -> bool:
        return True

    def publish(
        self,
        event: AcceptedEvent,
        targets: tuple[Target, ...],
        *,
        aim: Callable[[], tuple[Target, ...]] | None = None,
        flow: Hashable = None,
        may_repeat: bool = True,
    ) -> Ticket[PublishResult]:
        operation = Publish(event, targets, self._tell, flow=flow, insists=False, may_repeat=may_repeat)
        self.tables.submit(operation)
        return operation.ticket

    def holding_changes(self) -> AbstractAsyncContextManager[None]:
        return nullcontext()

    async def read_drivers(self, endpoint_pks: Sequence[int]) -> Mapping[int, Driver]:
        await trio.lowlevel.checkpoint()
        return {}

    def requeued(self, endpoint_pk: int) -> None:
        """Do nothing: there is no other process."""

    def notice(
        self,
        event: AcceptedEvent,
        targets: tuple[Target, ...],
        aim: Callable[[], tuple[Target, ...]] | None = None,
    ) -> Publish:
        return Publish(event, targets, self._tell, flow=None, insists=True, may_repeat=False)

    def record(
        self, record: AttemptRecord, notices: Sequence[Publish] = (), *, fence: Fence | None = None, landed: Landed
    ) -> None:
        self.tables.submit(Record(record, notices, landed, fence))

    async def window(self, request: WindowRequest) -> Window:
        await trio.lowlevel.checkpoint()
        return window_of(self.tables, request)

    def take_message(self, delivery: QueuedDelivery) -> Message | None:
        return self.tables.events[delivery.event_pk].message

    def _tell(self, queued: Sequence[QueuedDelivery]) -> None:
        self.feed.announce(DeliveriesQueued(queued))


class MemoryEventTypes(EventTypes):
    """The catalogue as a new journal has it."""

    def __init__(self) -> None:
        return

    async def all(self) -> list[EventTypeRow]:
        return [EventTypeRow(name=name) for name in STARTING_EVENT_TYPES]


class NoReplays(Replays):
    """Nothing is being replayed."""

    def __init__(self) -> None:
        return

    async def running(self) -> dict[str | None, list[ReplayRow]]:
        await trio.lowlevel.checkpoint()
        return {}

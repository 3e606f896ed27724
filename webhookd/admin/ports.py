"""What the admin API needs of the rest of the server, so that a test can stand in for it in a few lines."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import trio

from webhookd.admin.auth import KeyRing, Tokens
from webhookd.base.clock import Clock
from webhookd.base.ids import IdFactory
from webhookd.base.models import Endpoint, NewEvent, PublishResult
from webhookd.base.secret import Secret
from webhookd.config import Config
from webhookd.crypto.vault import Vault
from webhookd.dispatch.health import EndpointHealth, Inside
from webhookd.jobs.backup import Copier
from webhookd.jobs.key_rotation import Rotator
from webhookd.jobs.replay import Replayer
from webhookd.jobs.statistics import SavedStatistics
from webhookd.jobs.test_delivery import Tester
from webhookd.journal import (
    AuditEntry,
    DeliveryRow,
    EndpointChanges,
    EndpointCondition,
    EventTypeCondition,
    EventTypeRow,
    NewEndpoint,
    Store,
    Ticket,
)
from webhookd.observe.attempt_feed import AttemptFeed
from webhookd.observe.footprint import Footprints
from webhookd.observe.loop_watch import Stalls
from webhookd.observe.metrics import Measures


class EventRouter(Protocol):
    """What takes events and changes endpoints; every refusal is a Rejected.

    A `entry` goes into the audit log in the commit of the change it stands for, and a `condition` is asked in it first.
    """

    @property
    def tester(self) -> Tester:
        """What makes tests."""
        ...

    @property
    def replayer(self) -> Replayer:
        """What recovers and replays."""
        ...

    @property
    def recent(self) -> AttemptFeed:
        """The last attempts."""
        ...

    @property
    def event_types(self) -> Collection[str]:
        """The names of the catalogue."""
        ...

    async def room(self, flow: Hashable) -> None:
        """Return when a flow can take one more event; Rejected JOURNAL_FULL or SHUTTING_DOWN if that won't be soon."""
        ...

    def has_room(self, flow: Hashable) -> bool:
        """Whether `room` would return, or refuse, at once."""
        ...

    def publish(self, new: NewEvent, flow: Hashable) -> Ticket[PublishResult]:
        """Take one event, in one step; those of one flow keep their order, and flows take turns."""
        ...

    async def create_endpoint(self, new: NewEndpoint, entry: AuditEntry | None) -> Endpoint:
        """Register an endpoint."""
        ...

    async def update_endpoint(
        self,
        endpoint_id: str,
        changes: EndpointChanges,
        entry: AuditEntry | None,
        condition: EndpointCondition | None = None,
    ) -> Endpoint:
        """Change an endpoint."""
        ...

    async def rotate_secret(
        self,
        endpoint_id: str,
        secret: Secret[str],
        overlap_seconds: float,
        entry: AuditEntry | None,
        condition: EndpointCondition | None = None,
    ) -> Endpoint:
        """Give an endpoint a new secret."""
        ...

    async def delete_endpoint(
        self, endpoint_id: str, entry: AuditEntry | None, condition: EndpointCondition | None = None
    ) -> Endpoint:
        """Delete an endpoint and cancel what it had queued."""
        ...

    async def retry(
        self, delivery_id: str, organization_id: str | None, entry: AuditEntry | None, *, force: bool
    ) -> DeliveryRow:
        """Send a delivery again by hand."""
        ...

    async def put_event_type(
        self, row: EventTypeRow, entry: AuditEntry | None, condition: EventTypeCondition | None = None
    ) -> EventTypeRow:
        """Add a name to the catalogue or change what is said of it."""
        ...

    async def delete_event_type(
        self, name: str, entry: AuditEntry | None, condition: EventTypeCondition | None = None
    ) -> None:
        """Take a name out of the catalogue."""
        ...

    async def health(self, subjects: list[Endpoint]) -> list[EndpointHealth]:
        """Say how endpoints are, in their order."""
        ...

    async def inside(self, endpoint: Endpoint) -> Inside:
        """Say by what an endpoint's actor decides."""
        ...

    def halted(self) -> list[Endpoint]:
        """Return the endpoints to which sending keeps crashing inside webhookd."""
        ...

    def in_flight(self, endpoint_pk: int) -> frozenset[int]:
        """Return the row numbers of the deliveries that are being sent now."""
        ...


class Readiness(StrEnum):
    """What `/readyz` tells a load balancer; only `STARTING` and `DRAINING` send it elsewhere."""

    STARTING = "starting"
    OK = "ok"
    DEGRADED = "degraded"
    DRAINING = "draining"


class Lifecycle(Protocol):
    """Where the server is between its start and its end."""

    def readiness(self) -> tuple[Readiness, tuple[str, ...]]:
        """Return the state and, where it is degraded, why, one sentence each."""
        ...


class Metrics(Protocol):
    """What tells Prometheus how the server is."""

    @property
    def media_type(self) -> str:
        """The media type of an exposition."""
        ...

    async def expose(self) -> bytes:
        """Return an exposition, which may be a second old."""
        ...


class Locks:
    """A lock for each name, kept while somebody holds or awaits it: who changes one thing waits for no other's."""

    def __init__(self) -> None:
        self._locks: dict[str, trio.Lock] = {}
        self._users: Counter[str] = Counter()

    @asynccontextmanager
    async def holding(self, name: str) -> AsyncIterator[None]:
        """Hold the lock of this name."""
        self._users[name] += 1
        try:
            async with self._locks.setdefault(name, trio.Lock()):
                yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._locks[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Services:
    """All that the operations work with.

    `check_url` raises Rejected URL_NOT_ALLOWED for a URL that must not be dialled, `check_headers` VALIDATION_ERROR
    for custom headers that must not be sent. Without `tokens` API keys alone are taken. `changing` holds a webhook, by
    its id, for whoever reads it in order to change it.
    """

    router: EventRouter
    store: Store
    lifecycle: Lifecycle
    keys: KeyRing
    tokens: Tokens | None
    vault: Vault
    rotator: Rotator
    copier: Copier
    clock: Clock
    ids: IdFactory
    config: Config
    measures: Measures
    metrics: Metrics
    statistics: SavedStatistics
    stalls: Stalls
    footprints: Footprints
    check_url: Callable[[str], Awaitable[None]]
    check_headers: Callable[[Mapping[str, str]], None]
    changing: Locks = field(default_factory=Locks)

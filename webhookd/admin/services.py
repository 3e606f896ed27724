"""What the operations of the API and the pages of the dashboard work with."""

from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from webhookd.admin.auth import KeyRing, Tokens
from webhookd.admin.lifecycle import Lifecycle
from webhookd.admin.prometheus import Exporter
from webhookd.base.clock import Clock
from webhookd.base.ids import IdFactory
from webhookd.config import Config
from webhookd.crypto.vault import Vault
from webhookd.dispatch.router import Router
from webhookd.jobs.attempt_follower import AttemptFollower
from webhookd.jobs.backup import BackupJob
from webhookd.jobs.key_rotation import Rotator
from webhookd.jobs.statistics import SavedStatistics
from webhookd.journal import Store
from webhookd.observe.footprint import Footprints
from webhookd.observe.loop_watch import Stalls
from webhookd.observe.measures import Measures


class Locks:
    """A lock for each name, kept while a task holds it or waits for it."""

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
    """The parts of the server that operations use.

    `check_url` raises Rejected URL_NOT_ALLOWED for a URL that must not be dialled, `check_headers` VALIDATION_ERROR
    for custom headers that must not be sent. Without `tokens` only API keys are accepted. `changing` has a lock for
    each webhook, by id, for a task that reads a webhook in order to change it. `attempts` are those of all nodes, used
    only where several share the journal.
    """

    router: Router
    store: Store
    lifecycle: Lifecycle
    keys: KeyRing
    tokens: Tokens | None
    vault: Vault
    rotator: Rotator
    backup_job: BackupJob
    clock: Clock
    ids: IdFactory
    config: Config
    measures: Measures
    metrics: Exporter
    statistics: SavedStatistics
    attempts: AttemptFollower
    stalls: Stalls
    footprints: Footprints
    check_url: Callable[[str], Awaitable[None]]
    check_headers: Callable[[Mapping[str, str]], None]
    changing: Locks = field(default_factory=Locks)

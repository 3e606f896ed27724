"""Recover and replay: many deliveries made to go again, a bounded step at a time, beside live traffic.

What there is to do is counted by a reader, and a step of the writer looks at a bounded number of rows: however much
there is, nobody waits for it. What is left to do stands in the journal, so a restart goes on where it was. One step is
one write: live events have their turn between two, and the endpoint's own order and rate hold for what is queued as for
everything else.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol

import trio

from webhookd.base.clock import Clock
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import DeliveryStatus, Endpoint, Policy, ReplayKind, ReplayStatus, WhenInactive
from webhookd.base.stages import reached
from webhookd.journal import AuditEntry, QueuedAs, ReplayRow, Selection, Store
from webhookd.observe.logs import get_logger

RETRY_SECONDS = 5.0

_log = get_logger("replay")


class Wake(Protocol):
    """Tells an endpoint's actor that its queue was changed behind its back."""

    def __call__(self, endpoint_pk: int) -> None:
        """Wake the actor, or start it."""
        ...


class Replayer:
    """Starts, carries out and stops recovers and replays; `run` it under a supervisor."""

    def __init__(
        self, store: Store, clock: Clock, ids: IdFactory, *, wake: Wake, policy: Callable[[Endpoint], Policy]
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._wake = wake
        self._policy = policy
        self._asked = trio.Event()

    async def count(self, wanted: Selection) -> int:
        """Return how many deliveries or events would be queued."""
        matched = await self._store.replays.match(wanted)
        return matched.count

    async def start(self, endpoint: Endpoint, wanted: Selection, entry: AuditEntry | None = None) -> ReplayRow:
        """Begin, and return what it matched; the work goes on by itself."""
        matched = await self._store.replays.match(wanted)
        replay_id = self._ids.new(Prefix.REPLAY)
        row = await self._store.replays.start(
            wanted, matched, replay_id, self._clock.now(), endpoint=endpoint, entry=entry
        )
        self._asked.set()
        return row

    async def stop(self, endpoint: Endpoint, replay_id: str, entry: AuditEntry | None = None) -> ReplayRow:
        """Stop one; what it queued stays. Rejected NOT_FOUND."""
        return await self._store.replays.stop(endpoint, replay_id, entry)

    async def run(self) -> None:
        """Carry out what is asked for, until canceled.

        A step of each organization in turn, however many one of them has started: it waits behind its own.
        """
        while True:
            self._asked = trio.Event()
            lines = {owner: deque(rows) for owner, rows in (await self._store.replays.running()).items()}
            if not lines:
                await self._asked.wait()
            while lines and not self._asked.is_set():
                for owner, line in list(lines.items()):
                    row = await self._advance(line.popleft())
                    if row is not None:
                        line.append(row)
                    if not line:
                        del lines[owner]

    async def _advance(self, row: ReplayRow) -> ReplayRow | None:
        """Take the next step of one; return it as it is then, None once it has ended."""
        try:
            endpoint, is_deleted = await self._store.webhooks.by_pk(row.endpoint_pk)
            if is_deleted:
                await self._store.replays.stop_all(row.endpoint_pk)
                return None
            policy = self._policy(endpoint)
            after = await self._store.replays.step(
                row.id,
                selection(endpoint, row.kind, since=row.since, until=row.until, events=row.events),
                QueuedAs(
                    at=self._clock.now(),
                    max_age_seconds=policy.max_age_seconds,
                    status=DeliveryStatus.CANCELED if _drops(endpoint, policy) else DeliveryStatus.PENDING,
                ),
                self._ids,
            )
        except Rejected as refused:
            if refused.code is ErrorCode.NOT_FOUND:
                return None  # stopped and removed by its age, all since `running` was read
            if refused.code is not ErrorCode.JOURNAL_FULL:
                raise
            await trio.sleep(RETRY_SECONDS)
            return row
        reached("replay.step")
        if after.queued > row.queued:
            self._wake(row.endpoint_pk)
        if after.status is ReplayStatus.DONE:
            _log.info("replay.done", replay=row.id, kind=row.kind.value, endpoint=endpoint.id, queued=after.queued)
        return after if after.status is ReplayStatus.RUNNING else None


def selection(
    endpoint: Endpoint, kind: ReplayKind, *, since: float, until: float, events: tuple[str, ...]
) -> Selection:
    """Return what a recover or replay of an endpoint looks for."""
    return Selection(
        endpoint_pk=endpoint.pk,
        kind=kind,
        since=since,
        until=until,
        events=events,
        subscribed=endpoint.events,
        organization_id=endpoint.organization_id,
    )


def _drops(endpoint: Endpoint, policy: Policy) -> bool:
    return not endpoint.is_active and policy.when_inactive is WhenInactive.DROP

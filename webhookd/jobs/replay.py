"""Recovers and replays: they queue many deliveries again, in bounded steps, while other events are taken and sent.

A reader counts what matches, and each step of the writer looks at a bounded number of rows, so nothing else waits long,
however much matches. The position is in the journal, so a restart goes on from it, and so does another node that drives
the endpoint from now on. One step is one transaction, and new events are written between two steps. The endpoint's
order and rate limit apply to these deliveries as to all others.
"""

from collections import deque
from collections.abc import Callable

import trio

from webhookd.base.clock import Clock
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import Endpoint, Policy, ReplayKind, ReplayStatus
from webhookd.base.stages import reached
from webhookd.delivery.policy.resolve import queued_status
from webhookd.journal import (
    AuditEntry,
    FencedError,
    QueuedAs,
    ReplayAdded,
    ReplayRow,
    Selection,
    SlotsTaken,
    Store,
)
from webhookd.observe.logs import get_logger

RETRY_SECONDS = 5.0

_log = get_logger("replay")


class Replayer:
    """Starts recovers and replays, and carries out those of the endpoints that this process drives.

    `run` it under a supervisor.
    `wake` has an endpoint's actor read its queue again, and starts the actor if it isn't running.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        ids: IdFactory,
        *,
        wake: Callable[[int], None],
        policy: Callable[[Endpoint], Policy],
    ) -> None:
        self._store = store
        self._clock = clock
        self._ids = ids
        self._wake = wake
        self._policy = policy
        self._asked = trio.Event()
        store.feed.follow(ReplayAdded, lambda _: self._asked.set())
        store.feed.follow(SlotsTaken, lambda _: self._asked.set())

    async def start(self, endpoint: Endpoint, wanted: Selection, entry: AuditEntry | None = None) -> ReplayRow:
        """Start a recover or replay, and return its row; `run` carries it out, of the node that drives the endpoint."""
        matched = await self._store.replays.match(wanted)
        replay_id = self._ids.new(Prefix.REPLAY)
        return await self._store.replays.start(
            wanted, matched, replay_id, self._clock.now(), endpoint=endpoint, entry=entry
        )

    async def run(self) -> None:
        """Carry out recovers and replays until canceled.

        Each organization has one step in turn, however many of them it has started.
        """
        while True:
            self._asked = trio.Event()
            running = (await self._store.replays.running()).items()
            own = {
                owner: [row for row in rows if self._store.ownership.owns(row.endpoint_pk)] for owner, rows in running
            }
            queues = {owner: deque(rows) for owner, rows in own.items() if rows}
            if not queues:
                await self._asked.wait()
            while queues and not self._asked.is_set():
                for owner, queue in list(queues.items()):
                    row = await self._advance(queue.popleft())
                    if row is not None:
                        queue.append(row)
                    if not queue:
                        del queues[owner]

    async def _advance(self, row: ReplayRow) -> ReplayRow | None:
        """Take the next step of a replay; return its row after that, or None if it has ended or is another node's."""
        if not self._store.ownership.owns(row.endpoint_pk):
            return None
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
                    status=queued_status(endpoint, policy),
                ),
                self._ids,
            )
        except Rejected as refused:
            if refused.code is ErrorCode.NOT_FOUND:
                return None  # stopped, and then deleted by retention, since `running` was read
            if refused.code not in {ErrorCode.JOURNAL_FULL, ErrorCode.JOURNAL_UNREACHABLE}:
                raise
            await trio.sleep(RETRY_SECONDS)
            return row
        except FencedError:
            return None
        reached("replay.step")
        if after.queued > row.queued:
            self._wake(row.endpoint_pk)
        if after.status is ReplayStatus.DONE:
            _log.info("replay.done", replay=row.id, kind=row.kind.value, endpoint=endpoint.id, queued=after.queued)
        return after if after.status is ReplayStatus.RUNNING else None


def selection(
    endpoint: Endpoint, kind: ReplayKind, *, since: float, until: float, events: tuple[str, ...]
) -> Selection:
    """Return the selection of a recover or replay of an endpoint."""
    return Selection(
        endpoint_pk=endpoint.pk,
        kind=kind,
        since=since,
        until=until,
        events=events,
        subscribed=endpoint.events,
        organization_id=endpoint.organization_id,
    )

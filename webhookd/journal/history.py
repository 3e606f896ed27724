"""The store's methods for events, deliveries, and recovers and replays."""

from collections.abc import Callable, Collection, Sequence

from webhookd.base.ids import IdFactory
from webhookd.base.models import AcceptedEvent, AttemptRecord, Endpoint, Ordering
from webhookd.journal.audit_entries import AuditEntry
from webhookd.journal.feed import ReplayAdded
from webhookd.journal.operations import Publish, Ticket
from webhookd.journal.queries import audit, deliveries, endpoints, events, expiry, replays, searching, test_deliveries
from webhookd.journal.rows import DeliveryDetail, DeliveryRow, QueuedAs, ReplayMatch, ReplayRow, Selection
from webhookd.journal.transactions import StorePart, finished, reads
from webhookd.observe.attempt_feed import FeedPage, Place


class Events(StorePart):
    """The stored events, in the order of their commits."""

    page = reads(events.page)
    get = reads(events.get)
    search = reads(searching.search)
    starting_with = reads(searching.by_id)


class Deliveries(StorePart):
    """The stored deliveries, and the changes of them other than by an attempt."""

    page = reads(deliveries.page)
    of_event = reads(deliveries.of_event)
    queue = reads(deliveries.queue)
    find = reads(deliveries.find)
    get = reads(deliveries.get)
    backlog = reads(deliveries.backlog)
    expired = reads(expiry.expired)

    async def recent_attempts(self, place: Place | None) -> FeedPage:
        """Return the attempts of all nodes after a place that an answer has given, or without one the last ones.

        The oldest come first. Only for a journal that is shared: else they are in this process's memory.
        """
        sharing = self._transactions.sharing
        assert sharing is not None  # noqa: S101 - its callers ask for `is_shared`
        return await self._transactions.read(sharing.recent_attempts, place)

    async def retry(
        self,
        delivery_pk: int,
        *,
        force: bool,
        now: float,
        max_age_seconds: float,
        ordering: Ordering,
        entry: AuditEntry | None,
        organization_id: str | None,
    ) -> DeliveryRow:
        """Queue a delivery again with its sequence; its age and refusals start from 0.

        One that is pending or parked is due now, and so is the head of its queue. Raises Rejected CONFLICT for one that
        has succeeded, unless `force` is given, and NOT_FOUND for one that retention has deleted.
        """
        return await self._transactions.write(
            audit.recorded(deliveries.retry, entry, lambda row: (row.id, organization_id)),
            delivery_pk,
            force=force,
            now=now,
            max_age_seconds=max_age_seconds,
            ordering=ordering,
        )

    async def expire(
        self,
        pks: Sequence[int],
        now: float,
        *,
        driving: Collection[int],
        notices_of: Callable[[list[DeliveryRow]], Sequence[Publish]],
    ) -> list[DeliveryRow]:
        """Record deliveries that are older than they may be as failed; return those that had not ended before.

        `driving` are the row numbers of their webhooks; raises FencedError if another node drives one of them.
        """
        return await self._transactions.submit(
            lambda database: deliveries.expire(database, pks, now),
            insists=True,
            notices_of=notices_of,
            driving=driving,
        ).wait()

    async def cancel(self, endpoint_pk: int, now: float, limit: int) -> int:
        """Cancel what a deleted webhook has queued, at most `limit` deliveries; return how many were canceled."""
        return await self._transactions.write(deliveries.cancel, endpoint_pk, now, limit)

    def add_test(
        self, event: AcceptedEvent, record: AttemptRecord, endpoint: Endpoint, entry: AuditEntry | None
    ) -> Ticket[DeliveryDetail]:
        """Store a finished test; its sequence is 0, because it has no place in the queue."""
        insert = audit.recorded(test_deliveries.insert, entry, lambda _: endpoints.about(endpoint))
        return self._transactions.submit(lambda database: insert(database, event, record), insists=True)


class Replays(StorePart):
    """Recovers and replays: what they match, and their work in bounded steps."""

    match = reads(replays.match)
    get = reads(replays.get)
    of_endpoint = reads(replays.of_endpoint)
    running = reads(replays.running)

    async def start(
        self,
        wanted: Selection,
        matched: ReplayMatch,
        replay_id: str,
        now: float,
        *,
        endpoint: Endpoint,
        entry: AuditEntry | None,
    ) -> ReplayRow:
        """Store a new recover or replay; raises Rejected CONFLICT if 16 of the webhook are running."""
        start = audit.recorded(replays.start, entry, lambda _: endpoints.about(endpoint))
        return await finished(
            self._transactions.submit(
                lambda database: start(database, wanted, matched, replay_id, now),
                announces=lambda row: ReplayAdded(row.endpoint_pk),
            )
        )

    async def stop(self, endpoint: Endpoint, replay_id: str, entry: AuditEntry | None) -> ReplayRow:
        """Stop a recover or replay; what it has queued stays queued. Raises Rejected NOT_FOUND."""
        stop = audit.recorded(replays.stop, entry, lambda _: endpoints.about(endpoint))
        return await self._transactions.write(stop, endpoint.pk, replay_id)

    async def stop_all(self, endpoint_pk: int) -> None:
        """Stop all recovers and replays of a webhook."""
        await self._transactions.write(replays.stop_all, endpoint_pk)

    async def step(self, replay_id: str, wanted: Selection, queued_as: QueuedAs, ids: IdFactory) -> ReplayRow:
        """Queue the next deliveries, at most 250, and return the progress.

        Raises Rejected NOT_FOUND, and FencedError if another node drives the webhook by now.
        """
        return await finished(
            self._transactions.submit(
                lambda database: replays.step(database, replay_id, wanted, queued_as, ids),
                driving=[wanted.endpoint_pk],
            )
        )

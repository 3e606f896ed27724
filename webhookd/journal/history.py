"""Events, deliveries and replays in the store: what was published, where it went, and what is queued again."""

from collections.abc import Callable, Sequence

from webhookd.base.ids import IdFactory
from webhookd.base.models import AcceptedEvent, AttemptRecord, DeliveryStatus, Endpoint, Ordering
from webhookd.journal.audit_entries import AuditEntry
from webhookd.journal.operations import Publish, Ticket
from webhookd.journal.queries import audit, deliveries, endpoints, events, replays, searching, test_deliveries
from webhookd.journal.rows import (
    DeliveryDetail,
    DeliveryRow,
    EventRow,
    FoundEvents,
    QueuedAs,
    ReplayMatch,
    ReplayRow,
    RowPage,
    Selection,
)
from webhookd.journal.transactions import Transactions


class Events:
    """The events that are kept, in the order of their commits."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def page(
        self, organization_id: str | None, *, limit: int, cursor: str | None, after: str | None
    ) -> RowPage[EventRow]:
        """Return a part of the feed, oldest first; of one organization where one is given.

        `after` is the id of the last event seen, or a cursor: who goes on from there skips nothing. Rejected
        INVALID_CURSOR, also for an event that is no longer kept.
        """
        return await self._transactions.read(events.page, organization_id, limit=limit, cursor=cursor, after=after)

    async def get(self, event_id: str, organization_id: str | None) -> EventRow:
        """Return an event; Rejected NOT_FOUND where there is none, or for another organization than the one given."""
        return await self._transactions.read(events.get, event_id, organization_id)

    async def search(
        self,
        organization_id: str | None,
        *,
        pattern: str | None,
        since: float | None,
        until: float | None,
        limit: int,
        cursor: str | None,
    ) -> FoundEvents:
        """Return a page of the events that fit, newest first; it looks at 10,000 events at most."""
        return await self._transactions.read(
            searching.search, organization_id, pattern=pattern, since=since, until=until, limit=limit, cursor=cursor
        )

    async def starting_with(self, organization_id: str | None, start: str, limit: int) -> list[EventRow]:
        """Return the events whose ids begin so, by id."""
        return await self._transactions.read(searching.by_id, organization_id, start, limit)


class Deliveries:
    """The deliveries that are kept, and what is done to them outside of an attempt."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def page(
        self,
        endpoint_pk: int,
        *,
        status: DeliveryStatus | None,
        event: str | None,
        event_id: str | None,
        since: float | None,
        until: float | None,
        limit: int,
        cursor: str | None,
    ) -> RowPage[DeliveryRow]:
        """Return a page of a webhook's deliveries, newest first; made from `since` on and before `until`."""
        return await self._transactions.read(
            deliveries.page,
            endpoint_pk,
            status=status,
            event=event,
            event_id=event_id,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
        )

    async def of_event(
        self, event_pk: int, organization_id: str | None, *, limit: int, cursor: str | None
    ) -> RowPage[DeliveryRow]:
        """Return a page of where an event went, oldest first; to webhooks of one organization where one is given."""
        return await self._transactions.read(deliveries.of_event, event_pk, organization_id, limit=limit, cursor=cursor)

    async def queue(self, endpoint_pk: int, limit: int) -> list[DeliveryRow]:
        """Return what a webhook has still to get, in the order of sequences; parked deliveries come last."""
        return await self._transactions.read(deliveries.line, endpoint_pk, limit)

    async def find(self, delivery_id: str, organization_id: str | None) -> DeliveryRow:
        """Return a delivery; Rejected NOT_FOUND where there is none, or for another organization than the one given."""
        return await self._transactions.read(deliveries.find, delivery_id, organization_id)

    async def get(
        self,
        delivery_id: str,
        organization_id: str | None,
        *,
        before: int | None = None,
        limit: int = deliveries.MOST_ATTEMPTS,
    ) -> DeliveryDetail:
        """Return a delivery with its webhook, its message and its last attempts; Rejected NOT_FOUND as by `find`.

        At most `limit` attempts, oldest first, of those whose number is below `before` where that is given.
        """
        return await self._transactions.read(deliveries.get, delivery_id, organization_id, before=before, limit=limit)

    async def backlog(self) -> list[int]:
        """Return the row numbers of the webhooks that have something to be sent, deleted ones included."""
        return await self._transactions.read(deliveries.backlog)

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
        """Queue a delivery again with its sequence; its age and refusals start again.

        One that is parked or pending is due now, and with it the head of its queue. Rejected CONFLICT for one that has
        succeeded, unless `force` is given, and NOT_FOUND for one that retention has removed.
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
        self, pks: Sequence[int], now: float, tell: Callable[[list[DeliveryRow]], Sequence[Publish]]
    ) -> list[DeliveryRow]:
        """Record deliveries whose age has passed as failed; return those that had not ended otherwise."""
        return await self._transactions.submit(
            lambda database: deliveries.expire(database, pks, now), insists=True, tell=tell
        ).wait()

    async def cancel(self, endpoint_pk: int, now: float, limit: int) -> int:
        """Cancel what a deleted webhook has queued, at most `limit` deliveries; return how many there were."""
        return await self._transactions.write(deliveries.cancel, endpoint_pk, now, limit)

    def add_test(
        self, event: AcceptedEvent, record: AttemptRecord, endpoint: Endpoint, entry: AuditEntry | None
    ) -> Ticket[DeliveryDetail]:
        """Store a test that has been made; its sequence is 0, since it has no place in the queue."""
        insert = audit.recorded(test_deliveries.insert, entry, lambda _: endpoints.about(endpoint))
        return self._transactions.submit(lambda database: insert(database, event, record), insists=True)


class Replays:
    """Recovers and replays: what they match, and one bounded step of them at a time."""

    def __init__(self, transactions: Transactions) -> None:
        self._transactions = transactions

    async def match(self, wanted: Selection) -> ReplayMatch:
        """Return what a recover or replay matches now; it looks at the whole time range."""
        return await self._transactions.read(replays.match, wanted)

    async def get(self, endpoint_pk: int, replay_id: str) -> ReplayRow:
        """Return a recover or replay of a webhook; Rejected NOT_FOUND."""
        return await self._transactions.read(replays.get, endpoint_pk, replay_id)

    async def of_endpoint(self, endpoint_pk: int, limit: int) -> list[ReplayRow]:
        """Return the latest of a webhook, the newest first."""
        return await self._transactions.read(replays.of_endpoint, endpoint_pk, limit)

    async def running(self) -> dict[str | None, list[ReplayRow]]:
        """Return those that have something left to do by their webhooks' organization, each time the oldest first."""
        return await self._transactions.read(replays.running)

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
        """Store a recover or replay of what it matches."""
        start = audit.recorded(replays.start, entry, lambda _: endpoints.about(endpoint))
        return await self._transactions.write(start, wanted, matched, replay_id, now)

    async def stop(self, endpoint: Endpoint, replay_id: str, entry: AuditEntry | None) -> ReplayRow:
        """Stop one that is running; what it queued stays. Rejected NOT_FOUND."""
        stop = audit.recorded(replays.stop, entry, lambda _: endpoints.about(endpoint))
        return await self._transactions.write(stop, endpoint.pk, replay_id)

    async def stop_all(self, endpoint_pk: int) -> None:
        """Stop all of a webhook."""
        await self._transactions.write(replays.stop_all, endpoint_pk)

    async def step(self, replay_id: str, wanted: Selection, queued_as: QueuedAs, ids: IdFactory) -> ReplayRow:
        """Queue the next deliveries, at most 250, and return the progress; Rejected NOT_FOUND for one that is gone."""
        return await self._transactions.write(replays.step, replay_id, wanted, queued_as, ids)

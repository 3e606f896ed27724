"""The deliveries of the store in memory."""

from collections.abc import Callable, Collection, Sequence
from typing import Any

from tests.memory_tables import Stored, Tables
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import AttemptRecord, DeliveryError, DeliveryStatus, Ordering, QueuedDelivery, Trigger
from webhookd.journal import DeliveryDetail, DeliveryRow, Publish, RowPage
from webhookd.journal.history import Deliveries
from webhookd.journal.queries.expiry import A_READ
from webhookd.journal.rows import AttemptRow, Expired


class MemoryDeliveries(Deliveries):
    """The deliveries, by their row numbers."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables

    async def page(
        self, endpoint_pk: int, *, status: DeliveryStatus | None, limit: int, **filters: Any
    ) -> RowPage[DeliveryRow]:
        assert all(value is None for value in filters.values()), "filters are tested on disk"
        own = self._tables.of(endpoint_pk, *([] if status is None else [status]))
        newest = sorted(own, key=lambda each: (-each.queued.created_at, -each.queued.pk))
        return RowPage(items=[self._row(each) for each in newest[:limit]], next_cursor=None)

    async def queue(self, endpoint_pk: int, limit: int) -> list[DeliveryRow]:
        pending = self._tables.of(endpoint_pk, DeliveryStatus.PENDING)
        parked = self._tables.of(endpoint_pk, DeliveryStatus.PARKED)
        parked.sort(key=lambda each: each.queued.next_attempt_at)
        return [self._row(each) for each in (*pending, *parked)][:limit]

    async def find(self, delivery_id: str, organization_id: str | None) -> DeliveryRow:
        for each in self._tables.deliveries.values():
            owner = self._tables.webhooks[each.queued.endpoint_pk].endpoint.organization_id
            if each.queued.id == delivery_id and organization_id in {None, owner}:
                return self._row(each)
        raise Rejected(ErrorCode.NOT_FOUND, f"there is no delivery {delivery_id}")

    async def get(
        self, delivery_id: str, organization_id: str | None, *, before: int | None = None, limit: int = 100
    ) -> DeliveryDetail:
        row = await self.find(delivery_id, organization_id)
        webhook = self._tables.webhooks[row.endpoint_pk]
        made = [_attempt(each) for each in self._tables.attempts if each.delivery.pk == row.pk]
        return DeliveryDetail(
            row=row,
            endpoint=webhook.endpoint,
            endpoint_is_deleted=webhook.state is None,
            message=self._tables.events[row.event_pk].message,
            attempts=[each for each in made if before is None or each.number < before][-limit:],
        )

    async def backlog(self) -> list[int]:
        return sorted({each.queued.endpoint_pk for each in self._tables.deliveries.values() if each.is_unfinished})

    async def retry(
        self,
        delivery_pk: int,
        *,
        force: bool,
        now: float,
        max_age_seconds: float,
        ordering: Ordering,
        entry: object,
        organization_id: str | None,
    ) -> DeliveryRow:
        def again() -> DeliveryRow:
            stored = self._tables.deliveries[delivery_pk]
            before = stored.queued
            if before.status is DeliveryStatus.SUCCEEDED and not force:
                raise Rejected(ErrorCode.CONFLICT, "the delivery has succeeded")
            stored.change(
                status=before.status if before.status is DeliveryStatus.PARKED else DeliveryStatus.PENDING,
                trigger=Trigger.MANUAL,
                refusals=0,
                backoff_step=0,
                next_attempt_at=now,
                expires_at=now + max_age_seconds,
            )
            stored.completed_at = stored.error = None
            self._tables.webhooks[before.endpoint_pk].edition += 1
            if before.status is DeliveryStatus.PENDING:
                self._end_back_off(before, ordering, now)
            return self._row(stored)

        return await self._tables.change(again).wait()

    def _end_back_off(self, queued: QueuedDelivery, ordering: Ordering, now: float) -> None:
        pending = self._tables.of(queued.endpoint_pk, DeliveryStatus.PENDING)
        if ordering is Ordering.KEY and queued.ordering_key is not None:
            pending = [each for each in pending if each.queued.ordering_key == queued.ordering_key]
        elif ordering is not Ordering.STRICT:
            return
        if pending and pending[0].queued.next_attempt_at > now:
            pending[0].change(next_attempt_at=now)

    async def expire(
        self,
        pks: Sequence[int],
        now: float,
        *,
        driving: Collection[int],
        notices_of: Callable[[list[DeliveryRow]], Sequence[Publish]],
    ) -> list[DeliveryRow]:
        def give_up() -> list[DeliveryRow]:
            found = [self._tables.deliveries[pk] for pk in pks]
            expired = [each for each in found if each.is_unfinished and each.queued.expires_at <= now]
            for each in expired:
                each.change(status=DeliveryStatus.FAILED, next_attempt_at=None)
                each.error, each.completed_at = DeliveryError.EXPIRED, now
            return [self._row(each) for each in expired]

        return await self._tables.change(give_up, notices_of=notices_of).wait()

    async def expired(
        self, now: float, *, after: QueuedDelivery | None = None, floor: float = 0.0, limit: int = A_READ
    ) -> Expired:
        queued = [each.queued for each in self._tables.deliveries.values() if each.is_unfinished]
        waiting = [each for each in queued if each.expires_at >= floor]
        found = sorted((each for each in waiting if each.expires_at <= now), key=_place)
        rest = [each for each in found if after is None or _place(each) > _place(after)]
        next_expiry_at = min((each.expires_at for each in waiting if each.expires_at > now), default=None)
        return Expired(deliveries=rest[:limit], complete=len(rest) < limit, next_expiry_at=next_expiry_at)

    async def cancel(self, endpoint_pk: int, now: float, limit: int) -> int:
        def drop() -> int:
            found = self._tables.of(endpoint_pk, DeliveryStatus.PENDING, DeliveryStatus.PARKED)[:limit]
            for each in found:
                each.change(status=DeliveryStatus.CANCELED, next_attempt_at=None)
                each.completed_at = now
            self._tables.webhooks[endpoint_pk].edition += bool(found)
            return len(found)

        return await self._tables.change(drop).wait()

    def _row(self, stored: Stored) -> DeliveryRow:
        shared = {name: getattr(stored.queued, name) for name in _SHARED}
        return DeliveryRow(
            **shared,
            endpoint_id=self._tables.webhooks[stored.queued.endpoint_pk].endpoint.id,
            event_id=self._tables.events[stored.queued.event_pk].id,
            event_type=stored.event_type,
            response_status=stored.response_status,
            error=stored.error,
            completed_at=stored.completed_at,
            duration_seconds=stored.duration_seconds,
        )


def _place(queued: QueuedDelivery) -> tuple[float, int]:
    return queued.expires_at, queued.pk


_SHARED = set(DeliveryRow.__struct_fields__) & set(QueuedDelivery.__struct_fields__)


def _attempt(record: AttemptRecord) -> AttemptRow:
    outcome = record.outcome
    return AttemptRow(
        id=record.attempt_id,
        number=record.number,
        trigger=record.trigger,
        started_at=record.started_at,
        duration_seconds=outcome.duration_seconds,
        remote_address=outcome.remote_address,
        response_status=outcome.status,
        response_headers=outcome.headers,
        response_body=outcome.body,
        truncated=outcome.truncated,
        error=record.error,
        detail=outcome.detail,
        retry_after_seconds=record.retry_after_seconds,
    )

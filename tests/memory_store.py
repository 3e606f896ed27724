"""A store in memory, for tests that need no disk, and the second one that the conformance suite holds to its rules.

It is read as of the last commit. It has no replays, statistics, keys, audit log or backups: what asks for those is
tested on disk.
"""

from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio
from msgspec import UNSET

from tests.memory_tables import Stored, Tables, Webhook, window_of
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_types import STARTING_EVENT_TYPES
from webhookd.base.ids import IdFactory
from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    Credentials,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    Endpoint,
    EndpointState,
    Message,
    Ordering,
    PublishResult,
    QueuedDelivery,
    Target,
    Trigger,
)
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.forgiveness import forgive
from webhookd.journal import (
    DeliveriesQueued,
    DeliveryDetail,
    DeliveryRow,
    EndpointChanges,
    EventTypeRow,
    NewEndpoint,
    Publish,
    QueueFacts,
    ReplayRow,
    RowPage,
    Store,
    Ticket,
    WebhookChanged,
    WebhookDeleted,
    Window,
    WindowRequest,
)
from webhookd.journal.administration import EventTypes
from webhookd.journal.history import Deliveries, Replays
from webhookd.journal.operations import Record
from webhookd.journal.queries.clock_steps import Loaded
from webhookd.journal.rows import AttemptRow
from webhookd.journal.webhooks import Webhooks


@asynccontextmanager
async def open_memory_store(ids: IdFactory) -> AsyncIterator["MemoryStore"]:
    """Make an empty store, as `open_store` opens one on disk."""
    yield MemoryStore(ids)


class MemoryStore(Store):
    """The store, without a disk under it."""

    def __init__(self, ids: IdFactory) -> None:
        self.path = Path("/dev/null")
        self.tables = Tables(ids)
        self.feed = self.tables.feed
        self.webhooks = MemoryWebhooks(self.tables)
        self.deliveries = MemoryDeliveries(self.tables)
        self.event_types = MemoryEventTypes()
        self.replays = NoReplays()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        task_status.started()
        await self.tables.run()

    async def room(self, flow: Hashable = None) -> None:
        await trio.lowlevel.checkpoint()

    def has_room(self, flow: Hashable) -> bool:
        return True

    def publish(
        self, event: AcceptedEvent, targets: tuple[Target, ...], *, flow: Hashable = None, may_repeat: bool = True
    ) -> Ticket[PublishResult]:
        operation = Publish(event, targets, self._tell, flow=flow, insists=False, may_repeat=may_repeat)
        self.tables.submit(operation)
        return operation.ticket

    def notice(self, event: AcceptedEvent, targets: tuple[Target, ...]) -> Publish:
        return Publish(event, targets, self._tell, flow=None, insists=True, may_repeat=False)

    def record(self, record: AttemptRecord, notices: Sequence[Publish] = ()) -> Ticket[None]:
        operation = Record(record, notices)
        self.tables.submit(operation)
        return operation.ticket

    async def window(self, request: WindowRequest) -> Window:
        await trio.lowlevel.checkpoint()
        return window_of(self.tables, request)

    async def message(self, event_pk: int, upcoming: Callable[[], Iterable[int]] = tuple) -> Message:
        await trio.lowlevel.checkpoint()
        return _message(self.tables.events[event_pk])

    def _tell(self, queued: Sequence[QueuedDelivery]) -> None:
        self.feed.announce(DeliveriesQueued(queued))


class MemoryWebhooks(Webhooks):
    """The webhooks, by their row numbers."""

    def __init__(self, tables: Tables) -> None:
        self._tables = tables
        self._feed = tables.feed

    async def all(self) -> list[Endpoint]:
        return [each.endpoint for each in self._tables.webhooks.values() if each.state is not None]

    async def page(self, organization_id: str | None, *, limit: int, cursor: str | None) -> RowPage[Endpoint]:
        found = [each for each in await self.all() if organization_id in {None, each.organization_id}]
        newest = sorted(found, key=lambda each: -each.pk)
        left = [each for each in newest if cursor is None or each.pk < int(cursor)]
        return RowPage(items=left[:limit], next_cursor=str(left[limit - 1].pk) if len(left) > limit else None)

    async def get(self, endpoint_id: str, organization_id: str | None = None) -> Endpoint:
        endpoint = self._tables.alive(endpoint_id).endpoint
        if organization_id not in {None, endpoint.organization_id}:
            raise Rejected(ErrorCode.NOT_FOUND, f"there is no webhook {endpoint_id}")
        return endpoint

    async def by_pk(self, endpoint_pk: int) -> tuple[Endpoint, bool]:
        webhook = self._tables.webhooks[endpoint_pk]
        return webhook.endpoint, webhook.state is None

    async def credentials(self, vault: Vault, endpoint_pk: int, now: float) -> Credentials | None:
        webhook = self._tables.webhooks[endpoint_pk]
        if webhook.state is None:
            return None
        expires_at = webhook.credentials.previous_expires_at
        if expires_at is not None and now >= expires_at:
            return msgspec.structs.replace(webhook.credentials, previous_secret=None, previous_expires_at=None)
        return webhook.credentials

    async def state(self, endpoint_pk: int) -> EndpointState:
        return self._tables.webhooks[endpoint_pk].state or EndpointState()

    async def load(
        self, vault: Vault, endpoint_pk: int, bounds: object, clock: Callable[[], float]
    ) -> tuple[Loaded | None, bool]:
        await trio.lowlevel.checkpoint()
        webhook = self._tables.webhooks[endpoint_pk]
        credentials = await self.credentials(vault, endpoint_pk, clock())
        if webhook.state is None or credentials is None:
            return None, False
        return (webhook.endpoint, credentials, webhook.state), False

    async def health_facts(self, orderings: Mapping[int, Ordering]) -> dict[int, tuple[EndpointState, QueueFacts]]:
        return {pk: (await self.state(pk), self._facts(pk, ordering)) for pk, ordering in orderings.items()}

    def _facts(self, endpoint_pk: int, ordering: Ordering) -> QueueFacts:
        pending = [each.queued for each in self._tables.of(endpoint_pk, DeliveryStatus.PENDING)]
        parked = [each.queued for each in self._tables.of(endpoint_pk, DeliveryStatus.PARKED)]
        heads = pending[:1] if ordering is Ordering.STRICT else pending
        return QueueFacts(
            queued=len(pending),
            parked=len(parked),
            oldest_pending_at=pending[0].created_at if pending else None,
            next_attempt_at=min((each.next_attempt_at for each in (*heads, *parked)), default=None),
        )

    async def create(self, vault: Vault, new: NewEndpoint, *, most: int, entry: object) -> Endpoint:
        def insert() -> Endpoint:
            own = [each for each in self._tables.webhooks.values() if each.state is not None]
            same = [each for each in own if each.endpoint.organization_id == new.organization_id]
            if new.organization_id is not None and len(same) >= most:
                raise Rejected(ErrorCode.QUOTA_EXCEEDED, f"the organization has {len(same)} webhooks")
            pk = len(self._tables.webhooks) + 1
            self._tables.webhooks[pk] = Webhook(endpoint=_endpoint(pk, new), credentials=_credentials(new))
            return self._tables.webhooks[pk].endpoint

        return await self._tables.change(insert, self._changed_settings).wait()

    async def update(
        self,
        vault: Vault,
        endpoint_id: str,
        changes: EndpointChanges,
        now: float,
        *,
        entry: object,
        condition: Callable[[Endpoint], None] | None,
    ) -> Endpoint:
        def change() -> WebhookChanged:
            webhook = self._tables.alive(endpoint_id)
            if condition is not None:
                condition(webhook.endpoint)
            after = _updated(webhook.endpoint, changes, now)
            has_new_secrets = False
            if changes.headers is not UNSET:
                has_new_secrets = changes.headers != webhook.credentials.headers
                webhook.credentials = msgspec.structs.replace(webhook.credentials, headers=changes.headers)
            return self._renewed(webhook, after, now, has_new_secrets=has_new_secrets)

        return (await self._tables.change(change, self._feed.announce).wait()).endpoint

    async def rotate(
        self,
        vault: Vault,
        endpoint_id: str,
        now: float,
        *,
        secret: Any,
        secret_hint: str,
        overlap_seconds: float,
        **_: Any,
    ) -> Endpoint:
        def change() -> WebhookChanged:
            webhook = self._tables.alive(endpoint_id)
            expires_at = round(now + overlap_seconds, 3) if overlap_seconds > 0 else None
            webhook.credentials = msgspec.structs.replace(
                webhook.credentials,
                secret=secret,
                previous_secret=None if expires_at is None else webhook.credentials.secret,
                previous_expires_at=expires_at,
            )
            after = msgspec.structs.replace(
                webhook.endpoint,
                secret_hint=secret_hint,
                previous_secret_expires_at=expires_at,
                updated_at=_version(webhook.endpoint, now),
            )
            return self._renewed(webhook, after, now, has_new_secrets=True)

        return (await self._tables.change(change, self._feed.announce).wait()).endpoint

    def _renewed(self, webhook: Webhook, after: Endpoint, now: float, *, has_new_secrets: bool) -> WebhookChanged:
        before, webhook.endpoint = webhook.endpoint, after
        assert webhook.state is not None
        forgiveness = forgive(before, after, webhook.state, now, has_new_secrets=has_new_secrets)
        if forgiveness is not None:
            webhook.state = forgiveness.state
            for each in self._tables.of(after.pk, DeliveryStatus.PENDING, DeliveryStatus.PARKED):
                if each.queued.next_attempt_at > forgiveness.due_at:
                    each.change(next_attempt_at=forgiveness.due_at, backoff_step=0)
        return WebhookChanged(after, forgiveness)

    async def delete(
        self, endpoint_id: str, now: float, *, entry: object, condition: Callable[[Endpoint], None] | None
    ) -> Endpoint:
        def remove() -> Endpoint:
            webhook = self._tables.alive(endpoint_id)
            if condition is not None:
                condition(webhook.endpoint)
            webhook.state = None
            return webhook.endpoint

        return await self._tables.change(remove, lambda endpoint: self._feed.announce(WebhookDeleted(endpoint))).wait()

    def disable(
        self, endpoint_pk: int, reason: DisabledReason, now: float, notices_of: Callable[[Endpoint], Sequence[Publish]]
    ) -> Ticket[Endpoint]:
        def switch_off() -> Endpoint:
            webhook = self._tables.webhooks[endpoint_pk]
            if webhook.state is not None and webhook.endpoint.is_active:
                webhook.endpoint = msgspec.structs.replace(
                    webhook.endpoint,
                    is_active=False,
                    disabled_reason=reason,
                    disabled_at=now,
                    updated_at=_version(webhook.endpoint, now),
                )
            return webhook.endpoint

        return self._tables.change(switch_off, self._changed_settings, notices_of=notices_of)

    def move_times(self, seconds: float, committed: Callable[[None], None]) -> Ticket[None]:
        return self._tables.change(lambda: self._tables.move(seconds), committed)


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
            message=_message(self._tables.events[row.event_pk]),
            attempts=[each for each in made if before is None or each.number < before][-limit:],
        )

    async def backlog(self) -> list[int]:
        return sorted({each.queued.endpoint_pk for each in self._tables.deliveries.values() if each.is_to_be_sent})

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
        self, pks: Sequence[int], now: float, notices_of: Callable[[list[DeliveryRow]], Sequence[Publish]]
    ) -> list[DeliveryRow]:
        def give_up() -> list[DeliveryRow]:
            found = [self._tables.deliveries[pk] for pk in pks]
            expired = [each for each in found if each.is_to_be_sent and each.queued.expires_at <= now]
            for each in expired:
                each.change(status=DeliveryStatus.FAILED, next_attempt_at=None)
                each.error, each.completed_at = DeliveryError.EXPIRED, now
            return [self._row(each) for each in expired]

        return await self._tables.change(give_up, notices_of=notices_of).wait()

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


_SHARED = set(DeliveryRow.__struct_fields__) & set(QueuedDelivery.__struct_fields__)


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


def _message(event: AcceptedEvent) -> Message:
    return Message(
        event_id=event.id,
        type=event.type,
        organization_id=event.organization_id,
        traceparent=event.traceparent,
        body=event.body,
    )


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


def _endpoint(pk: int, new: NewEndpoint) -> Endpoint:
    shared = {name: getattr(new, name) for name in set(Endpoint.__struct_fields__) & set(NewEndpoint.__struct_fields__)}
    return Endpoint(
        **shared,
        pk=pk,
        disabled_reason=None if new.is_active else DisabledReason.MANUAL,
        disabled_at=None if new.is_active else new.created_at,
        header_names=tuple(name for name, _ in new.headers),
        previous_secret_expires_at=None,
        updated_at=new.created_at,
    )


def _credentials(new: NewEndpoint) -> Credentials:
    return Credentials(
        secret=new.secret,
        previous_secret=None,
        previous_expires_at=None,
        ed25519_secret=new.ed25519_secret,
        headers=new.headers,
    )


def _updated(before: Endpoint, changes: EndpointChanges, now: float) -> Endpoint:
    given = {name: getattr(changes, name) for name in EndpointChanges.__struct_fields__}
    values = {name: value for name, value in given.items() if value is not UNSET and hasattr(before, name)}
    if changes.is_active is True:
        values |= {"disabled_reason": None, "disabled_at": None}
    elif changes.is_active is False and before.is_active:
        values |= {"disabled_reason": DisabledReason.MANUAL, "disabled_at": now}
    if changes.headers is not UNSET:
        values["header_names"] = tuple(name for name, _ in changes.headers)
    return msgspec.structs.replace(before, **values, updated_at=_version(before, now))


def _version(before: Endpoint, now: float) -> float:
    return max(now, round(before.updated_at + 0.001, 3))

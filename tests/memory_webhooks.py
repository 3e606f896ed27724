"""The webhooks of the store in memory."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import trio
from msgspec import UNSET

from tests.memory_tables import Tables, Webhook
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Credentials, DeliveryStatus, DisabledReason, Endpoint, EndpointState, Ordering
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.forgiveness import forgive
from webhookd.journal import (
    EndpointChanges,
    NewEndpoint,
    Publish,
    QueueFacts,
    RowPage,
    Ticket,
    WebhookChanged,
    WebhookDeleted,
)
from webhookd.journal.queries.clock_steps import Loaded
from webhookd.journal.webhooks import Webhooks


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

        return await self._tables.change(insert, self._announce).wait()

    def _announce(self, changed: Endpoint) -> None:
        self._feed.announce(WebhookChanged(changed))

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
            webhook.edition += 1
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
        self,
        endpoint_pk: int,
        reason: DisabledReason,
        now: float,
        *,
        forgiven: int,
        notices_of: Callable[[Endpoint], Sequence[Publish]],
    ) -> Ticket[Endpoint]:
        def switch_off() -> Endpoint:
            webhook = self._tables.webhooks[endpoint_pk]
            if webhook.state is not None and webhook.state.forgiven == forgiven and webhook.endpoint.is_active:
                webhook.endpoint = msgspec.structs.replace(
                    webhook.endpoint,
                    is_active=False,
                    disabled_reason=reason,
                    disabled_at=now,
                    updated_at=_version(webhook.endpoint, now),
                )
            return webhook.endpoint

        return self._tables.change(switch_off, self._announce, notices_of=notices_of)

    def move_times(self, seconds: float, committed: Callable[[None], None]) -> Ticket[None]:
        return self._tables.change(lambda: self._tables.move(seconds), committed)


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

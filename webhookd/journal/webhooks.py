"""The store's methods for webhooks: their settings, secrets and delivery state."""

from collections.abc import Callable, Sequence

from peewee import Database

from webhookd.base.models import DisabledReason, Endpoint
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault
from webhookd.delivery.policy.clock_correction import Bounds
from webhookd.delivery.policy.forgiveness import forgive
from webhookd.journal.audit_entries import AuditEntry
from webhookd.journal.feed import WebhookChanged, WebhookDeleted
from webhookd.journal.known_settings import WEBHOOK, chosen
from webhookd.journal.operations import Publish, Ticket
from webhookd.journal.queries import audit, clock_steps, directory, endpoints, quotas
from webhookd.journal.rows import EndpointChanges, EndpointCondition, NewEndpoint
from webhookd.journal.transactions import StorePart, finished, reads


class Webhooks(StorePart):
    """The webhooks; a deleted one is found only by its row number.

    A change raises Rejected NOT_FOUND, or what its `condition` raises, which gets the webhook before the change in the
    same transaction.
    """

    all = reads(endpoints.all)
    page = reads(endpoints.page)
    search = reads(directory.find)
    situation = reads(directory.situation)
    get = reads(endpoints.get)
    by_pk = reads(endpoints.by_pk)
    credentials = reads(endpoints.credentials)
    state = reads(endpoints.state)
    load = reads(clock_steps.load)
    health_facts = reads(endpoints.health_facts)

    async def bring_in(self, endpoint_pk: int, bounds: Bounds, clock: Callable[[], float]) -> None:
        """Correct the times of a webhook and of its queue that are further ahead than `bounds` allow."""
        await self._transactions.submit(
            lambda database: clock_steps.bring_in(database, endpoint_pk, bounds, clock),
            insists=True,
            driving=[endpoint_pk],
        ).wait()

    async def create(self, vault: Vault, new: NewEndpoint, *, most: int, entry: AuditEntry | None) -> Endpoint:
        """Register a webhook; raises Rejected QUOTA_EXCEEDED if its organization has `most` of them."""
        insert = audit.recorded(quotas.insert_endpoint, entry, endpoints.about)
        return await self._transactions.submit(
            lambda database: insert(database, vault, new, most=most),
            announces=WebhookChanged,
            stores=chosen(WEBHOOK, new),
        ).wait()

    async def update(
        self,
        vault: Vault,
        endpoint_id: str,
        changes: EndpointChanges,
        now: float,
        *,
        entry: AuditEntry | None,
        condition: EndpointCondition | None,
    ) -> Endpoint:
        """Change the given settings, and reset the delivery state as `forgive` decides."""

        def change(database: Database) -> WebhookChanged:
            before = endpoints.changing(database, endpoint_id)
            self._transactions.check_known(database, chosen(WEBHOOK, changes, before))
            headers = _headers(database, vault, before, now)
            after = endpoints.update(database, vault, endpoint_id, changes, now, condition=condition)
            has_new_secrets = headers != _headers(database, vault, after, now)
            return _forgiven(database, before, after, now, has_new_secrets=has_new_secrets)

        return await self._change(change, entry)

    async def rotate(
        self,
        vault: Vault,
        endpoint_id: str,
        now: float,
        *,
        secret: Secret[str],
        secret_hint: str,
        overlap_seconds: float,
        entry: AuditEntry | None,
        condition: EndpointCondition | None,
    ) -> Endpoint:
        """Make `secret` the current one; the previous one signs too during the overlap."""

        def change(database: Database) -> WebhookChanged:
            before = endpoints.changing(database, endpoint_id)
            after = endpoints.rotate(
                database, vault, endpoint_id, secret, secret_hint, overlap_seconds, now, condition=condition
            )
            return _forgiven(database, before, after, now, has_new_secrets=True)

        return await self._change(change, entry)

    async def delete(
        self,
        endpoint_id: str,
        now: float,
        *,
        entry: AuditEntry | None,
        condition: EndpointCondition | None,
    ) -> Endpoint:
        """Delete a webhook and its secrets, but not its queue (see `Deliveries.cancel`)."""
        delete = audit.recorded(endpoints.delete, entry, endpoints.about)
        return await self._transactions.submit(
            lambda database: delete(database, endpoint_id, now, condition=condition),
            announces=WebhookDeleted,
        ).wait()

    def disable(
        self,
        endpoint_pk: int,
        reason: DisabledReason,
        now: float,
        *,
        forgiven: int,
        notices_of: Callable[[Endpoint], Sequence[Publish]],
    ) -> Ticket[Endpoint]:
        """Disable a webhook because of its responses; one that is disabled or deleted already is not changed.

        Nor is one that was changed by hand since: `forgiven` is the number of such changes that are known.
        """
        return self._transactions.submit(
            lambda database: endpoints.disable(database, endpoint_pk, reason, now, forgiven=forgiven),
            announces=WebhookChanged,
            insists=True,
            notices_of=notices_of,
            driving=[endpoint_pk],
        )

    def move_times(self, seconds: float, committed: Callable[[None], None]) -> Ticket[None]:
        """Move every scheduled time by that many seconds, after the clock was set.

        The times of operations submitted before are moved, those of later ones are not.
        """
        return self._transactions.submit(
            lambda database: clock_steps.move(database, seconds), committed, insists=True, is_barrier=True
        )

    async def _change(self, change: Callable[[Database], WebhookChanged], entry: AuditEntry | None) -> Endpoint:
        recorded = audit.recorded(change, entry, lambda changed: endpoints.about(changed.endpoint))
        changed = await finished(self._transactions.submit(recorded, announces=lambda changed: changed))
        return changed.endpoint


def _headers(database: Database, vault: Vault, endpoint: Endpoint, now: float) -> list[tuple[str, str]]:
    credentials = endpoints.credentials(database, vault, endpoint.pk, now)
    assert credentials is not None  # noqa: S101 - it isn't deleted in this transaction
    return [(name, value.reveal()) for name, value in credentials.headers]


def _forgiven(
    database: Database, before: Endpoint, after: Endpoint, now: float, *, has_new_secrets: bool
) -> WebhookChanged:
    state = endpoints.changing_state(database, after.pk)
    forgiveness = forgive(before, after, state, now, has_new_secrets=has_new_secrets)
    if forgiveness is not None:
        endpoints.set_state(database, after.pk, forgiveness.state)
        endpoints.end_backoffs(database, after.pk, forgiveness.due_at)
    return WebhookChanged(after, forgiveness)

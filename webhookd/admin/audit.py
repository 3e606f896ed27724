"""The audit log, for admins; a caller bound to an organization sees only its entries."""

from typing import Annotated

from msgspec import Meta

from webhookd.admin.auth import Permission
from webhookd.admin.deliveries import query_time
from webhookd.admin.operations import Answer, Call, NoBody, operation
from webhookd.admin.schemas import ListQuery, Output, Page
from webhookd.admin.views import page, shown
from webhookd.base.fields import Time
from webhookd.base.models import Role
from webhookd.journal import Action, AuditActorKind, AuditRow


class ActorView(Output, frozen=True, kw_only=True):
    """Who made a change: `id` is an API key's id, a token's subject, or the uid of a user of this machine."""

    kind: AuditActorKind
    id: str
    role: Role | None


class AuditView(Output, frozen=True, kw_only=True):
    """An entry of the audit log; `fields` names the given fields, `hash` chains the entry to the previous one."""

    sequence: int
    at: str
    actor: ActorView
    action: Action
    object: str
    organization_id: str | None
    request_id: str | None
    fields: tuple[str, ...]
    hash: str


class AuditQuery(ListQuery, frozen=True, kw_only=True):
    """Filters of the audit log; `since` is inclusive, `until` is exclusive."""

    actor: Annotated[str, Meta(max_length=255)] | None = None
    action: Action | None = None
    object: Annotated[str, Meta(max_length=255)] | None = None
    since: Time | None = None
    until: Time | None = None


async def list_audit(call: Call[AuditQuery, NoBody]) -> Answer[Page[AuditView]]:
    """List the audit log, newest first."""
    query = call.query
    found = await call.services.store.audit.page(
        call.caller.organization_id,
        actor=query.actor,
        action=query.action,
        what=query.object,
        since=query_time("since", query.since),
        until=query_time("until", query.until),
        limit=query.rows,
        cursor=query.cursor,
    )
    return Answer(value=page(found, _view))


def _view(row: AuditRow) -> AuditView:
    actor = ActorView(kind=row.actor_kind, id=row.actor, role=row.role)
    return shown(AuditView, row, actor=actor, hash=row.hash.hex())


OPERATIONS = (operation(list_audit, "GET /api/audit", Permission.ADMINISTER),)

"""API keys: list, create, revoke. A change is in force for the next request.

A key that is bound to an organization sees and changes only the keys of that organization.
"""

from http import HTTPStatus

from msgspec.structs import asdict

from webhookd.admin.auth import Permission, new_key
from webhookd.admin.deliveries import parse_time
from webhookd.admin.operations import Answer, Call, NoBody, given, operation
from webhookd.admin.schemas import Deleted, KeyView, KeyWithText, ListQuery, NewKey, NoQuery, Page
from webhookd.admin.views import key, page
from webhookd.base.errors import ErrorCode
from webhookd.base.event_format import invalid
from webhookd.journal import Action


async def list_keys(call: Call[ListQuery, NoBody]) -> Answer[Page[KeyView]]:
    """List API keys, newest first."""
    found = await call.services.store.keys.page(
        call.caller.organization_id, limit=call.query.rows, cursor=call.query.cursor
    )
    in_use = call.services.keys
    return Answer(value=page(found, lambda row: key(row, in_use.last_used_at(row.id) or row.last_used_at)))


async def create_key(call: Call[NoQuery, NewKey]) -> Answer[KeyWithText]:
    """Create an API key; only this answer shows it."""
    services, wanted = call.services, call.body
    now = services.clock.now()
    organization_id = call.caller.stamp(wanted.organization_id)
    expires_at = None if wanted.expires_at is None else _future(wanted.expires_at, now)
    row, text = new_key(
        wanted.role, services.ids, now, name=wanted.name, organization_id=organization_id, expires_at=expires_at
    )
    most = services.config.organizations.max_keys
    await services.store.keys.create(row, most=most, entry=call.audit_entry(Action.KEY_CREATE, given(wanted)))
    view = KeyWithText(**asdict(key(row, None)), key=text.reveal())
    return Answer(value=view, status=HTTPStatus.CREATED, headers={"Location": f"/api/keys/{row.id}"})


async def revoke_key(call: Call[NoQuery, NoBody]) -> Answer[Deleted]:
    """Revoke an API key."""
    key_id = call.path["keyId"]
    await call.services.store.keys.revoke(key_id, call.caller.organization_id, call.audit_entry(Action.KEY_REVOKE))
    return Answer(value=Deleted(id=key_id))


def _future(text: str, now: float) -> float:
    at = parse_time("expiresAt", text)
    if at <= now:
        raise invalid((("/expiresAt", "takes a time in the future"),))
    return at


OPERATIONS = (
    operation(list_keys, "GET /api/keys", Permission.ADMINISTER),
    operation(
        create_key,
        "POST /api/keys",
        Permission.ADMINISTER,
        status=HTTPStatus.CREATED,
        refuses=(ErrorCode.QUOTA_EXCEEDED,),
    ),
    operation(revoke_key, "DELETE /api/keys/{keyId}", Permission.ADMINISTER),
)

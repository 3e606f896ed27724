"""The page of API keys: list, create, revoke. The text of a new key is shown once."""

from collections.abc import Mapping
from http import HTTPStatus

from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import convert
from webhookd.admin.keys import create_key, list_keys, revoke_key
from webhookd.admin.operations import NoBody
from webhookd.admin.schemas import CursorQuery, KeyWithText, ListQuery, NewKey, NoQuery
from webhookd.base.clock import iso
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Role
from webhookd.dashboard.formatting import capitalized
from webhookd.dashboard.pages import Visit, page, page_links

ROWS = 50
_DAY = 86_400
_ENDS = {"": "Never", "7": "In 7 days", "30": "In 30 days", "90": "In 90 days", "365": "In a year"}
_ROLES = {
    Role.VIEWER: "viewer: read everything except API keys and the audit log",
    Role.OPERATOR: "operator: also retry, recover, replay, test, and enable or disable webhooks",
    Role.INGEST: "ingest: publish events only",
    Role.ADMIN: "admin: everything",
}


async def create(visit: Visit) -> Response:
    """Create a key and show its text."""
    form = visit.form
    wanted = {
        "role": form.text("role"),
        "name": form.text("name"),
        "organizationId": form.text("organization") or None,
        "expiresAt": _expiry(visit, form.text("expires")),
    }
    try:
        body = convert(wanted, NewKey)
    except Rejected as refused:
        (where, _), *_ = refused.errors
        field = {"/organizationId": "organization", "/name": "name"}.get(where, "role")
        return await show_keys(visit, problems={field: _PROBLEMS[field]})
    try:
        created = (await create_key(visit.call(NoQuery(), body))).value
    except Rejected as refused:
        if refused.code not in {ErrorCode.FORBIDDEN, ErrorCode.QUOTA_EXCEEDED}:
            raise
        problem = f"{capitalized(refused.detail)}."
        if refused.code is ErrorCode.FORBIDDEN:
            return await show_keys(visit, problems={"organization": problem})
        return await show_keys(visit, problems={"": problem}, status=refused.code.status)
    return await show_keys(visit, created=created)


async def revoke(visit: Visit) -> Response:
    """Revoke a key."""
    key_id = visit.path["keyId"]
    await revoke_key(visit.call(NoQuery(), NoBody()))
    return await visit.go("/keys", f"The key {key_id} has been revoked.")


async def show_keys(
    visit: Visit,
    *,
    created: KeyWithText | None = None,
    problems: Mapping[str, str] | None = None,
    status: HTTPStatus = HTTPStatus.BAD_REQUEST,
) -> Response:
    """Show the list of keys, and the form for a new one."""
    page_query = visit.query(CursorQuery)
    query = ListQuery(limit=ROWS, cursor=page_query.cursor)
    found = (await list_keys(visit.call(query, NoBody()))).value
    actor = visit.caller.actor
    return await visit.render(
        "keys.html",
        {
            "keys": found.data,
            "own_id": None if actor is None else actor.id,
            "created": created,
            "problems": problems or {},
            "fields": {name: visit.form.get(name, "") for name in ("name", "role", "organization", "expires")},
            "roles": [(role.value, text) for role, text in _ROLES.items()],
            "ends": list(_ENDS.items()),
            **page_links("/keys", page_query, found.next_cursor),
        },
        status=status if problems else HTTPStatus.OK,
    )


def _expiry(visit: Visit, days: str) -> str | None:
    if days not in _ENDS:
        raise Rejected(ErrorCode.VALIDATION_ERROR, "choose an expiry from the list")
    return iso(visit.now + int(days) * _DAY) if days else None


_PROBLEMS = {
    "organization": "At most 64 of the characters A-Z a-z 0-9 _ . : -",
    "name": "At most 100 characters.",
    "role": "Choose a role.",
}

PAGES = (
    page("keys", "GET /keys", Permission.ADMINISTER, show_keys, label="API keys"),
    page("create_key", "POST /keys", Permission.ADMINISTER, create),
    page("revoke_key", "POST /keys/{keyId}/revoke", Permission.ADMINISTER, revoke),
)

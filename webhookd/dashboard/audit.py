"""The page of the audit log: its entries, and whether its hash chain is intact."""

from typing import Annotated

from msgspec import Meta, Struct
from msgspec.structs import replace
from quart import Response

from webhookd.admin.audit import AuditQuery, AuditView, list_audit
from webhookd.admin.auth import Permission
from webhookd.admin.operations import NoBody
from webhookd.admin.schemas import CursorQuery, Page
from webhookd.admin.views import iso_or_none
from webhookd.base.errors import ReadTimeoutError
from webhookd.dashboard.form_times import read_range
from webhookd.dashboard.pages import Visit, page, page_links
from webhookd.journal import Action

ROWS = 50
# So many entries are verified in some tens of milliseconds; more only on request.
VERIFIED_ALWAYS = 2000
_PLACES = {"wh_": "/webhooks/", "dlv_": "/deliveries/", "evt_": "/events/"}


class AuditSearch(CursorQuery, frozen=True, kw_only=True):
    """Filters of the entries; `check` verifies a chain of any length."""

    actor: Annotated[str, Meta(max_length=255)] | None = None
    action: Action | None = None
    object: Annotated[str, Meta(max_length=255)] | None = None
    since: Annotated[str, Meta(max_length=40)] | None = None
    until: Annotated[str, Meta(max_length=40)] | None = None
    check: bool = False


class ChainState(Struct, frozen=True, kw_only=True):
    """The state of the hash chain: intact, broken, too long to verify without a request, or too slow to verify."""

    tone: str
    word: str
    entries: int | None = None
    head: str | None = None
    broken: str | None = None


async def show_audit(visit: Visit) -> Response:
    """Show the entries, newest first."""
    filters = visit.query(AuditSearch)
    since, until, problems = read_range(filters.since, filters.until)
    found = Page[AuditView](data=[], next_cursor=None)
    if not problems:
        query = AuditQuery(
            limit=ROWS,
            cursor=filters.cursor,
            actor=filters.actor,
            action=filters.action,
            object=filters.object,
            since=iso_or_none(since),
            until=iso_or_none(until),
        )
        found = (await list_audit(visit.call(query, NoBody()))).value
    return await visit.render(
        "audit.html",
        {
            "filters": filters,
            "entries": found.data,
            "actions": [("", "any"), *((action.value, action.value) for action in Action)],
            "problems": problems,
            "chain": await _chain(visit, is_requested=filters.check),
            "place": _place,
            **page_links("/audit", replace(filters, check=False), found.next_cursor),
        },
    )


async def _chain(visit: Visit, *, is_requested: bool) -> ChainState | None:
    """Return the state of the chain, which covers the whole server: None for a caller bound to an organization."""
    if visit.caller.organization_id is not None:
        return None
    last = await visit.services.store.audit.last_sequence()
    if last > VERIFIED_ALWAYS and not is_requested:
        return ChainState(tone="idle", word="not verified", entries=last)
    try:
        chain = await visit.services.store.audit.verify()
    except ReadTimeoutError:
        return ChainState(tone="idle", word="too long to verify here", entries=last)
    if chain.broken is not None:
        return ChainState(tone="bad", word="broken", entries=chain.entries, broken=chain.broken)
    return ChainState(tone="good", word="intact", entries=chain.entries, head=chain.head.hex())


def _place(what: str) -> str | None:
    """Return the path of the page of an entry's object."""
    return next((path + what for prefix, path in _PLACES.items() if what.startswith(prefix)), None)


PAGES = (page("audit", "GET /audit", Permission.ADMINISTER, show_audit, label="Audit log"),)

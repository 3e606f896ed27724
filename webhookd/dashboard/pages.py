"""The definition of a page of the dashboard: its route, the permission it needs, and its view.

A view gets a `Visit`, with the caller, the request, and access to the operations of the API, which it should use for
all that it shows and changes. A change is a POST, which reaches its view only with the session's CSRF token.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import TypeVar
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Struct
from quart import Request, Response

from webhookd.admin.auth import Caller, Permission
from webhookd.admin.bodies import decode_query
from webhookd.admin.operations import Call, given
from webhookd.admin.schemas import CursorQuery
from webhookd.admin.services import Services
from webhookd.base.errors import Rejected
from webhookd.dashboard.cache import Cache
from webhookd.dashboard.forms import Form
from webhookd.dashboard.rendering import Templates
from webhookd.dashboard.sessions import BrowserSessions, Session
from webhookd.dashboard.streams import Streams

Q = TypeVar("Q", bound=Struct)
B = TypeVar("B", bound=Struct)

HTML = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One request for a page by a caller with its permission; `path` has the variable parts of its path."""

    services: Services
    session: Session
    request: Request
    request_id: str
    templates: Templates
    sessions: BrowserSessions
    streams: Streams
    cache: Cache
    navigation: "tuple[DashboardPage, ...]"
    path: Mapping[str, str]
    form: Form

    @property
    def caller(self) -> Caller:
        """The caller."""
        return self.session.caller

    @property
    def now(self) -> float:
        """The current time."""
        return self.services.clock.now()

    @property
    def wants_fragment(self) -> bool:
        """Whether htmx requests a part of the page that it already shows."""
        return "HX-Request" in self.request.headers

    @property
    def entries(self) -> "tuple[DashboardPage, ...]":
        """The pages in the navigation that the caller may see."""
        sees_nodes = self.services.store.is_shared and self.caller.organization_id is None
        return tuple(
            each for each in self.navigation if self.may(each.permission) and (sees_nodes or not each.of_nodes)
        )

    def may(self, permission: Permission) -> bool:
        """Whether the caller has this permission."""
        return self.caller.may(permission)

    def call(self, query: Q, body: B, **path: str) -> Call[Q, B]:
        """Return a call of an API operation, for its handler; `path` adds to the variable parts of the page's path.

        The handler checks no permission, so the page must ask for the same one as the operation.
        """
        return Call(
            services=self.services,
            caller=self.caller,
            request=self.request,
            request_id=self.request_id,
            path={**self.path, **path},
            query=query,
            body=body,
        )

    def query(self, kind: type[Q]) -> Q:
        """Return the query parameters without empty ones, as a form sends them; Rejected VALIDATION_ERROR."""
        pairs = [pair for pair in self.request.query_string.split(b"&") if not pair.endswith(b"=")]
        return decode_query(b"&".join(pairs), kind)

    async def render(
        self, template: str, values: Mapping[str, object] | None = None, *, status: HTTPStatus = HTTPStatus.OK
    ) -> Response:
        """Return a page with the session's notices, or the fragment that htmx asks for."""
        notices = [] if self.wants_fragment else await self.sessions.take_notices(self.session)
        return Response(self.part(template, {"notices": notices, **(values or {})}), status, content_type=HTML)

    def part(self, template: str, values: Mapping[str, object] | None = None) -> str:
        """Render a template with these values and those that every template can use."""
        common = {"visit": self, "now": self.now, "may": self.may, "Permission": Permission}
        return self.templates.render(template, {**common, **(values or {})})

    async def go(self, path: str, notice: str | None = None) -> Response:
        """Redirect the browser to another page, which shows `notice` once."""
        if notice is not None:
            await self.sessions.add_notice(self.session, notice)
        return see(path)


View = Callable[[Visit], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class DashboardPage:
    """One method of one path; a page with a `label` is in the navigation, in the order of the pages.

    One `of_nodes` is there only for a journal that several servers share, and for callers without an organization.
    """

    name: str
    method: str
    path: str
    permission: Permission
    view: View
    label: str | None = None
    of_nodes: bool = False


def page(
    name: str,
    route: str,
    permission: Permission,
    view: View,
    *,
    label: str | None = None,
    of_nodes: bool = False,
) -> DashboardPage:
    """Return a page; `route` is its method, GET or POST, and its path, such as `GET /webhooks/{webhookId}`."""
    method, _, path = route.partition(" ")
    return DashboardPage(
        name=name, method=method, path=path, permission=permission, view=view, label=label, of_nodes=of_nodes
    )


def see(path: str) -> Response:
    """Redirect the browser to another page of the dashboard."""
    return Response("", HTTPStatus.SEE_OTHER, {"Location": quote(path, safe="/?&=%_.:-+,*~#")}, content_type=HTML)


def page_links(path: str, query: CursorQuery, next_cursor: str | None) -> dict[str, str | None]:
    """Return the `first_path` and `next_path` of a list's page, each None where there is no such page.

    They keep the parameters of `query`, whose names are those of the API.
    """
    values = msgspec.to_builtins(query)
    kept = {name: str(values[name]) for name in given(query) if name != "cursor"}
    return {
        "first_path": _with_query(path, kept) if query.cursor else None,
        "next_path": _with_query(path, {**kept, "cursor": next_cursor}) if next_cursor else None,
    }


def _with_query(path: str, fields: Mapping[str, str]) -> str:
    return f"{path}?{urlencode(fields)}" if fields else path


def problems_of(refused: Rejected) -> dict[str, str]:
    """Return the problems by the field that the JSON pointer names (`""`: the whole document)."""
    found = {pointer.strip("/"): detail for pointer, detail in refused.errors}
    return found or {"": refused.detail}

"""The routes of the dashboard on the API's application, their access control, and errors as pages.

Every route except the sign-in and the static files needs a session, and every page declares the permission that it
needs, as the operations of the API do. A request that changes something must come from a page of the dashboard, which
its origin and the session's CSRF token prove.
"""

from collections.abc import Awaitable, Callable, Sequence
from http import HTTPStatus

import trio
from quart import Response, g
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from webhookd.admin.auth import Permission
from webhookd.admin.bodies import current_request
from webhookd.admin.problems import MEDIA_TYPE, words_of
from webhookd.admin.services import Services
from webhookd.base.errors import ErrorCode, ReadTimeoutError, Rejected, RouteError
from webhookd.dashboard import (
    audit,
    browser_guard,
    delivery,
    event_types,
    events,
    keys,
    nodes,
    overview,
    webhook_actions,
    webhook_editing,
    webhook_list,
    webhook_page,
)
from webhookd.dashboard.cache import Cache
from webhookd.dashboard.formatting import capitalized
from webhookd.dashboard.forms import Form, read_form
from webhookd.dashboard.pages import HTML, DashboardPage, Visit
from webhookd.dashboard.rendering import StaticFile, Templates
from webhookd.dashboard.session_rows import MemorySessions, SharedSessions
from webhookd.dashboard.sessions import BrowserSessions, Session
from webhookd.dashboard.signing_in import SignIn
from webhookd.dashboard.streams import Streams
from webhookd.observe.logs import get_logger

_IMMUTABLE = "public, max-age=31536000, immutable"
_RELOADED = b'<!doctype html><html lang="en"><meta http-equiv="refresh" content="0"><title>webhookd</title></html>'

_log = get_logger("dashboard")


def all_pages() -> tuple[DashboardPage, ...]:
    """Return every page; those with a label are in the navigation, in this order."""
    return (
        *overview.PAGES,
        *webhook_list.PAGES,
        *webhook_page.PAGES,
        *webhook_editing.PAGES,
        *webhook_actions.PAGES,
        *delivery.PAGES,
        *events.PAGES,
        *event_types.PAGES,
        *keys.PAGES,
        *audit.PAGES,
        *nodes.PAGES,
    )


class Dashboard:
    """The pages of an application, created by `add_dashboard`."""

    def __init__(self, services: Services, pages: Sequence[DashboardPage]) -> None:
        keys, wall_time, store = services.keys, services.clock.now, services.store
        rows = SharedSessions(store.sessions, services.vault) if store.is_shared else MemorySessions(keys, wall_time)
        self.sessions = BrowserSessions(keys, wall_time, rows, store.follow_changes)
        most_live_pages = services.config.organizations.max_live_pages
        self.streams = Streams(most_of_organization=most_live_pages)
        self._cache = Cache()
        self._services = services
        self._templates = Templates()
        self._compiling = trio.Lock()
        self._sign_in = SignIn(services, self.sessions, self._templates)
        self._pages = tuple(pages)
        self._navigation = tuple(each for each in pages if each.label is not None)

    def add_to(self, app: QuartTrio) -> None:
        """Add every route; RouteError for a page that needs no permission."""
        for each in self._pages:
            if each.permission is Permission.NOTHING or each.method not in {"GET", "POST"}:
                raise RouteError(f"the page {each.name} must be a GET or a POST and need a permission")
            self._route(app, each.name, each.method, each.path, self._with_session(each))
        self._route(app, "sign_in", "GET", "/sign-in", self._open(self._sign_in.show))
        self._route(app, "begin_session", "POST", "/sign-in", self._open(self._sign_in.begin))
        self._route(app, "end_session", "POST", "/sign-out", self._open(self._end_session))
        for file in self._templates.static.values():
            self._route(app, f"static {file.path}", "GET", file.path, _serve(file))
        app.after_request(self._answer_browser)

    async def _answer_browser(self, response: Response) -> Response:
        """Turn the API's 404 or 405 into a page if a browser asks for it."""
        is_not_found = response.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED}
        request = current_request()
        wants_a_page = "text/html" in request.headers.get("Accept", "") and not request.path.startswith("/api/")
        if not (is_not_found and wants_a_page and response.mimetype == MEDIA_TYPE):
            return response
        await self._compile()
        page = self._problem(HTTPStatus(response.status_code), "there is no such page")
        page.headers.update(browser_guard.HEADERS)
        return page

    async def _compile(self) -> None:
        """Compile the templates before the first page."""
        if self._templates.are_compiled:
            return
        async with self._compiling:
            if not self._templates.are_compiled:
                await trio.to_thread.run_sync(self._templates.compile)

    def _route(
        self, app: QuartTrio, name: str, method: str, path: str, view: Callable[..., Awaitable[Response]]
    ) -> None:
        rule = path.replace("{", "<").replace("}", ">")
        # Quart takes a name with a dot for one of a blueprint.
        endpoint = f"dashboard {name}".replace(".", "_")
        app.add_url_rule(rule, endpoint, view, methods=[method], provide_automatic_options=False)

    def _with_session(self, page: DashboardPage) -> Callable[..., Awaitable[Response]]:
        async def view(**variables: str) -> Response:
            async def answer() -> Response:
                request = current_request()
                session = await browser_guard.session_of(request, self.sessions)
                if session is None:
                    return self._ask_to_sign_in()
                self._services.keys.note_use(session.caller, self._services.clock.now())
                session.caller.require(page.permission)
                form = Form([]) if page.method == "GET" else await self._checked_form(session)
                visit = Visit(
                    services=self._services,
                    session=session,
                    request=request,
                    request_id=g.request_id,
                    templates=self._templates,
                    sessions=self.sessions,
                    streams=self.streams,
                    cache=self._cache,
                    navigation=self._navigation,
                    path=variables,
                    form=form,
                )
                return await page.view(visit)

            return await self._open(answer)()

        return view

    async def _checked_form(self, session: Session) -> Form:
        request = current_request()
        if not browser_guard.comes_from_here(request):
            raise Rejected(ErrorCode.FORBIDDEN, "this form was not sent by a page of this server")
        form = await read_form(request, self._services.config.server.request_timeout_seconds)
        if not session.vouches(request.headers.get(browser_guard.CSRF_HEADER) or form.get(browser_guard.CSRF_FIELD)):
            raise Rejected(ErrorCode.FORBIDDEN, "this form is older than your sign-in: go back and load its page again")
        return form

    async def _end_session(self) -> Response:
        session = await browser_guard.session_of(current_request(), self.sessions)
        if session is None:
            return self._ask_to_sign_in()
        await self._checked_form(session)
        return await self._sign_in.end(session)

    def _ask_to_sign_in(self) -> Response:
        request = current_request()
        where = browser_guard.sign_in_path(request)
        if "HX-Request" in request.headers or "text/event-stream" in request.headers.get("Accept", ""):
            return Response("", HTTPStatus.UNAUTHORIZED, {"HX-Redirect": "/sign-in"}, content_type=HTML)
        if request.method == "GET" and request.headers.get("Sec-Fetch-Site") == "cross-site":
            # A link from another site sends no strict cookie; a reload from our own page does.
            return Response(_RELOADED, content_type=HTML)
        return Response("", HTTPStatus.SEE_OTHER, {"Location": where}, content_type=HTML)

    def _open(self, answer: Callable[[], Awaitable[Response]]) -> Callable[[], Awaitable[Response]]:
        """Return a view whose errors are pages, and whose answers have the headers of the dashboard."""

        async def view() -> Response:
            try:
                await self._compile()
                response = await answer()
            except Rejected as refused:
                response = self._problem(refused.code.status, refused.detail)
                if refused.retry_after_seconds is not None:
                    response.headers["retry-after"] = str(refused.retry_after_seconds)
            except HTTPException as error:
                response = self._problem(*words_of(error))
            except ReadTimeoutError:
                detail = "the query took too long; narrow its filters"
                response = self._problem(HTTPStatus.GATEWAY_TIMEOUT, detail)
            except Exception as error:  # noqa: BLE001 - a request's root: it is logged, and answered with a page
                request = current_request()
                _log.error(
                    "http.request_failed",
                    request_id=g.request_id,
                    method=request.method,
                    path=request.path,
                    exc_info=error,
                )
                detail = "the page failed inside webhookd; its log has more under this request id"
                response = self._problem(HTTPStatus.INTERNAL_SERVER_ERROR, detail)
            response.headers.update(browser_guard.HEADERS)
            return response

        return view

    def _problem(self, status: HTTPStatus, detail: str) -> Response:
        values = {"status": status, "detail": capitalized(detail), "request_id": g.request_id}
        page = self._templates.render("problem.html", values)
        return Response(page, status, content_type=HTML)


def add_dashboard(app: QuartTrio, services: Services, pages: Sequence[DashboardPage] | None = None) -> Dashboard:
    """Add all pages, or the given ones, to the API's application."""
    dashboard = Dashboard(services, all_pages() if pages is None else pages)
    dashboard.add_to(app)
    return dashboard


def _serve(file: StaticFile) -> Callable[[], Awaitable[Response]]:
    async def view() -> Response:
        response = Response(file.content, content_type=file.media_type)
        response.headers.update({**browser_guard.HEADERS, "cache-control": _IMMUTABLE})
        return response

    return view

"""Sign-in with an API key, and sign-out."""

from collections.abc import Mapping
from http import HTTPStatus

from quart import Response

from webhookd.admin.auth import Permission, authenticate
from webhookd.admin.bodies import current_request
from webhookd.admin.limits import RateLimits, site_of
from webhookd.admin.services import Services
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.dashboard import browser_guard
from webhookd.dashboard.formatting import capitalized
from webhookd.dashboard.forms import read_form
from webhookd.dashboard.pages import HTML, see
from webhookd.dashboard.rendering import Templates
from webhookd.dashboard.sessions import BrowserSessions, Session
from webhookd.observe.logs import get_logger

FAILURES_PER_SECOND = 0.2
FAILURES_AT_ONCE = 10
# The longest accepted token with each byte escaped, and the path to go to.
MOST_BYTES_BEFORE_SIGNING_IN = 32_768

_log = get_logger("dashboard")


class SignIn:
    """The page where a session begins.

    The key is checked first, and only unknown keys count against the client's address. Behind a proxy all clients have
    the same address, and a valid key must not be refused because of the wrong keys of others. Keys can't be guessed in
    any case.
    """

    def __init__(self, services: Services, sessions: BrowserSessions, templates: Templates) -> None:
        self._services = services
        self._sessions = sessions
        self._templates = templates
        self._failures = RateLimits(FAILURES_PER_SECOND, FAILURES_AT_ONCE)

    async def show(self) -> Response:
        """Show the form for a key."""
        request = current_request()
        if await browser_guard.session_of(request, self._sessions) is not None:
            return see("/")
        return self._page(browser_guard.own_path(request.args.get("next", "/")))

    async def begin(self) -> Response:
        """Check a key and begin a session."""
        services, request = self._services, current_request()
        form = await read_form(
            request, services.config.server.request_timeout_seconds, max_bytes=MOST_BYTES_BEFORE_SIGNING_IN
        )
        next_path = browser_guard.own_path(form.get("next", "/"))
        if not browser_guard.comes_from_here(request):
            raise Rejected(ErrorCode.FORBIDDEN, "this form was not sent by a page of this server")
        address = request.remote_addr or "local"
        text = form.text("key")
        try:
            caller = authenticate(
                [f"Bearer {text}"] if text else [], services.keys, services.tokens, services.clock.now()
            )
            caller.require(Permission.READ)
        except Rejected as refused:
            return self._refuse(refused, address, next_path, text)
        before = await browser_guard.session_of(request, self._sessions)
        if before is not None:
            await self._sessions.end(before)  # its cookie is replaced
        secure = browser_guard.is_secure(request)
        cookie = await self._sessions.begin(caller, is_secure=secure)
        response = see(next_path)
        browser_guard.give_cookie(response, cookie, secure=secure)
        _log.info("dashboard.signed_in", address=address, caller=caller.place)
        return response

    def _refuse(self, refused: Rejected, address: str, next_path: str, text: str) -> Response:
        if refused.code is ErrorCode.UNAUTHORIZED:
            quota = self._failures.take(site_of(address))
            if quota is not None and quota.retry_after_seconds is not None:
                problem = f"Too many failed attempts from your address. Try again in {quota.retry_after_seconds} s."
                answer = self._page(next_path, problem, HTTPStatus.TOO_MANY_REQUESTS)
                answer.headers["retry-after"] = str(quota.retry_after_seconds)
                return answer
        _log.warning("dashboard.sign_in_refused", address=address, code=refused.code.value)
        detail = refused.detail if text else "Enter an API key."
        answer = self._page(next_path, capitalized(detail), refused.code.status)
        if refused.retry_after_seconds is not None:
            answer.headers["retry-after"] = str(refused.retry_after_seconds)
        return answer

    async def end(self, session: Session) -> Response:
        """End a session."""
        await self._sessions.end(session)
        response = see("/sign-in")
        browser_guard.take_cookie(response, secure=session.is_secure)
        return response

    def _page(self, next_path: str, problem: str | None = None, status: HTTPStatus = HTTPStatus.OK) -> Response:
        values: Mapping[str, object] = {"next_path": next_path, "problem": problem}
        return Response(self._templates.render("sign_in.html", values), status, content_type=HTML)

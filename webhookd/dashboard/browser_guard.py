"""What stands between a browser and a page: the cookie, the origin of a request, and the headers of every answer."""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from quart import Request, Response

from webhookd.dashboard.sessions import LONGEST_SECONDS, BrowserSessions, Session

CSRF_FIELD = "csrf"
CSRF_HEADER = "X-CSRF-Token"

# The prefix has browsers refuse a cookie of this name that another host or the clear-text port wants to set.
_SECURE_COOKIE = "__Host-webhookd"
_CLEAR_COOKIE = "webhookd"
_HTTPS = "https"
_OWN_SITE = "same-origin"

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)

HEADERS: Mapping[str, str] = {
    "content-security-policy": _POLICY,
    # The origin must come with a form, which "no-referrer" would make "null".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


def comes_from_here(request: Request) -> bool:
    """Whether a request that asks for a change was made by a page of this server, or by no browser at all.

    Browsers that have a say in it send Sec-Fetch-Site where the page is trustworthy, and Origin with every POST. What
    has neither isn't a browser, and brings no cookie of somebody else's.
    """
    site = request.headers.get("Sec-Fetch-Site")
    if site is not None:
        return site == _OWN_SITE
    origin = request.headers.get("Origin")
    if origin is None:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower()
    except ValueError:  # such as half of an IPv6 address, which no browser sends
        return False


def is_secure(request: Request) -> bool:
    """Whether the browser speaks TLS, to a proxy before us: by the word of the browser or of the proxy.

    A lie about it only costs whoever tells it a session.
    """
    forwarded = request.headers.get("X-Forwarded-Proto", "")
    return forwarded.lower() == _HTTPS or request.headers.get("Origin", "").startswith(f"{_HTTPS}://")


async def session_of(request: Request, sessions: BrowserSessions) -> Session | None:
    """Return the session that a request's cookie stands for."""
    for name, secure in ((_SECURE_COOKIE, True), (_CLEAR_COOKIE, False)):
        text = request.cookies.get(name)
        session = None if text is None else await sessions.find(text, is_secure=secure)
        if session is not None:
            return session
    return None


def give_cookie(response: Response, text: str, *, secure: bool) -> None:
    """Have the browser bring a session's text with every request, and show it to no script and no other site."""
    response.set_cookie(
        _SECURE_COOKIE if secure else _CLEAR_COOKIE,
        text,
        max_age=int(LONGEST_SECONDS),
        path="/",
        secure=secure,
        httponly=True,
        samesite="Strict",
    )


def take_cookie(response: Response, *, secure: bool) -> None:
    """Have the browser forget the session's text."""
    response.delete_cookie(
        _SECURE_COOKIE if secure else _CLEAR_COOKIE, path="/", secure=secure, httponly=True, samesite="Strict"
    )


def sign_in_path(request: Request) -> str:
    """Return where to sign in, and to come back from to the page that was asked for."""
    if request.method != "GET" or request.path == "/":
        return "/sign-in"
    query = request.query_string.decode("ascii", "replace")
    return f"/sign-in?next={quote(f'{request.path}?{query}' if query else request.path, safe='')}"


def own_path(text: str) -> str:
    """Return a path to go to after the sign-in: `text` where it is one of this server's, else the first page."""
    is_path = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_path and urlsplit(text).netloc == "" else "/"

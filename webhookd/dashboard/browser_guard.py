"""The protection of pages in a browser: the session's cookie, the origin of requests, and the headers of answers."""

from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from quart import Request, Response

from webhookd.dashboard.sessions import LONGEST_SECONDS, BrowserSessions, Session

CSRF_FIELD = "csrf"
CSRF_HEADER = "X-CSRF-Token"

# With this prefix, browsers refuse a cookie of this name from another host or over plain HTTP.
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
    # A form must send its origin, which would be "null" with "no-referrer".
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "x-frame-options": "DENY",
}


def comes_from_here(request: Request) -> bool:
    """Whether a page of this server sent a request that changes something, or a client that is no browser.

    Browsers send Sec-Fetch-Site from trustworthy pages, and Origin with every POST. A client that sends neither is no
    browser, and has no cookie of another user.
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
    """Whether the browser uses TLS, to a proxy in front of the server, as the browser or the proxy says.

    A client that sends a false value only loses its own session.
    """
    forwarded = request.headers.get("X-Forwarded-Proto", "")
    return forwarded.lower() == _HTTPS or request.headers.get("Origin", "").startswith(f"{_HTTPS}://")


async def session_of(request: Request, sessions: BrowserSessions) -> Session | None:
    """Return the session of a request's cookie."""
    for name, secure in ((_SECURE_COOKIE, True), (_CLEAR_COOKIE, False)):
        text = request.cookies.get(name)
        session = None if text is None else await sessions.find(text, is_secure=secure)
        if session is not None:
            return session
    return None


def give_cookie(response: Response, text: str, *, secure: bool) -> None:
    """Set the session's cookie, which no script and no other site can read."""
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
    """Delete the session's cookie."""
    response.delete_cookie(
        _SECURE_COOKIE if secure else _CLEAR_COOKIE, path="/", secure=secure, httponly=True, samesite="Strict"
    )


def sign_in_path(request: Request) -> str:
    """Return the path of the sign-in, which leads back to the requested page."""
    if request.method != "GET" or request.path == "/":
        return "/sign-in"
    query = request.query_string.decode("ascii", "replace")
    return f"/sign-in?next={quote(f'{request.path}?{query}' if query else request.path, safe='')}"


def own_path(text: str) -> str:
    """Return the path to go to after the sign-in: `text` if it is a path of this server, else the overview."""
    is_path = text.startswith("/") and not text.startswith("//") and "\\" not in text and text.isprintable()
    return text if is_path and urlsplit(text).netloc == "" else "/"

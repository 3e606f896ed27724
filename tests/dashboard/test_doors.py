"""Access to the dashboard: sign-in, cookies, origins, CSRF tokens, headers."""

import itertools
import re

import pytest
import trio

from tests.dashboard.browsing import ORIGIN, Site, Visitor, kept_sessions, text_of
from webhookd.admin.auth import Caller, KeyRing
from webhookd.base.models import Role
from webhookd.dashboard.browser_guard import own_path
from webhookd.dashboard.forms import FORM
from webhookd.dashboard.session_rows import MemorySessions
from webhookd.dashboard.sessions import (
    IDLE_SECONDS,
    LONGEST_SECONDS,
    MOST_NOTICES,
    MOST_OF_ONE_CALLER,
    MOST_SESSIONS,
    BrowserSessions,
)
from webhookd.dashboard.signing_in import FAILURES_AT_ONCE
from webhookd.journal import AuditActor, AuditActorKind, KeyRow


async def test_a_key_opens_a_session(site: Site) -> None:
    """A key that may read signs in; the cookie is sent only to this server, and no script can read it."""
    _, key = await site.api.key("viewer")
    visitor = Visitor(site)
    answer = await visitor.sign_in(key, next="/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert re.match(r"webhookd=[A-Za-z0-9_-]{43}; ", cookie)
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert key not in cookie
    assert "viewer" in text_of(await visitor.page("/"))


async def test_a_large_form_is_refused_before_it_is_read(site: Site) -> None:
    """The sign-in accepts the longest token with each byte escaped, and answers 413 to a larger form."""
    visitor = Visitor(site)
    for fill, status in ((b"%41" * 10_000, 401), (b"%41" * 11_000, 413)):
        answer = await visitor.client.post(
            "/sign-in", content=b"key=" + fill, headers={"origin": ORIGIN, "content-type": FORM}
        )
        assert answer.status_code == status, text_of(answer.text)


async def test_signing_in_again_ends_the_session_before(site: Site) -> None:
    """A browser has one session: a new sign-in ends the old one. The number of notices is bounded."""
    _, key = await site.api.key("viewer")
    visitor = Visitor(site)
    await visitor.sign_in(key)
    (before,) = visitor.client.cookies.values()
    await visitor.sign_in(key)
    assert len(kept_sessions(site)) == 1
    for number in range(MOST_NOTICES + 2):
        (kept,) = kept_sessions(site).values()
        await site.dashboard.sessions.add_notice(kept.session, f"notice {number}")
    assert (await site.dashboard.sessions.take_notices(kept.session))[0] == "notice 2"
    assert (await Visitor(site).get("/", cookie=f"webhookd={before}")).status_code == 303
    assert (await visitor.get("/")).status_code == 200


async def test_tls_makes_the_cookie_secure(site: Site) -> None:
    """If the browser or the proxy reports TLS, the cookie is Secure and has the prefix __Host-."""
    _, key = await site.api.key("viewer")
    for headers in ({"origin": "https://hooks.example:8080"}, {"origin": ORIGIN, "x-forwarded-proto": "https"}):
        answer = await Visitor(site).client.post("/sign-in", data={"key": key}, headers=headers)
        assert answer.status_code == 303
        assert answer.headers["set-cookie"].startswith("__Host-webhookd=")
        assert {"Secure", "HttpOnly", "SameSite=Strict", "Path=/"} <= set(answer.headers["set-cookie"].split("; "))
        text = answer.headers["set-cookie"].split(";")[0].split("=")[1]
        downgraded = await Visitor(site).get("/", cookie=f"webhookd={text}")
        assert downgraded.status_code == 303, "a session that was begun under TLS opened by a cookie in the clear"
        assert (await Visitor(site).get("/", cookie=f"__Host-webhookd={text}")).status_code == 200


async def test_what_is_no_key_is_told(site: Site) -> None:
    """Garbage, an empty field and a key that may not read are refused on the form, which doesn't show the input."""
    _, ingest = await site.api.key("ingest")
    for text, status, said in (
        ("whd_admin_garbage_xyz", 401, "not known"),
        ("", 401, "Enter an API key"),
        (ingest, 403, "may not"),
    ):
        answer = await Visitor(site).sign_in(text)
        assert answer.status_code == status
        assert said in text_of(answer.text)
        assert "set-cookie" not in answer.headers
        assert not text or text not in answer.text


async def test_failed_attempts_are_limited(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """After too many wrong keys an address must wait before the next wrong one, but never before a valid one."""
    _, key = await site.api.key("admin")
    _, ingest = await site.api.key("ingest")
    visitor = Visitor(site)
    answers = [await visitor.sign_in("wrong") for _ in range(FAILURES_AT_ONCE + 4)]
    assert [answer.status_code for answer in answers] == [401] * FAILURES_AT_ONCE + [429] * 4
    assert answers[-1].headers["retry-after"] == "5"
    assert (await visitor.sign_in(ingest)).status_code == 403, "a right key of a small role is told what it may not"
    token = site.api.signer.token()
    for right in (key, token, key):
        assert (await Visitor(site).sign_in(right)).status_code == 303
        assert (await Visitor(site).sign_in("wrong")).status_code == 429


async def test_right_keys_use_up_no_attempts(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """Valid keys don't count: after any number of sign-ins, as many wrong keys are accepted as before."""
    _, key = await site.api.key("viewer")
    for _ in range(FAILURES_AT_ONCE + 1):
        assert (await Visitor(site).sign_in(key)).status_code == 303
    statuses = [(await Visitor(site).sign_in("wrong")).status_code for _ in range(FAILURES_AT_ONCE + 1)]
    assert statuses == [401] * FAILURES_AT_ONCE + [429]


async def test_without_a_session_there_is_the_sign_in(site: Site) -> None:
    """Without a session, a page leads to the sign-in and back; htmx and streams get a status."""
    visitor = Visitor(site)
    answer = await visitor.get("/")
    assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
    partial = await visitor.get("/", **{"hx-request": "true"})
    assert (partial.status_code, partial.headers["hx-redirect"]) == (401, "/sign-in")
    assert (await visitor.get("/live", accept="text/event-stream")).status_code == 401
    assert (await visitor.get("/", cookie="webhookd=guessed")).status_code == 303
    elsewhere = await visitor.get("/", **{"sec-fetch-site": "cross-site"})
    assert "http-equiv" in elsewhere.text


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        ("/webhooks?search=a", "/webhooks?search=a"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/\tx", "/"),
        ("", "/"),
    ],
)
def test_the_sign_in_leads_to_own_pages_alone(asked: str, path: str) -> None:
    """After the sign-in the browser goes to a path of this server, whatever the link says."""
    assert own_path(asked) == path


async def test_a_session_ends(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A session ends after an hour without use, after 12 hours, at sign-out, and with its key."""
    unused, used, left, revoked = [await site.visitor() for _ in range(4)]
    key_id, key = await site.api.key("admin")
    await revoked.sign_in(key)
    assert len(kept_sessions(site)) == 4
    now = site.api.world.clock.now()

    async def is_in(visitor: Visitor) -> bool:
        return (await visitor.get("/")).status_code == 200

    assert (await left.post("/sign-out")).headers["location"] == "/sign-in"
    assert not await is_in(left)
    assert await is_in(revoked)
    await site.api.ask("DELETE", f"/api/keys/{key_id}", None, uid=4711)
    assert not await is_in(revoked)

    await trio.sleep(IDLE_SECONDS / 2)
    assert await is_in(used)
    await trio.sleep(IDLE_SECONDS / 2 + 1)
    assert await is_in(used)
    assert not await is_in(unused)
    while site.api.world.clock.now() < now + LONGEST_SECONDS - 1:
        assert await is_in(used)
        await trio.sleep(IDLE_SECONDS / 2)
    assert not await is_in(used)


async def test_sessions_are_bounded(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The sessions of a key are limited; the one unused the longest ends first."""
    _, key = await site.api.key("admin")

    visitors = []
    for _ in range(MOST_OF_ONE_CALLER + 1):
        visitors.append(Visitor(site))
        assert (await visitors[-1].sign_in(key)).status_code == 303
        await trio.sleep(10)
    assert len(kept_sessions(site)) == MOST_OF_ONE_CALLER
    assert (await visitors[0].get("/")).status_code == 303
    assert (await visitors[1].get("/")).status_code == 200


async def test_sign_ins_of_one_organization_end_no_session_of_another() -> None:
    """At the total limit, a session of the organization with the most sessions ends."""

    def key(key_id: str, organization_id: str | None) -> KeyRow:
        return KeyRow(
            id=key_id,
            role=Role.VIEWER,
            name="",
            organization_id=organization_id,
            key_hash=b"",
            created_at=0.0,
            expires_at=None,
        )

    of_others = [key("key_other", "other"), key("key_unbound", None)]
    of_acme = [key(f"key_{number}", "acme") for number in range(MOST_SESSIONS // 10)]
    seconds = itertools.count()
    ring = KeyRing([*of_others, *of_acme])
    rows = MemorySessions(ring, lambda: 0.0, clock=lambda: next(seconds) / 1e6)
    sessions = BrowserSessions(ring, lambda: 0.0, rows, trio.lowlevel.checkpoint)

    async def begin(row: KeyRow) -> str:
        actor = AuditActor(kind=AuditActorKind.KEY, id=row.id, role=row.role)
        caller = Caller(role=row.role, organization_id=row.organization_id, actor=actor)
        return await sessions.begin(caller, is_secure=False)

    oldest = [await begin(row) for row in of_others]
    crowd = [await begin(row) for row in of_acme for _ in range(11)]
    assert len(rows.all) == MOST_SESSIONS
    assert await sessions.find(crowd[0], is_secure=False) is None
    for kept in (*oldest, crowd[-1]):
        assert await sessions.find(kept, is_secure=False) is not None


async def test_a_session_outruns_the_news_of_its_key() -> None:
    """A session whose key another node has just made is found by what is read then; one of a revoked key ends."""
    row = KeyRow(
        id="key_new",
        role=Role.VIEWER,
        name="",
        organization_id=None,
        key_hash=b"",
        created_at=0.0,
        expires_at=None,
    )
    ring = KeyRing()
    rows = MemorySessions(ring, lambda: 0.0)
    known: list[KeyRow] = [row]

    async def follow() -> None:
        await trio.lowlevel.checkpoint()
        for each in known:
            ring.put(each)

    sessions = BrowserSessions(ring, lambda: 0.0, rows, follow)
    caller = Caller(role=row.role, actor=AuditActor(kind=AuditActorKind.KEY, id=row.id, role=row.role))
    text = await sessions.begin(caller, is_secure=False)
    assert await sessions.find(text, is_secure=False) is not None
    known.clear()
    ring.remove(row.id)
    assert await sessions.find(text, is_secure=False) is None
    assert rows.all == {}


async def test_a_change_needs_token_and_origin(site: Site) -> None:
    """A form without the session's CSRF token, with that of another session, or from another origin changes nothing."""
    visitor, other = await site.visitor(), await site.visitor()
    for csrf, origin in (
        ("", ORIGIN),
        ("wrong", ORIGIN),
        (await other.csrf(), ORIGIN),
        (await visitor.csrf(), "http://evil.example"),
        (await visitor.csrf(), "null"),
        (await visitor.csrf(), "http://[hooks.example"),
    ):
        assert (await visitor.post("/sign-out", csrf=csrf, origin=origin)).status_code == 403
    data = {"csrf": await visitor.csrf()}
    cross = await visitor.client.post("/sign-out", data=data, headers={"sec-fetch-site": "cross-site"})
    assert cross.status_code == 403
    assert (await visitor.get("/")).status_code == 200
    assert (await visitor.post("/sign-out")).status_code == 303
    assert (
        await Visitor(site).client.post("/sign-in", data={"key": "x"}, headers={"origin": "null"})
    ).status_code == 403


async def test_every_answer_is_strict(site: Site) -> None:
    """Pages, errors and files have a content security policy without other origins and inline code."""
    visitor = await site.visitor()
    page = await visitor.get("/")
    assert page.headers["cache-control"] == "no-store"
    files = re.findall(r'(?:src|href)="(/static/[^"]+)"', page.text)
    assert len(files) >= 5
    for path in ("/", "/sign-in", *files):
        answer = await visitor.get(path)
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"
    assert "immutable" in (await visitor.get(files[0])).headers["cache-control"]


async def test_a_path_that_leads_nowhere(site: Site) -> None:
    """An unknown path is a page for a browser, and the API's error for a program or below /api/."""
    visitor = Visitor(site)
    typed = await visitor.get("/webhok", accept="text/html,*/*")
    assert (typed.status_code, typed.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert "content-security-policy" in typed.headers
    for path, accept in (("/webhok", "*/*"), ("/api/webhok", "text/html")):
        assert (await visitor.get(path, accept=accept)).headers["content-type"] == "application/problem+json"

"""The dashboard without a process or a socket: the application in virtual time, requested like by a browser."""

import dataclasses
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path

import httpx
import trio

from tests.admin.inprocess import Api, Signer, api_in_process
from webhookd.admin.lifecycle import Readiness
from webhookd.dashboard.app import Dashboard, add_dashboard
from webhookd.dashboard.session_rows import KeptSession, MemorySessions

ORIGIN = "http://hooks.example:8080"


class Visitor:
    """One browser with its cookies; call `sign_in` first."""

    def __init__(self, site: "Site") -> None:
        self._app = site.api.app
        transport = httpx.ASGITransport(site.api.app)  # type: ignore[arg-type]  # httpx has its own types
        self.client = httpx.AsyncClient(transport=transport, base_url=ORIGIN)

    async def sign_in(self, key: str, **fields: str) -> httpx.Response:
        """Send the form of the sign-in."""
        return await self.client.post("/sign-in", data={"key": key, **fields}, headers={"origin": ORIGIN})

    async def get(self, path: str, **headers: str) -> httpx.Response:
        """Ask for a page."""
        return await self.client.get(path, headers=headers)

    async def page(self, path: str) -> str:
        """Return the HTML of a page, which must exist."""
        answer = await self.get(path)
        assert answer.status_code == 200, (path, answer.status_code, answer.text[:2000])
        return answer.text

    async def csrf(self) -> str:
        """Return the CSRF token of the session's pages."""
        found = re.search(r'name="csrf" value="([^"]+)"', await self.page("/"))
        assert found is not None
        return found[1]

    async def post(
        self, path: str, fields: dict[str, str] | None = None, *, csrf: str | None = None, origin: str | None = ORIGIN
    ) -> httpx.Response:
        """Send a form like a page of the dashboard, with another token or origin if given."""
        data = {"csrf": await self.csrf() if csrf is None else csrf, **(fields or {})}
        headers = {} if origin is None else {"origin": origin}
        return await self.client.post(path, data=data, headers=headers)

    async def stream(self, path: str, seconds: float) -> tuple[int, str]:
        """Read a live page's stream for `seconds`; return its status and the text, which httpx would buffer."""
        status, received = 0, bytearray()
        cookies = "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())
        target, _, query = path.partition("?")

        async def receive() -> dict[str, object]:
            await trio.sleep_forever()
            raise AssertionError("nobody wakes this")

        async def send(message: dict[str, object]) -> None:
            nonlocal status, received
            await trio.lowlevel.checkpoint()
            if message["type"] == "http.response.start":
                status = int(str(message["status"]))
            else:
                received += bytes(message.get("body", b""))  # type: ignore[call-overload]  # ASGI's messages are dicts

        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": target,
            "raw_path": target.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [
                (b"host", b"hooks.example:8080"),
                (b"accept", b"text/event-stream"),
                (b"cookie", cookies.encode()),
            ],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 8080),
            "state": {},
            "extensions": {},
        }
        with trio.move_on_after(seconds):
            await self._app(scope, receive, send)  # type: ignore[arg-type]  # as above
        return status, received.decode()


class Site:
    """The application with its dashboard; `api` asks the API, `visitor` signs in with a new key."""

    def __init__(self, api: Api) -> None:
        self.api = api
        self.state = Readiness.OK
        services = dataclasses.replace(api.services, lifecycle=self)
        self.dashboard: Dashboard = add_dashboard(api.app, services)
        self.dashboard._templates.compile()  # in a thread it would let an autojump clock run away

    def readiness(self) -> tuple[Readiness, tuple[str, ...]]:
        """Return the state that a test has set."""
        return self.state, ()

    async def visitor(self, role: str = "admin", **fields: object) -> Visitor:
        """Return a browser that is signed in with a new key of this role."""
        _, key = await self.api.key(role, **fields)
        visitor = Visitor(self)
        assert (await visitor.sign_in(key)).status_code == 303
        return visitor


@asynccontextmanager
async def site_in_process(path: Path) -> AsyncIterator[Site]:
    """Run the application with its dashboard in virtual time until the block ends."""
    async with api_in_process(path, Signer()) as api:
        yield Site(api)


def kept_sessions(site: Site) -> dict[bytes, KeptSession]:
    """Return the sessions in memory, by the hash of the cookie's value."""
    rows = site.dashboard.sessions.rows
    assert isinstance(rows, MemorySessions)
    return rows.all


def text_of(html: str) -> str:
    """Return the text of a page in one line."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", html)).split())

"""Every route of the dashboard by every kind of caller, against the table below, written independently of the code.

A route that isn't in it fails the test. What a caller may do is what the API lets the same caller do.
"""

from dataclasses import dataclass, field
from typing import Any

import pytest
import trio

from tests.admin.inprocess import OWN_UID
from tests.dashboard.browsing import Site, Visitor
from webhookd.admin.auth import Permission
from webhookd.base.errors import RouteError
from webhookd.dashboard.app import add_dashboard, all_pages
from webhookd.dashboard.pages import page

READERS, OPERATORS, ADMINS = "admin operator viewer", "admin operator", "admin"
A, B = "org-a", "org-b"
SINCE = {"kind": "replay", "since": "2020-01-01T00:00", "until": "", "events": ""}
WEBHOOK = {"url": "https://hook.example/", "events": "*"}


@dataclass(frozen=True)
class Row:
    """One route: the roles, their status, the status for another organization, and whether it changes something.

    `home` is what such a caller gets on its own, where that differs from `ok`.
    """

    route: str
    roles: str
    ok: int = 200
    foreign: int | None = None
    home: int | None = None
    form: dict[str, str] = field(default_factory=dict)
    changes: bool = False


ONE = "/webhooks/{webhookId}"
TABLE = (
    Row("GET /", READERS),
    Row("GET /live", READERS),
    Row("GET /statistics", READERS),
    Row("GET /webhooks", READERS),
    Row("GET /webhooks/live", READERS),
    Row("GET /webhooks/new", ADMINS),
    Row("POST /webhooks", ADMINS, ok=303, form=WEBHOOK, changes=True),
    Row("POST /webhooks/check/{field}", ADMINS, form=WEBHOOK),
    Row(f"GET {ONE}", READERS, foreign=404),
    Row(f"GET {ONE}/live", READERS, foreign=404),
    Row(f"GET {ONE}/deliveries", READERS, foreign=404),
    Row(f"GET {ONE}/edit", ADMINS, foreign=404),
    Row(f"POST {ONE}/edit", ADMINS, ok=303, foreign=404, form={**WEBHOOK, "description": "new"}, changes=True),
    Row(f"POST {ONE}/test", OPERATORS, ok=303, foreign=404, changes=True),
    Row(f"POST {ONE}/disable", OPERATORS, ok=303, foreign=404, changes=True),
    Row(f"POST {ONE}/enable", OPERATORS, ok=303, foreign=404, changes=True),
    Row(f"POST {ONE}/rotate", ADMINS, ok=303, foreign=404, form={"overlap": "24"}, changes=True),
    Row(f"GET {ONE}/secret", ADMINS, foreign=404),
    Row(f"GET {ONE}/replay", OPERATORS, foreign=404),
    Row(f"POST {ONE}/replay/count", OPERATORS, foreign=404, form=SINCE),
    Row(f"POST {ONE}/replay", OPERATORS, ok=303, foreign=404, form=SINCE, changes=True),
    Row(f"GET {ONE}/replays/{{replayId}}", READERS, foreign=404),
    Row(f"GET {ONE}/replays/{{replayId}}/live", READERS, foreign=404),
    Row(f"POST {ONE}/replays/{{replayId}}/stop", OPERATORS, ok=303, foreign=404, changes=True),
    Row("GET /deliveries/{deliveryId}", READERS, foreign=404),
    Row("GET /deliveries/{deliveryId}/live", READERS, foreign=404),
    Row("POST /deliveries/{deliveryId}/retry", OPERATORS, ok=303, foreign=404, form={"force": "yes"}, changes=True),
    Row("GET /events", READERS),
    Row("GET /events/{eventId}", READERS, foreign=404),
    Row("GET /events/{eventId}/raw", READERS, foreign=404),
    Row("GET /event-types", READERS),
    Row("GET /event-types/new", ADMINS),
    Row("POST /event-types", ADMINS, ok=303, home=403, foreign=403, form={"name": "{new}"}, changes=True),
    Row("GET /event-types/named/{name}", READERS),
    Row("POST /event-types/named/{name}", ADMINS, ok=303, home=403, foreign=403, changes=True),
    Row("POST /event-types/named/{name}/delete", ADMINS, ok=303, home=403, foreign=403, changes=True),
    Row("GET /keys", ADMINS),
    Row("POST /keys", ADMINS, form={"role": "viewer"}, changes=True),
    Row("GET /audit", ADMINS),
    Row("GET /nodes", READERS, ok=404),  # of a journal in a file
    Row("GET /nodes/live", READERS, ok=404),
    Row("POST /keys/{keyId}/revoke", ADMINS, ok=303, foreign=404, changes=True),
    Row(f"POST {ONE}/delete", ADMINS, ok=303, foreign=404, changes=True),
)


class Things:
    """The objects of one organization, created for each caller, since callers delete them."""

    def __init__(self, site: Site, organization: str) -> None:
        self._site = site
        self._organization = organization
        self._count = 0

    async def fill(self, tag: str) -> dict[str, str]:
        """Create the objects; return their names in paths."""
        organization = {"organizationId": self._organization}
        webhook = await self._make(
            "/api/webhooks", {"url": f"https://{self._organization}.example/", "events": ["*"], **organization}
        )
        event = await self._make(
            "/api/events", {"type": "user.created", "data": {"of": self._organization}, **organization}
        )
        await trio.sleep(1)
        found = await self._site.api.ask("GET", f"/api/webhooks/{webhook}/deliveries", None, uid=OWN_UID)
        key, _ = await self._site.api.key("viewer", **organization)
        name = f"thing.{tag}"
        await self._site.api.ask("PUT", f"/api/event-types/{name}", None, body={}, uid=OWN_UID)
        replay = await self._make(f"/api/webhooks/{webhook}/replay", {"since": "2020-01-01T00:00:00Z"})
        return {
            "webhookId": webhook,
            "eventId": event,
            "deliveryId": found.json()["data"][0]["id"],
            "keyId": key,
            "replayId": replay,
            "name": name,
            "field": "url",
        }

    async def _make(self, path: str, body: dict[str, Any]) -> str:
        made = await self._site.api.ask("POST", path, None, body=body, uid=OWN_UID)
        assert made.is_success, made.text
        return str(made.json()["id"])


def expected(row: Row, role: str, organization: str | None, target: str) -> int:
    if role not in row.roles.split():
        return 403
    if organization is None:
        return row.ok
    special = row.home if organization == target else row.foreign
    return row.ok if special is None else special


async def ask(visitor: Visitor, row: Row, path: str, form: dict[str, str], csrf: str) -> tuple[int, str]:
    if path.endswith("/live"):
        return await visitor.stream(path, 0.5)
    if row.route.startswith("GET"):
        answer = await visitor.get(path)
    else:
        answer = await visitor.client.post(path, data={**form, "csrf": csrf})
    return answer.status_code, answer.text


async def entries(site: Site) -> int:
    def last(database: Any) -> int:
        return int(database.execute_sql("SELECT coalesce(max(sequence), 0) FROM audit").fetchone()[0])

    return await site.api.world.journal.transactions.read(last)


def test_the_table_knows_every_page() -> None:
    """A page that was added or removed fails this test until the table says who may see it."""
    assert sorted(f"{each.method} {each.path}" for each in all_pages()) == sorted(row.route for row in TABLE)


async def test_every_page_by_every_caller(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """Each cell has its status, adds an audit entry or none, and shows nothing of another organization."""
    wrong: list[str] = []
    asked = 0
    for number, (role, organization) in enumerate((r, o) for r in ("admin", "operator", "viewer") for o in (None, A)):
        visitor = await site.visitor(role, organizationId=organization)
        csrf = await visitor.csrf()
        for target in (A, B):
            names = await Things(site, target).fill(f"t{number}{target[-1]}")
            for row in TABLE:
                path = row.route.split()[1].format(**names)
                form = {name: value.replace("{new}", f"made.{number}{target[-1]}") for name, value in row.form.items()}
                cell = f"{role} of {organization}: {row.route} of {target}"
                before = await entries(site)
                if row.route.startswith("POST"):
                    status, _ = await ask(visitor, row, path, form, "another session's")
                    if status != 403 or await entries(site) != before:
                        wrong.append(f"{cell}, without the token: {status}")
                status, text = await ask(visitor, row, path, form, csrf)
                asked += 1
                wanted = expected(row, role, organization, target)
                if status != wanted:
                    wrong.append(f"{cell}: {status} instead of {wanted}")
                added = await entries(site) - before
                if added != int(row.changes and wanted in {200, 303}):
                    wrong.append(f"{cell}: {added} entries in the audit log")
                if organization == A and (B in text or "free on disk" in text):
                    wrong.append(f"{cell}: shows something of {B}")
    assert not wrong, "\n".join(wrong)
    assert asked == 12 * len(TABLE)


async def test_nothing_is_for_everybody(site: Site) -> None:
    """Without a session every page leads to the sign-in, every stream is refused, and no form changes anything."""
    visitor = Visitor(site)
    names = await Things(site, A).fill("n")
    before = await entries(site)
    for row in TABLE:
        path = row.route.split()[1].format(**names)
        if path.endswith("/live"):
            answer = await visitor.get(path, accept="text/event-stream")
            assert answer.status_code == 401
        else:
            method = row.route.split()[0]
            answer = await visitor.client.request(method, path, data=row.form if method == "POST" else None)
            assert answer.status_code == 303, row.route
            assert answer.headers["location"].startswith("/sign-in"), row.route
    assert await entries(site) == before


async def test_a_page_for_everybody_stops_the_start(site: Site) -> None:
    """A page without a permission, or with another method than GET and POST, can't be added."""

    async def view(_: object) -> Any:
        raise AssertionError("never asked")

    for wrong in (page("open", "GET /open", Permission.NOTHING, view), page("put", "PUT /put", Permission.READ, view)):
        with pytest.raises(RouteError, match=wrong.name):
            add_dashboard(site.api.app, site.api.services, [wrong])

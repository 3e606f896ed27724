"""Every route of the API by every kind of caller, against the table below, which is written independently of the code.

The table is the promise: who may call what, on whose things. A route that isn't in it fails the test.
"""

import dataclasses
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process, by_hand, full_claims
from tests.long import long
from webhookd.admin.app import all_operations, check_routes, create_app
from webhookd.admin.auth import Permission, new_key
from webhookd.base.errors import RouteError
from webhookd.base.models import Role
from webhookd.journal.queries import audit, keys

READERS, OPERATORS, ADMINS = "admin operator viewer", "admin operator", "admin"
LOCAL = "the machine's administrator"
A, B = "org-a", "org-b"


@dataclass(frozen=True)
class Row:
    """One route: the roles, the status for them, and the status for a caller bound to an organization.

    `home` is the answer on things of the caller's own organization, `foreign` on another's; both as `ok` unless said.
    `changes` says whether an `ok` leaves an entry in the audit log.
    """

    route: str
    roles: str
    ok: int = 200
    home: int | None = None
    foreign: int | None = None
    body: dict[str, Any] | None = field(default=None)
    changes: bool = False


NEW_WEBHOOK = {"url": "https://hook.example/", "events": ["*"], "isActive": False, "organizationId": "{org}"}
SINCE = {"since": "2020-01-01T00:00:00Z"}

TABLE = (
    Row("GET /healthz", "everybody"),
    Row("GET /readyz", "everybody"),
    Row("GET /metrics", "everybody"),
    Row("GET /api/openapi.json", READERS),
    Row("GET /api/webhooks", READERS),
    Row("POST /api/webhooks", ADMINS, ok=201, foreign=403, body=NEW_WEBHOOK, changes=True),
    Row("GET /api/webhooks/{webhookId}", READERS, foreign=404),
    Row("PATCH /api/webhooks/{webhookId}", OPERATORS, foreign=404, body={"isActive": False}, changes=True),
    Row("PUT /api/webhooks/{webhookId}", OPERATORS, foreign=404, body={"isActive": False}, changes=True),
    Row("PATCH /api/webhooks/{webhookId}", ADMINS, foreign=404, body={"description": "x"}, changes=True),
    Row("PUT /api/webhooks/{webhookId}", ADMINS, foreign=404, body={"description": "x"}, changes=True),
    Row("DELETE /api/webhooks/{webhookId}", ADMINS, foreign=404, changes=True),
    Row("POST /api/webhooks/{webhookId}/rotate-secret", ADMINS, foreign=404, body={}, changes=True),
    Row("POST /api/webhooks/{webhookId}/test", OPERATORS, foreign=404, changes=True),
    Row("POST /api/webhooks/{webhookId}/recover", OPERATORS, ok=202, foreign=404, body=SINCE, changes=True),
    Row("POST /api/webhooks/{webhookId}/replay", OPERATORS, ok=202, foreign=404, body=SINCE, changes=True),
    Row("POST /api/webhooks/{webhookId}/replay", OPERATORS, foreign=404, body={**SINCE, "dryRun": True}),
    Row("GET /api/webhooks/{webhookId}/replays/{replayId}", READERS, foreign=404),
    Row("DELETE /api/webhooks/{webhookId}/replays/{replayId}", OPERATORS, foreign=404, changes=True),
    Row("GET /api/webhooks/{webhookId}/deliveries", READERS, foreign=404),
    Row("GET /api/webhooks/deliveries/{deliveryId}", READERS, foreign=404),
    Row("POST /api/webhooks/deliveries/{deliveryId}/retry", OPERATORS, foreign=404, body={}, changes=True),
    Row("GET /api/attempts", READERS),
    Row("GET /api/stats", READERS),
    Row("GET /api/webhooks/{webhookId}/stats", READERS, foreign=404),
    Row("GET /api/events", READERS),
    Row("GET /api/events/{eventId}", READERS, foreign=404),
    Row("GET /api/events/{eventId}/deliveries", READERS, foreign=404),
    Row(
        "POST /api/events",
        "admin ingest",
        ok=202,
        foreign=403,
        body={"type": "user.created", "data": {}, "organizationId": "{org}"},
    ),
    Row("GET /api/event-types", READERS),
    Row("PUT /api/event-types/{name}", ADMINS, home=403, foreign=403, body={}, changes=True),
    Row("DELETE /api/event-types/{name}", ADMINS, home=403, foreign=403, changes=True),
    Row("GET /api/keys", ADMINS),
    Row(
        "POST /api/keys",
        ADMINS,
        ok=201,
        foreign=403,
        body={"role": "viewer", "organizationId": "{org}"},
        changes=True,
    ),
    Row("DELETE /api/keys/{keyId}", ADMINS, foreign=404, changes=True),
    Row("GET /api/audit", ADMINS),
    Row("GET /api/master-key", LOCAL),
    # A caller with permission learns that this is no key.
    Row("POST /api/master-key/rotate", LOCAL, ok=400, body={"newKey": "no key"}, changes=True),
    Row("GET /api/loop", LOCAL),
    Row("GET /api/nodes", LOCAL),
    Row("GET /api/backup", LOCAL),
    # And that this is no place for a file.
    Row("POST /api/backup", LOCAL, ok=400, body={"file": "relative.db"}, changes=True),
)


@dataclass(frozen=True)
class Who:
    """A kind of caller: its credentials, and either its role and organization or the status it always gets."""

    name: str
    credentials: str | None
    role: str = ""
    organization: str | None = None
    always: int | None = None
    uid: int | None = None


def expected(row: Row, who: Who, target: str) -> int:
    if row.roles == "everybody":
        return row.ok
    if who.always is not None:
        return who.always
    if row.roles == LOCAL:
        return row.ok if who.uid is not None else 403
    if who.role not in row.roles.split():
        return 403
    if who.organization is None:
        return row.ok
    bound = row.home if who.organization == target else row.foreign
    return row.ok if bound is None else bound


async def callers(api: Api) -> list[Who]:
    signer, gone_by = api.signer, int(api.world.clock.now()) - 60
    good = [Who("the control socket", None, "admin", uid=OWN_UID)]
    for role in ("admin", "operator", "viewer", "ingest"):
        for organization in (None, A):
            bound = f" of {organization}" if organization else ""
            _, text = await api.key(role, organizationId=organization)
            good.append(Who(f"a key, {role}{bound}", text, role, organization))
            token = signer.token(role=role, org=organization or "*")
            good.append(Who(f"a token, {role}{bound}", token, role, organization))
    revoked_id, revoked = await api.key("admin")
    await api.ask("DELETE", f"/api/keys/{revoked_id}", None, uid=OWN_UID)
    _, other = await api.key("admin")
    row, expired = new_key(Role.ADMIN, api.world.ids, gone_by - 60, expires_at=gone_by)
    api.services.keys.put(await api.world.journal.transactions.write(keys.insert, row))
    bad = [
        ("no credentials", None, 401),
        ("garbage", "garbage", 401),
        ("a key that was altered", other[:-1] + ("A" if other[-1] != "A" else "B"), 401),
        ("a key whose role was altered", other.replace("_admin_", "_viewer_"), 401),
        ("a revoked key", revoked, 401),
        ("an expired key", expired.reveal(), 401),
        ("an expired token", signer.token(exp=1_700_000_000), 401),
        ("a token without an end", signer.token(exp=None), 401),
        ("a token without a subject", signer.token(sub=None), 401),
        ("a token that isn't valid yet", signer.token(nbf=2_000_000_000), 401),
        ("a token without a signature", by_hand({"alg": "none"}, full_claims(), None), 401),
        ("a token signed with the public key", signer.confused(), 401),
        ("a token signed by another", Signer().token(), 401),
        ("a token for another audience", signer.token(aud="elsewhere"), 401),
        ("a token of another issuer", signer.token(iss="https://app.example"), 401),
        ("a token without a role", signer.token(role=None), 403),
        ("a token of an unknown role", signer.token(role="root"), 403),
        ("a token without an organization", signer.token(org=None), 403),
    ]
    refused = [Who(name, credentials, always=status) for name, credentials, status in bad]
    return [*good, *refused, Who("the control socket, with garbage", "garbage", always=401, uid=OWN_UID)]


class Things:
    """The objects of one organization, by their names in paths."""

    def __init__(self, api: Api, organization: str) -> None:
        self._api = api
        self._organization = organization
        self._names: dict[str, str] = {}
        self._count = 0

    async def fill(self) -> None:
        organization = self._organization
        webhook = await self._make("/api/webhooks", NEW_WEBHOOK)
        event = await self._make("/api/events", {"type": "user.created", "data": {}, "organizationId": "{org}"})
        listed = await self._api.ask("GET", f"/api/webhooks/{webhook}/deliveries", None, uid=OWN_UID)
        key_id, _ = await self._api.key("viewer", organizationId=organization)
        replay = await self._make(f"/api/webhooks/{webhook}/replay", {**SINCE, "events": ["user.deleted"]})
        self._names = {
            "webhookId": webhook,
            "eventId": event,
            "deliveryId": listed.json()["data"][0]["id"],
            "keyId": key_id,
            "replayId": replay,
        }

    async def path(self, row: Row, *, anew: bool) -> str:
        """Return the path of a route to these objects; create a new object for a DELETE if asked for."""
        path = row.route.split()[1]
        if not anew:
            return path.format(name="user.created", **self._names)
        if row.route == "DELETE /api/webhooks/{webhookId}":
            return path.format(webhookId=await self._make("/api/webhooks", NEW_WEBHOOK))
        if "{keyId}" in path:
            return path.format(keyId=(await self._api.key("viewer", organizationId=self._organization))[0])
        if "{name}" in path:
            self._count += 1
            name = f"thing.made{self._count}"
            if row.route.startswith("DELETE"):
                await self._api.ask("PUT", f"/api/event-types/{name}", None, body={}, uid=OWN_UID)
            return path.format(name=name)
        return path.format(**self._names)

    async def _make(self, path: str, body: dict[str, Any]) -> str:
        made = await self._api.ask("POST", path, None, body=filled(body, self._organization), uid=OWN_UID)
        assert made.is_success, made.text
        return str(made.json()["id"])


def filled(body: dict[str, Any] | None, organization: str) -> dict[str, Any] | None:
    if body is None:
        return None
    return {name: organization if value == "{org}" else value for name, value in body.items()}


@pytest.fixture
async def api(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> AsyncIterator[Api]:
    async with api_in_process(tmp_path, Signer()) as api:
        yield api


async def test_the_table_knows_every_route(api: Api) -> None:
    """A route that was added or removed fails this test until the table says who may call it."""
    served = {
        f"{method} {rule.rule.replace('<', '{').replace('>', '}')}"
        for rule in api.app.url_map.iter_rules()
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert served == {row.route for row in TABLE}


@pytest.mark.parametrize("every", long([4, 1], lambda every: every == 1))
async def test_every_route_by_every_caller(api: Api, every: int) -> None:
    """Each cell has its status, adds an audit entry or none, and shows nothing of another organization."""
    things = {organization: Things(api, organization) for organization in (A, B)}
    for one in things.values():
        await one.fill()
    asked = 0
    wrong: list[str] = []
    for number, who in enumerate(await callers(api)):
        # A caller without permission is refused before an object is read; the quick run checks a quarter of the routes.
        for row in TABLE if who.always is None else TABLE[number % every :: every]:
            for target in (A, B) if who.always is None else (B,):
                path = await things[target].path(row, anew=who.always is None)
                before = await entries(api)
                method, body = row.route.split()[0], filled(row.body, target)
                answer = await api.ask(method, path, who.credentials, body=body, uid=who.uid)
                asked += 1
                status = expected(row, who, target)
                cell = f"{who.name}: {row.route} of {target}"
                if answer.status_code != status:
                    wrong.append(f"{cell}: {answer.status_code} instead of {status}: {answer.text[:200]}")
                added = await entries(api) - before
                if added != (row.changes and answer.is_success):
                    wrong.append(f"{cell}: {added} entries in the audit log")
                if who.organization == A and B in answer.text:
                    wrong.append(f"{cell}: shows something of {B}")
    assert not wrong, "\n".join(wrong)
    assert asked > (1400 if every == 1 else 900)
    chain = await api.world.journal.transactions.read(audit.verify)
    assert (chain.broken, chain.entries) == (None, await entries(api))


async def entries(api: Api) -> int:
    """Return the number of entries of the audit log."""
    return await api.world.journal.transactions.read(last_number)


def last_number(database: Any) -> int:
    return int(database.execute_sql("SELECT coalesce(max(sequence), 0) FROM audit").fetchone()[0])


async def test_a_route_without_a_role_stops_the_start(api: Api) -> None:
    """The application isn't made while an operation declares no permission, or one below /api/ needs no role."""
    served = all_operations()
    for permission in (None, "read", Permission.NOTHING):
        # What mypy refuses to write may still be computed.
        wrong: Any = dataclasses.replace(served[0], permission=permission)  # type: ignore[arg-type]  # see above
        with pytest.raises(RouteError, match=r"/api/webhooks \(listWebhooks\)"):
            create_app(api.services, [wrong, *served[1:]])


def test_a_route_that_goes_around_the_operations_is_found(api_app: Any) -> None:
    """A route that was added by other means is an error that names it, until its permission is declared."""
    declared = {"served": Permission.READ}
    api_app.add_url_rule("/api/served", "served", lambda: "")
    check_routes(api_app, declared)
    with pytest.raises(RouteError, match=r"/api/served .*would let in callers without a role"):
        check_routes(api_app, {"served": Permission.NOTHING})
    api_app.add_url_rule("/ui/forgotten", "forgotten", lambda: "")
    with pytest.raises(RouteError, match=r"the route /ui/forgotten \(forgotten\) declares no permission"):
        check_routes(api_app, declared)
    with pytest.raises(RouteError, match=r"/ui/forgotten"):
        check_routes(api_app, declared | {"forgotten": "viewer"})


@pytest.fixture
def api_app() -> Any:
    from quart_trio import QuartTrio  # noqa: PLC0415 - for this alone

    return QuartTrio("test", static_folder=None)

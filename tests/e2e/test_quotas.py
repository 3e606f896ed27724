"""What one organization may have: refused beyond its quota at every door, and never taken away."""

import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from click.testing import CliRunner, Result

from tests.e2e.harness import CONFIG, Server, running
from webhookd.cli import program
from webhookd.errors import WebhookdError

HOOK: Mapping[str, object] = {"url": "http://127.0.0.1:9999/", "events": ["*"]}
MOST = 3


def limited(**most: int) -> str:
    keys = "\n".join(f"{key} = {value}" for key, value in most.items())
    return f"{CONFIG}\n[organizations]\n{keys}\n"


def client(server: Server, key: str | None = None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key or server.first_key}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=30)


async def add(api: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> httpx.Response:
    return await api.post(path, json=body)


async def statuses_of(count: int, ask: Callable[[], Any]) -> list[int]:
    """Ask so often at once; return the statuses in order of size."""
    found: list[int] = []

    async def one() -> None:
        found.append((await ask()).status_code)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(one)
    return sorted(found)


KINDS: list[tuple[str, Mapping[str, object], str, str]] = [
    ("/api/webhooks", HOOK, "max_webhooks", "webhooks"),
    ("/api/keys", {"role": "viewer"}, "max_keys", "API keys"),
]


@pytest.mark.parametrize(("path", "body", "key", "what"), KINDS, ids=["webhooks", "keys"])
async def test_no_organization_gets_more_than_its_quota(
    tmp_path: Path, path: str, body: Mapping[str, object], key: str, what: str
) -> None:
    """Of many that are asked for at once as many are made as are allowed, and the refusal says what to do about it.

    What goes makes room, another organization has its own, and what belongs to none is not counted.
    """
    async with running(tmp_path, limited(**{key: MOST})) as server, client(server) as api:
        of_acme = {**body, "organizationId": "acme"}
        statuses = await statuses_of(4 * MOST, partial(add, api, path, of_acme))
        assert statuses == [201] * MOST + [403] * (3 * MOST)
        again = {"idempotency-key": "once"}
        refused = await api.post(path, json=of_acme, headers=again)
        problem = refused.json()
        assert (refused.status_code, problem["code"], problem["title"]) == (403, "QUOTA_EXCEEDED", "Forbidden")
        for said in (f"acme has {MOST} {what}", f"organizations.{key} allows {MOST}", "or have the operator"):
            assert said in problem["detail"]
        assert await statuses_of(2 * MOST, partial(add, api, path, body)) == [201] * (2 * MOST)
        assert await statuses_of(1, partial(add, api, path, {**body, "organizationId": "other"})) == [201]
        listed = (await api.get(path, params={"limit": 100})).json()["data"]
        [first, *_] = [row for row in listed if row["organizationId"] == "acme"]
        assert (await api.delete(f"{path}/{first['id']}")).status_code == 200
        assert (await api.post(path, json=of_acme, headers=again)).status_code == 201, "a refusal isn't kept"
        assert (await add(api, path, of_acme)).status_code == 403


async def test_what_is_there_stays_when_the_limit_is_lowered(tmp_path: Path) -> None:
    """A lower limit removes nothing: what there is can be changed and used, and only more of it is refused."""
    async with running(tmp_path, limited(max_webhooks=MOST, max_keys=MOST)) as server:
        made = [await server.webhook(str(HOOK["url"]), organizationId="acme", isActive=False) for _ in range(MOST)]
        keys = [await server.post("/api/keys", {"role": "admin", "organizationId": "acme"}) for _ in range(MOST)]
        assert await server.stop() == 0
        (tmp_path / "config.toml").write_text(limited(max_webhooks=1, max_keys=1))
        await server.start()
        async with client(server, keys[-1]["key"]) as api:
            for webhook in made:
                changed = await api.patch(f"/api/webhooks/{webhook['id']}", json={"description": "changed"})
                assert (changed.status_code, changed.json()["description"]) == (200, "changed")
            event = await api.post("/api/events", json={"type": "user.created", "data": {}})
            assert event.json()["deliveries"] == MOST
            for path, body, *_ in KINDS:
                assert (await add(api, path, body)).json()["code"] == "QUOTA_EXCEEDED"
            assert (await api.delete(f"/api/webhooks/{made[0]['id']}")).status_code == 200
            assert (await add(api, "/api/webhooks", HOOK)).json()["code"] == "QUOTA_EXCEEDED", "two are left, of one"


async def test_the_dashboard_tells_of_the_quota_on_its_forms(tmp_path: Path) -> None:
    """A form that asks for one too many is shown again, with what was typed and the sentence that the API says."""
    async with running(tmp_path, limited(max_webhooks=1, max_keys=1)) as server:
        key = (await server.post("/api/keys", {"role": "admin", "organizationId": "acme"}))["key"]
        await server.webhook(str(HOOK["url"]), organizationId="acme")
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as browser:
            assert (await browser.post("/sign-in", data={"key": key})).status_code == 303
            csrf = re.findall(r'name="csrf" value="([^"]+)"', (await browser.get("/keys")).text)[0]
            for path, fields, typed in (
                ("/webhooks", {"url": "http://127.0.0.1:9999/typed", "events": "*"}, "127.0.0.1:9999/typed"),
                ("/keys", {"role": "viewer", "name": "typed", "expires": ""}, 'value="typed"'),
            ):
                shown = await browser.post(path, data={"csrf": csrf, **fields})
                assert shown.status_code == 403
                assert "The organization acme has 1" in shown.text
                assert typed in shown.text


def run(server: Server, *arguments: str) -> Result:
    return CliRunner().invoke(program, [*arguments, "--config", str(server.config_file)])


async def test_the_command_line_is_held_to_the_quota(tmp_path: Path) -> None:
    """`webhooks create` and `keys create` say it too, through a server and, for keys, in the journal itself."""
    async with running(tmp_path, limited(max_webhooks=1, max_keys=2)) as server:
        create_webhook = ("webhooks", "create", str(HOOK["url"]), "--events", "*", "--organization", "acme")
        create_key = ("keys", "create", "--role", "viewer", "--organization", "acme", "--json")
        in_thread = trio.to_thread.run_sync
        assert (await in_thread(run, server, *create_webhook)).exit_code == 0
        refused = await in_thread(run, server, *create_webhook)
        assert isinstance(refused.exception, WebhookdError)
        assert "acme has 1 webhooks, and organizations.max_webhooks allows 1" in str(refused.exception)
        assert (await in_thread(run, server, *create_key)).exit_code == 0
        assert await server.stop() == 0
        made = await in_thread(run, server, *create_key)
        assert made.exit_code == 0, made.output
        offline = await in_thread(run, server, *create_key)
        assert isinstance(offline.exception, WebhookdError)
        assert "acme has 2 API keys, and organizations.max_keys allows 2" in str(offline.exception)
        assert (await in_thread(run, server, *create_key[:4])).exit_code == 0, "a key of no organization"
        revoked = await in_thread(run, server, "keys", "revoke", json.loads(made.stdout)["id"])
        assert revoked.exit_code == 0, revoked.output
        assert (await in_thread(run, server, *create_key)).exit_code == 0

"""The quotas of an organization: what exceeds them is refused in every interface, and nothing is removed."""

import json
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio
from click.testing import CliRunner, Result

from tests.admin.raw import Reply, split_replies
from tests.e2e.harness import CONFIG, Server, running
from tests.e2e.posting import connect, stream_head
from tests.patience import PATIENCE_SECONDS
from webhookd.base.errors import WebhookdError
from webhookd.base.models import PublishResult
from webhookd.cli import program
from webhookd.client import Client, Event

HOOK: Mapping[str, object] = {"url": "http://127.0.0.1:9999/", "events": ["*"]}
MOST = 3


def limited(**most: int) -> str:
    keys = "\n".join(f"{key} = {value}" for key, value in most.items())
    return f"{CONFIG}\n[organizations]\n{keys}\n"


def client(server: Server, key: str | None = None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {key or server.first_key}"}
    return httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS)


async def add(api: httpx.AsyncClient, path: str, body: Mapping[str, object]) -> httpx.Response:
    return await api.post(path, json=body)


async def statuses_of(count: int, ask: Callable[[], Any]) -> list[int]:
    """Make `count` requests at the same time; return their statuses, sorted."""
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
    """Of many requests at the same time, only as many succeed as are allowed; the others name the quota.

    A deletion frees a place, other organizations have their own quota, and objects of no organization do not count.
    """
    async with running(tmp_path, limited(**{key: MOST})) as server, client(server) as api:
        of_acme = {**body, "organizationId": "acme"}
        statuses = await statuses_of(4 * MOST, partial(add, api, path, of_acme))
        assert statuses == [201] * MOST + [403] * (3 * MOST)
        again = {"idempotency-key": "once"}
        refused = await api.post(path, json=of_acme, headers=again)
        problem = refused.json()
        assert (refused.status_code, problem["code"], problem["title"]) == (403, "QUOTA_EXCEEDED", "Forbidden")
        for part in (f"acme has {MOST} {what}", f"organizations.{key} allows {MOST}", "or have the operator"):
            assert part in problem["detail"]
        assert await statuses_of(2 * MOST, partial(add, api, path, body)) == [201] * (2 * MOST)
        assert await statuses_of(1, partial(add, api, path, {**body, "organizationId": "other"})) == [201]
        listed = (await api.get(path, params={"limit": 100})).json()["data"]
        [first, *_] = [row for row in listed if row["organizationId"] == "acme"]
        assert (await api.delete(f"{path}/{first['id']}")).status_code == 200
        assert (await api.post(path, json=of_acme, headers=again)).status_code == 201, (
            "a refusal is not stored as the answer of an idempotency key"
        )
        assert (await add(api, path, of_acme)).status_code == 403


async def test_a_lower_quota_removes_nothing(tmp_path: Path) -> None:
    """After a quota is lowered, existing objects can be changed and used, and only new ones are refused."""
    async with running(tmp_path, limited(max_webhooks=MOST, max_keys=MOST)) as server:
        webhooks = [await server.webhook(str(HOOK["url"]), organizationId="acme", isActive=False) for _ in range(MOST)]
        keys = [await server.post("/api/keys", {"role": "admin", "organizationId": "acme"}) for _ in range(MOST)]
        assert await server.stop() == 0
        (tmp_path / "config.toml").write_text(limited(max_webhooks=1, max_keys=1))
        await server.start()
        async with client(server, keys[-1]["key"]) as api:
            for webhook in webhooks:
                changed = await api.patch(f"/api/webhooks/{webhook['id']}", json={"description": "changed"})
                assert (changed.status_code, changed.json()["description"]) == (200, "changed")
            event = await api.post("/api/events", json={"type": "user.created", "data": {}})
            assert event.json()["deliveries"] == MOST
            for path, body, *_ in KINDS:
                assert (await add(api, path, body)).json()["code"] == "QUOTA_EXCEEDED"
            assert (await api.delete(f"/api/webhooks/{webhooks[0]['id']}")).status_code == 200
            assert (await add(api, "/api/webhooks", HOOK)).json()["code"] == "QUOTA_EXCEEDED", (
                "two webhooks are left, and one is allowed"
            )


async def test_the_dashboard_shows_the_quota_in_its_forms(tmp_path: Path) -> None:
    """A form that exceeds a quota is shown again, with the entered values and the message of the API."""
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


async def test_the_command_line_respects_the_quota(tmp_path: Path) -> None:
    """`webhooks create` and `keys create` fail beyond a quota; for keys also without a running server."""
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
        created = await in_thread(run, server, *create_key)
        assert created.exit_code == 0, created.output
        offline = await in_thread(run, server, *create_key)
        assert isinstance(offline.exception, WebhookdError)
        assert "acme has 2 API keys, and organizations.max_keys allows 2" in str(offline.exception)
        assert (await in_thread(run, server, *create_key[:4])).exit_code == 0, "a key of no organization"
        revoked = await in_thread(run, server, "keys", "revoke", json.loads(created.stdout)["id"])
        assert revoked.exit_code == 0, revoked.output
        assert (await in_thread(run, server, *create_key)).exit_code == 0


LINE = b'{"type": "user.created", "data": {}}\n'


async def post_lines(server: Server, key: str, sent: bytes, *, claimed: int) -> list[dict[str, Any]]:
    """Send the beginning of a body of `claimed` bytes of lines; return the results, once the answer is complete."""
    received = b""
    async with await connect(server) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, stream_head(server, key, claimed) + sent)
        with trio.fail_after(PATIENCE_SECONDS):
            replies: list[Reply] = []
            while not replies:
                chunk = await stream.receive_some(65_536)
                assert chunk, f"the connection ended before the answer: {received!r}"
                received += chunk
                replies, _ = split_replies(received)
        nursery.cancel_scope.cancel()
    [reply] = replies
    assert reply.status == 200
    return [json.loads(line) for line in reply.body.splitlines()]


async def test_an_organization_sends_only_so_many_lines_in_one_request(tmp_path: Path) -> None:
    """The first line above the limit gets the error, and the rest of the body is neither read nor waited for.

    Refused lines count, empty ones do not, and there is no limit for a key of no organization.
    """
    async with running(tmp_path, limited(max_events_per_request=5)) as server:
        key = (await server.post("/api/keys", {"role": "ingest", "organizationId": "acme"}))["key"]
        lines = [LINE, b"\n", LINE, b"garbage\n", LINE, b"  \n", LINE, LINE, LINE]
        results = await post_lines(server, key, b"".join(lines), claimed=10_000_000)
        assert [result["ok"] for result in results] == [True, True, False, True, True, False]
        assert results[-1]["error"]["code"] == "QUOTA_EXCEEDED"
        assert "5 events in one request (organizations.max_events_per_request)" in results[-1]["error"]["message"]
        exact = LINE * 5
        assert [one["ok"] for one in await post_lines(server, key, exact, claimed=len(exact))] == [True] * 5
        unlimited = LINE * 50
        assert len(await post_lines(server, server.first_key, unlimited, claimed=len(unlimited))) == 50
        stored = await server.get("/api/events?limit=100")
        assert len(stored["data"]) == 4 + 5 + 50


async def test_the_answer_arrives_before_the_rest_of_a_large_body(tmp_path: Path) -> None:
    """A client that sends megabytes beyond the limit gets all its results."""
    async with running(tmp_path, limited(max_events_per_request=1000)) as server:
        key = (await server.post("/api/keys", {"role": "ingest", "organizationId": "acme"}))["key"]
        line = json.dumps({"type": "user.created", "data": {"pad": "x" * 1000}}).encode() + b"\n"
        body = line * 8000
        received = b""
        async with await connect(server) as stream, trio.open_nursery() as nursery:

            async def send() -> None:
                with suppress(trio.BrokenResourceError):  # the server may close the connection after its answer
                    await stream.send_all(stream_head(server, key, len(body)) + body)

            nursery.start_soon(send)
            with trio.fail_after(60), suppress(trio.BrokenResourceError):
                while chunk := await stream.receive_some(65_536):
                    received += chunk
            nursery.cancel_scope.cancel()
        [reply], _ = split_replies(received)
        results = [json.loads(one) for one in reply.body.splitlines()]
        assert [one["ok"] for one in results] == [True] * 1000 + [False]


async def test_the_client_sends_events_above_the_limit_in_another_request(tmp_path: Path) -> None:
    """The client submits every event, even if one request holds more than its organization may send at once."""
    async with running(tmp_path, limited(max_events_per_request=20)) as server:
        key = (await server.post("/api/keys", {"role": "ingest", "organizationId": "acme"}))["key"]

        def send() -> int:
            with Client(server.url, key=key, timeout=60) as client:
                events = (Event(type="user.created", data={"number": number}) for number in range(70))
                return sum(isinstance(result, PublishResult) for result in client.send_many(events))

        assert await trio.to_thread.run_sync(send) == 70

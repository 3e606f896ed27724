"""No secret leaks: everything that a real server writes or answers is searched for planted secrets."""

import base64
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import apsw
import httpx
import pytest
import trio

from tests.e2e.canaries import Canaries, spellings
from tests.e2e.harness import CONFIG, PROGRAM, Server, running
from tests.forked import run_soon
from tests.journal.harness import CLOCK
from tests.journal.harness import running as journal_of
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, Reply, in_turn
from webhookd.admin.app import all_operations
from webhookd.client import Client
from webhookd.config import load_config
from webhookd.crypto.key_file import create_master_key, format_master_key, load_master_key
from webhookd.delivery.signing import generate_secret
from webhookd.jobs.key_rotation import unlock
from webhookd.journal.queries import endpoints

DEBUG = CONFIG + '[log]\nlevel = "debug"\nformat = "json"\n'
PROXY_PASSWORD = "canary-of-the-proxy-7f3a"
HEADER_VALUE = "canary-of-a-header/+%-77aa"
JOURNAL = ("webhookd.db", "webhookd.db-wal", "webhookd.db-shm")
KEY_FILES = frozenset({"master.key", "config.toml", "given.key"})


class Asker:
    """Sends requests to the API and collects each complete answer."""

    def __init__(self, client: httpx.AsyncClient, canaries: Canaries, who: str) -> None:
        self._client = client
        self._canaries = canaries
        self._who = who

    async def ask(self, method: str, path: str, *, shows: str | None = None, **options: Any) -> httpx.Response:
        answer = await self._client.request(method, path, **options)
        head = "".join(f"{name}: {value}\n" for name, value in answer.headers.items())
        where = f"the answer to {self._who}'s {method} {path}, {answer.status_code}"
        self._canaries.collect(where, head.encode() + answer.content, shows)
        return answer

    async def create(self, path: str, body: Mapping[str, object], shows: str, **options: Any) -> dict[str, Any]:
        """Create an object whose answer shows a secret, and search for that secret from then on."""
        answer = await self.ask("POST", path, json=body, shows=shows, **options)
        assert answer.status_code in {200, 201}, answer.text
        created: dict[str, Any] = answer.json()
        self._canaries.plant(shows, created.get("secret") or created["key"])
        return created


async def call_every_route(asker: Asker, ids: Mapping[str, str]) -> None:
    """Call every operation except those that delete: without a body, with a malformed one, and for unknown ids."""
    for operation in all_operations():
        if operation.method == "DELETE" or operation.name == "rotateMasterKey":
            continue
        for known in (ids, dict.fromkeys(ids, "none")):
            path = operation.path.format_map(known)
            await asker.ask(operation.method, path)
            if operation.method != "GET":
                await asker.ask(operation.method, path, json={})
                await asker.ask(
                    operation.method, path, content=b"{nonsense", headers={"content-type": "application/json"}
                )


async def send_refused_secrets(asker: Asker, canaries: Canaries, webhook: str) -> None:
    """Send secrets in wrong fields or forms: the refusal must not repeat them."""
    secret = generate_secret()
    canaries.plant("a refused secret", secret)
    value = "canary-of-a-refused-header"
    canaries.plant("a refused header", value)
    url = {"url": "http://127.0.0.1:10001/", "events": ["*"]}
    for body in (
        {**url, "secret": secret[:-3]},
        {**url, "secret": [secret]},
        {**url, "secret": secret.removeprefix("whsec_")},
        {**url, "secert": secret},
        {**url, "headers": value},
        {**url, "headers": {"X-Token": [value]}},
        {**url, "headers": {"X-Token": f"{value}\r\nX: y"}},
        {**url, "headers": {"Host": value}},
        {**url, "url": f"http://user:{value}@127.0.0.1:10001/"},
        {**url, "metadata": {"a": {"b": value}}},
        {"secret": secret},
    ):
        answer = await asker.ask("POST", "/api/webhooks", json=body)
        assert answer.status_code == 400, (body, answer.text)
        await asker.ask("PATCH", f"/api/webhooks/{webhook}", json=body)
    rotation = await asker.ask("POST", f"/api/webhooks/{webhook}/rotate-secret", json={"secret": secret + "A"})
    assert rotation.status_code == 400


async def use(server: Server, canaries: Canaries, receiver: Receiver) -> dict[str, str]:
    """Use a server in every way, with errors; return the ids of the created objects."""
    key = canaries.secrets["first key"].decode()
    headers = {"authorization": f"Bearer {key}"}
    control = httpx.AsyncHTTPTransport(uds=str(server.directory / "control.sock"))
    async with (
        httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS) as over_tcp,
        httpx.AsyncClient(base_url="http://localhost", transport=control, timeout=PATIENCE_SECONDS) as over_control,
    ):
        admin, local = Asker(over_tcp, canaries, "an admin"), Asker(over_control, canaries, "the local admin")
        wanted = {"url": receiver.url, "events": ["*"], "headers": {"X-Token": HEADER_VALUE}}
        imported = generate_secret()
        asked = {**wanted, "secret": imported, "signature": {"ed25519": True}}
        webhook = await admin.create("/api/webhooks", asked, "webhook secret")
        assert webhook["secret"] == imported
        again = {"idempotency-key": "canary"}
        await local.create("/api/webhooks", wanted, "kept secret", headers=again)
        replayed = await local.ask("POST", "/api/webhooks", json=wanted, headers=again, shows="kept secret")
        assert replayed.headers["idempotency-replayed"] == "true"
        await local.ask("POST", "/api/webhooks", json={**wanted, "description": "x"}, headers=again)
        viewer_key = await admin.create("/api/keys", {"role": "viewer"}, "viewer key", headers=again)
        revoked = await local.create("/api/keys", {"role": "operator"}, "revoked key")
        await admin.ask("DELETE", f"/api/keys/{revoked['id']}")
        with Client(server.socket) as producer:
            for number in range(5):
                producer.send("user.created", {"n": number}, id=f"{os.getpid()}-{number}")
        await server.settled(webhook["id"])
        path = f"/api/webhooks/{webhook['id']}"
        await admin.create(f"{path}/rotate-secret", {}, "rotated secret")
        await local.create(f"{path}/rotate-secret", {"secret": generate_secret()}, "rotated again")
        await admin.ask("PATCH", path, json={"headers": {"X-Other": HEADER_VALUE[::-1]}})
        [delivery, *_] = (await admin.ask("GET", f"{path}/deliveries")).json()["data"]
        since = {"since": webhook["createdAt"]}
        replay = await admin.ask("POST", f"{path}/replay", json=since)
        ids = {
            "webhookId": webhook["id"],
            "deliveryId": delivery["id"],
            "eventId": delivery["eventId"],
            "keyId": viewer_key["id"],
            "name": "user.created",
            "replayId": replay.json()["id"],
        }
        await call_every_route(admin, ids)
        await call_every_route(local, ids)
        viewer = {"authorization": f"Bearer {viewer_key['key']}"}
        async with httpx.AsyncClient(base_url=server.url, headers=viewer, trust_env=False) as client:
            await call_every_route(Asker(client, canaries, "a viewer"), ids)
        for wrong in (key[:-1], revoked["key"], f"x{key}", f"{key}, {key}", f"{key}\tü".encode()):
            value = wrong if isinstance(wrong, bytes) else wrong.encode()
            answer = await admin.ask("GET", "/api/webhooks", headers={"authorization": b"Bearer " + value})
            assert answer.status_code == 401
        await send_refused_secrets(admin, canaries, webhook["id"])
        await send_refused_secrets(local, canaries, webhook["id"])
        for _ in range(2):
            given = create_master_key(server.directory / "given.key")
            text = format_master_key(given)
            canaries.plant("given master key", given.reveal())
            for body in ({"newKey": text[:-2]}, {"newKey": [text]}, {"newkey": text}):
                assert (await local.ask("POST", "/api/master-key/rotate", json=body)).status_code == 400
            assert (await local.ask("POST", "/api/master-key/rotate", json={"newKey": text})).status_code == 202
            while (await local.ask("GET", "/api/master-key")).json()["stage"] != "settled":
                await trio.sleep(0.02)
            (server.directory / "given.key").unlink()
        await admin.ask("GET", "/metrics")
        await server.settled(webhook["id"])
        return ids


def tamper(directory: Path, webhook: str) -> None:
    """Overwrite a webhook's sealed headers with a sealed secret, as an attacker with the file but no key could."""
    connection = apsw.Connection(str(directory / "webhookd.db"))
    connection.execute(
        "UPDATE secrets SET sealed = (SELECT sealed FROM secrets WHERE kind = 'current' LIMIT 1) "
        "WHERE kind = 'headers' AND endpoint_pk = (SELECT pk FROM endpoints WHERE id = ?)",
        (webhook,),
    )
    connection.close()


async def crash(server: Server, canaries: Canaries, ids: Mapping[str, str]) -> None:
    """Make a task and a request crash in the server, with their tracebacks in the log."""
    transport = httpx.AsyncHTTPTransport(uds=str(server.directory / "control.sock"))
    async with httpx.AsyncClient(base_url="http://localhost", transport=transport, timeout=PATIENCE_SECONDS) as client:
        local = Asker(client, canaries, "the local admin")
        with Client(server.socket) as producer:
            producer.send("user.created", {}, id="crash")
        path = f"/api/webhooks/{ids['webhookId']}"
        failed = await local.ask("PATCH", path, json={"headers": {"X-New": HEADER_VALUE}})
        assert failed.status_code == 500
        assert (await local.ask("POST", f"{path}/test", json={})).status_code == 500
        with trio.fail_after(PATIENCE_SECONDS):
            # One endpoint crashes; the other fails, because its proxy does not run. The log is written a little later.
            while not all(text in server.log() for text in ("request_failed", "task.crashed", '"error":"connect"')):
                await trio.sleep(0.02)
        for log in ("http.request_failed", "task.crashed"):
            [line, *_] = [line for line in server.log().splitlines() if f'"{log}"' in line]
            assert "Traceback" in line


async def private_key(directory: Path, webhook: str) -> str:
    """Read a webhook's ed25519 private key, which no answer ever shows, from the journal of a stopped server."""
    config = load_config(directory / "config.toml", {})
    async with journal_of(directory / "webhookd.db") as journal:
        rotator = await unlock(journal, config, {})
        endpoint = await journal.transactions.read(endpoints.get, webhook)
        opened = await journal.transactions.read(endpoints.credentials, rotator.vault, endpoint.pk, CLOCK.now())
    assert opened is not None
    assert opened.ed25519_secret is not None
    return opened.ed25519_secret.reveal()


async def test_no_planted_secret_leaks(tmp_path: Path) -> None:
    """No secret is in debug logs, tracebacks, the journal, its WAL, or any answer but the one that shows it."""
    canaries = Canaries()
    create_master_key(tmp_path / "master.key")
    canaries.plant("first master key", load_master_key(tmp_path / "master.key").reveal())
    canaries.plant("header value", HEADER_VALUE)
    canaries.plant("changed header value", HEADER_VALUE[::-1])
    async with running(tmp_path, DEBUG) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(in_turn(Reply(status=500), Reply())).run)
        canaries.plant("first key", server.first_key)
        ids = await use(server, canaries, receiver)
        assert {*JOURNAL, "webhookd.db.lock", "log"} <= set(canaries.collect_files(tmp_path, except_for=KEY_FILES))
        await server.kill()
        canaries.collect_files(tmp_path, except_for=KEY_FILES)
        canaries.plant("ed25519 key", await private_key(tmp_path, ids["webhookId"]))
        tamper(tmp_path, ids["webhookId"])
        proxy = f'proxy = "http://canary:{PROXY_PASSWORD}@127.0.0.1:10002"\n'
        server.config_file.write_text(DEBUG.replace("[egress]\n", f"[egress]\n{proxy}"))
        canaries.plant("proxy password", PROXY_PASSWORD)
        await server.start()
        await crash(server, canaries, ids)
        assert await server.stop() == 0
        canaries.collect_files(tmp_path, except_for=KEY_FILES)
        nursery.cancel_scope.cancel()
    shown = await run_soon([*PROGRAM, "check-config", "--config", str(tmp_path / "config.toml")])
    assert shown.returncode == 0
    canaries.collect("check-config", shown.stdout.encode())
    canaries.plant("master key", load_master_key(tmp_path / "master.key").reveal())
    assert len(canaries.secrets) > 20
    assert len(canaries.outputs) > 300
    # The receiver got the value, so it was really in use.
    received = b"".join(f"{value}\n".encode() for request in receiver.requests for value in request.headers.values())
    assert HEADER_VALUE.encode() in received
    assert canaries.found() == []


@pytest.mark.parametrize("spelling", range(8))
def test_the_search_finds_a_leak(tmp_path: Path, spelling: int) -> None:
    """A secret in a file is found in every encoding, whole or cut off, and is allowed in the answer that shows it."""
    secret = generate_secret()
    key = base64.b64decode(secret.removeprefix("whsec_"))
    spelled = [
        secret.encode(),
        key,
        key.hex().encode(),
        base64.b64encode(b"xy" + secret.encode() + b"z"),
        base64.urlsafe_b64encode(b"x" + key + b"yz"),
        str(httpx.QueryParams({"q": secret})).encode(),
        secret.encode()[:30],
        repr(key).encode(),
    ][spelling]
    canaries = Canaries()
    canaries.plant("planted", secret)
    canaries.collect_files(tmp_path)
    (tmp_path / "log").write_bytes(b"before " + bytes(100) + b"after")
    canaries.collect_files(tmp_path)
    assert canaries.found() == []
    (tmp_path / "log").write_bytes(b"before " + spelled + b" after")
    canaries.collect_files(tmp_path)
    assert {place.partition(" in ")[2] for place in canaries.found()} == {"file log"}
    showing = Canaries(secrets=dict(canaries.secrets))
    showing.collect("the answer that shows it", spelled, shows="planted")
    assert showing.found() == []
    assert len(spellings(secret.encode())) > 10

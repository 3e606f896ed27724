"""The rotation of a real server's master key, also with a key from the service manager and with kills."""

import os
import random
import shutil
from pathlib import Path

import httpx
import standardwebhooks
import trio

from tests.e2e.harness import PROGRAM, Server, running
from tests.forked import run_soon
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver
from webhookd.client import Client
from webhookd.crypto.key_file import CREDENTIALS_DIRECTORY, create_master_key, load_master_key
from webhookd.crypto.vault import key_id

KILLS = 3
WEBHOOKS = 40
SEED = 20_260_301


async def command(directory: Path, *arguments: object, environ: dict[str, str] | None = None) -> tuple[int, str, str]:
    """Run `webhookd` with the configuration in a directory; return its status, stdout and stderr."""
    command = [*PROGRAM, *map(str, arguments), "--config", str(directory / "config.toml")]
    result = await run_soon(command, env=os.environ | (environ or {}))
    return result.returncode, result.stdout, result.stderr


async def settle(server: Server) -> str:
    """Wait until no rotation is in progress; return the id of the current master key."""
    with trio.fail_after(PATIENCE_SECONDS):
        while (progress := await server.get("/api/master-key"))["stage"] != "settled":
            await trio.sleep(0.02)
    return str(progress["keyId"])


async def test_a_rotation_is_completed_after_a_kill(tmp_path: Path) -> None:
    """A server that is killed during rotations starts with its key file, completes them, and keeps its secrets."""
    chance = random.Random(SEED)  # noqa: S311 - not for security
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        webhooks = [await server.webhook(receiver.url, isActive=False) for _ in range(WEBHOOKS - 1)]
        webhooks.append(await server.webhook(receiver.url))
        seen = {await settle(server)}
        for _ in range(KILLS):
            progress = await server.post("/api/master-key/rotate", {})
            await trio.sleep(chance.random() * 0.03)
            await server.kill()
            key = load_master_key(tmp_path / "master.key")
            await server.start()
            seen.add(await settle(server))
            # The answer means that the rotation is committed, so its key must become the current one.
            assert progress["keyId"] in seen
            assert key_id(key).hex() in seen
        assert len(seen) == KILLS + 1
        assert key_id(load_master_key(tmp_path / "master.key")).hex() == await settle(server)
        with Client(server.socket) as producer:
            producer.send("user.created", {}, id="e")
        await receiver.wait_for(1)
        standardwebhooks.Webhook(webhooks[-1]["secret"]).verify(receiver.requests[0].body, receiver.requests[0].headers)
        for webhook in webhooks[:5]:
            await server.post(f"/api/webhooks/{webhook['id']}/test", {})
        assert len(receiver.requests) == 6
        assert await server.stop() == 0
        assert "Traceback" not in server.log()
        nursery.cancel_scope.cancel()


async def test_the_command_rotates_with_and_without_a_server(tmp_path: Path) -> None:
    """`rotate-master-key` writes the new key file and prints its id; an invalid key is status 2 and changes nothing."""
    path = tmp_path / "master.key"
    async with running(tmp_path) as server:
        await server.webhook("http://127.0.0.1:10001/")
        before = load_master_key(path)
        status, output, _ = await command(tmp_path, "rotate-master-key")
        during = load_master_key(path)
        assert (status, during != before) == (0, True)
        assert output.startswith(f"master key {key_id(during).hex()}: 1 values encrypted again\n")
        given = create_master_key(tmp_path / "given.key")
        status, _, _ = await command(tmp_path, "rotate-master-key", "--new-key-file", tmp_path / "given.key")
        assert (status, load_master_key(path)) == (0, given)
        status, _, error = await command(tmp_path, "rotate-master-key", "--new-key-file", tmp_path / "given.key")
        assert (status, error) == (1, "webhookd: this master key is the one in force; give another one\n")
        assert (await server.stop()) == 0
    status, output, _ = await command(tmp_path, "rotate-master-key")
    assert status == 0
    assert output == (
        f"master key {key_id(load_master_key(path)).hex()}: 1 values encrypted again\n"
        "the new key is in place; earlier copies of the journal still need the old one\n"
    )
    assert load_master_key(path) not in [before, during, given]
    (tmp_path / "bad.key").write_text("secret-nonsense")
    (tmp_path / "bad.key").chmod(0o600)
    status, _, error = await command(tmp_path, "rotate-master-key", "--new-key-file", tmp_path / "bad.key")
    assert status == 2
    assert "bad.key isn't base64 of 32 bytes" in error
    assert "secret-nonsense" not in error


async def test_the_master_key_can_be_a_credential_of_the_service_manager(tmp_path: Path) -> None:
    """With a key in $CREDENTIALS_DIRECTORY, a rotation ends when the operator has installed the new key."""
    credentials = tmp_path / "credentials"
    create_master_key(credentials / "webhookd-master-key")
    environ = {CREDENTIALS_DIRECTORY: str(credentials)}
    home = tmp_path / "home"
    home.mkdir()
    async with running(home, environ=environ) as server:
        webhook = await server.webhook("http://127.0.0.1:10001/")
        assert not (home / "master.key").exists()
        status, _, error = await command(home, "rotate-master-key")
        assert status == 1
        assert "--new-key-file" in error
        create_master_key(tmp_path / "new.key")
        status, output, _ = await command(home, "rotate-master-key", "--new-key-file", tmp_path / "new.key")
        assert status == 0
        assert "to do: everything is sealed with the new master key, but the credential webhookd-master-key" in output
        await server.stop()
        await server.start()  # still with the old credential
        assert (await server.get("/api/master-key"))["stage"] == "to_be_installed"
        await server.stop()
        shutil.copy(tmp_path / "new.key", credentials / "webhookd-master-key")
        await server.start()
        assert await settle(server) == key_id(load_master_key(tmp_path / "new.key")).hex()
        await server.post(f"/api/webhooks/{webhook['id']}/test", {})
        await server.stop()
    status, _, error = await command(home, "serve")
    assert status == 2
    for part in ("is missing", str(home / "master.key"), "LoadCredential=webhookd-master-key:FILE"):
        assert part in error
    assert error.count("\n") == 1
    create_master_key(home / "master.key")
    status, _, error = await command(home, "serve")
    assert (status, "isn't the one this journal was made with" in error) == (2, True)


async def test_only_the_control_socket_may_rotate_the_master_key(tmp_path: Path) -> None:
    """Over TCP even an admin key is refused; over the control socket an invalid body is refused with its field."""
    async with running(tmp_path) as server:
        headers = {"authorization": f"Bearer {server.first_key}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False) as client:
            for answer in (await client.post("/api/master-key/rotate", json={}), await client.get("/api/master-key")):
                assert (answer.status_code, answer.json()["code"]) == (403, "FORBIDDEN")
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "control.sock"))
        async with httpx.AsyncClient(base_url="http://localhost", transport=transport) as client:
            shared = await client.get("/api/master-key", headers=headers)  # with a key, the key's rights apply
            assert shared.status_code == 403
            for body, pointer in (({"newKey": "QUJD"}, "/newKey"), ({"newKey": 1}, "/newKey"), ({"key": "x"}, "/key")):
                refused = await client.post("/api/master-key/rotate", json=body)
                assert (refused.status_code, refused.json()["errors"][0]["pointer"]) == (400, pointer)
                assert "QUJD" not in refused.text
            begun = await client.post("/api/master-key/rotate")
            assert (begun.status_code, begun.headers["location"]) == (202, "/api/master-key")
        assert await server.stop() == 0

"""Two server processes on one PostgreSQL: the change of their master key, and a browser that asks both."""

import re
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import standardwebhooks
import trio

from tests.e2e.harness import Server, running, submit
from tests.e2e.test_master_key import command, settle
from tests.e2e.three_nodes import config_of
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver
from webhookd.crypto.key_file import create_master_key, load_master_key
from webhookd.crypto.vault import key_id

OFTEN_SECONDS = 0.05
ENOUGH = 8  # webhooks that each node makes while the key is changed


@asynccontextmanager
async def two(directory: Path, url: str) -> AsyncIterator[tuple[Server, Server]]:
    """Run two nodes during the block, each with a file of the same master key in its own directory."""
    async with AsyncExitStack() as stack:
        homes = [directory / name for name in ("node-1", "node-2")]
        nodes: list[Server] = []
        for home in homes:
            home.mkdir()
            if nodes:
                shutil.copy(homes[0] / "master.key", home)
            nodes.append(await stack.enter_async_context(running(home, config_of(url, home, home.name))))
        one, other = nodes
        yield one, other


async def test_the_master_key_is_changed_while_both_nodes_seal(tmp_path: Path, empty_database: str) -> None:
    """Each needs the file of the new key first; all secrets made meanwhile sign, opened by the new key alone."""
    new_file = tmp_path / "new.key"
    new = create_master_key(new_file)
    with trio.fail_after(4 * PATIENCE_SECONDS):
        async with trio.open_nursery() as nursery:
            receiver = await nursery.start(Receiver().run)
            secrets: dict[str, str] = {}
            async with two(tmp_path, empty_database) as (one, other):
                shutil.copy(one.directory / "master.key", tmp_path / "old.key")
                is_over = False

                async def seal_on(node: Server) -> None:
                    while not is_over:
                        path = f"/{node.directory.name}/{len(secrets)}"
                        secrets[path] = (await node.webhook(receiver.url + path))["secret"]

                async with trio.open_nursery() as load:
                    for node in (one, other):
                        load.start_soon(seal_on, node)
                    change = partial(command, other.directory, "rotate-master-key", "--new-key-file", new_file)
                    status, _, error = await change()
                    assert (status, "is not in the files of node-1" in error) == (1, True), error
                    shutil.copy(new_file, one.directory / "master.key.new")
                    while (status := (done := await change())[0]) == 1:
                        await trio.sleep(OFTEN_SECONDS)
                    assert status == 0, done
                    assert done[1].startswith(f"master key {key_id(new).hex()}: ")
                    assert "the new key is in place" in done[1]
                    before = len(secrets)
                    while len(secrets) < before + 2 * ENOUGH:
                        await trio.sleep(OFTEN_SECONDS)
                    is_over = True
                for node in (one, other):
                    assert await settle(node) == key_id(new).hex()
                    assert load_master_key(node.directory / "master.key") == new
                    assert not (node.directory / "master.key.new").exists()
                for node in (one, other):
                    assert await node.stop() == 0
                    assert "Traceback" not in node.log()
                shutil.copy(tmp_path / "old.key", other.directory / "master.key")
                status, _, error = await command(other.directory, "serve")
                assert (status, "isn't the one this journal was made with" in error) == (2, True), error
                await one.start()
                [result] = await trio.to_thread.run_sync(
                    partial(submit, one.socket, [{"type": "user.created", "id": "e", "data": {}}])
                )
                assert result["deliveries"] == len(secrets)
                await receiver.wait_for(len(secrets))
            assert {request.path for request in receiver.requests} == set(secrets)
            for request in receiver.requests:
                standardwebhooks.Webhook(secrets[request.path]).verify(request.body, request.headers)
            nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_a_node_that_comes_back_without_the_new_key_ends(tmp_path: Path, empty_database: str) -> None:
    """It stood while the key was changed without it: it exits with status 2 and says which key it needs."""
    with trio.fail_after(4 * PATIENCE_SECONDS):
        async with two(tmp_path, empty_database) as (one, other):
            assert other.process is not None
            other.process.send_signal(signal.SIGSTOP)
            while len((await one.get("/api/nodes"))["nodes"]) > 1:
                await trio.sleep(OFTEN_SECONDS)
            status, output, _ = await command(one.directory, "rotate-master-key")
            assert status == 0
            new_id = key_id(load_master_key(one.directory / "master.key")).hex()
            assert output.startswith(f"master key {new_id}: ")
            other.process.send_signal(signal.SIGCONT)
            assert await other.ended() == 2
            assert f"the master key was changed to {new_id} at another node" in other.log()


async def test_a_browser_asks_both_nodes(tmp_path: Path, empty_database: str) -> None:
    """Its session holds at both, also a form of the other one's page; once it signs out at one it is out at both."""
    with trio.fail_after(2 * PATIENCE_SECONDS):
        async with two(tmp_path, empty_database) as (one, other):
            cookies: dict[str, str] = {}

            async def ask(node: Server, method: str, path: str, **fields: str) -> httpx.Response:
                headers = {"origin": node.url, "cookie": "; ".join(f"{name}={text}" for name, text in cookies.items())}
                async with httpx.AsyncClient(base_url=node.url, trust_env=False, timeout=PATIENCE_SECONDS) as client:
                    return await client.request(method, path, data=fields, headers=headers)

            signed_in = await ask(one, "POST", "/sign-in", key=one.first_key)
            assert signed_in.status_code == 303
            cookies.update(signed_in.cookies)
            page = await ask(other, "GET", "/")
            assert page.status_code == 200
            found = re.search(r'name="csrf" value="([^"]+)"', page.text)
            assert found is not None
            assert (await ask(one, "GET", "/webhooks")).status_code == 200
            assert (await ask(one, "POST", "/sign-out", csrf=found[1])).status_code == 303
            for node in (one, other):
                assert (await ask(node, "GET", "/")).headers["location"] == "/sign-in"
                assert await node.stop() == 0
                assert "Traceback" not in node.log()

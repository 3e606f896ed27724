"""A server makes no blocking calls on its event loop, whatever it is used for."""

import base64
import json
import os
import re
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import httpx
import pytest
import trio

from tests.admin.inprocess import AUDIENCE, ISSUER
from tests.e2e.harness import CONFIG, Server
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver, steps
from webhookd.client import Client

ALLOWED = MappingProxyType(
    {
        "os.stat webhookd.sockets.unix._identity": "checks the owner of a socket at the stop, when nothing is served",
        "os.remove webhookd.sockets.unix.UnixListener.close": "removes a socket at the stop, as above",
        "os.truncate webhookd.observe.loop_watch._Tracer.take": "a file in memory, after the loop was blocked",
    }
)
PAGES = ("/", "/webhooks", "/keys", "/audit", "/statistics", "/events", "/event-types", "/live?span=hour")
API = ("openapi.json", "webhooks", "keys", "audit", "stats", "event-types", "attempts", "events")


async def use_api(server: Server, client: httpx.AsyncClient, webhook: dict[str, Any]) -> None:
    """Request each list, and make each kind of change."""
    for path in ("/healthz", "/readyz", "/metrics", *(f"/api/{name}" for name in API)):
        assert (await client.get(path)).status_code in {200, 405}, path
    one = {"type": "user.created", "data": {}}
    assert (await client.post("/api/events", json=one)).status_code == 202
    lines = json.dumps(one).encode() + b"\n"
    typed = {"content-type": "application/x-ndjson"}
    assert (await client.post("/api/events", content=lines * 50, headers=typed)).status_code == 200
    path = f"/api/webhooks/{webhook['id']}"
    [delivery, *_] = (await client.get(f"{path}/deliveries")).json()["data"]
    assert (await client.get(f"/api/webhooks/deliveries/{delivery['id']}")).status_code == 200
    again = await client.post(f"/api/webhooks/deliveries/{delivery['id']}/retry", json={"force": True})
    assert again.status_code in {200, 202, 409}
    for target, body in (
        (f"{path}/test", {}),
        (f"{path}/replay", {"since": "2020-01-01T00:00:00Z"}),
        (f"{path}/recover", {"since": "2020-01-01T00:00:00Z"}),
        (f"{path}/secret/rotate", {}),
        ("/api/keys", {"role": "viewer"}),
    ):
        assert (await client.post(target, json=body)).status_code < 500, target
    assert (await client.patch(path, json={"description": "x"})).status_code == 200


async def use_dashboard(server: Server, key: str, webhook: dict[str, Any]) -> None:
    """Sign in, load each page with its static files, and follow a live page for a moment."""
    async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=PATIENCE_SECONDS) as client:
        signed_in = await client.post("/sign-in", data={"key": key}, headers={"origin": server.url})
        assert signed_in.headers["location"] == "/"
        for path in (*PAGES[:-1], f"/webhooks/{webhook['id']}"):
            page = await client.get(path)
            assert page.status_code == 200, path
            for address in set(re.findall(r'(?:src|href)="(/static[^"]*)"', page.text)):
                assert (await client.get(address)).status_code == 200
        headers = {"accept": "text/event-stream"}
        with trio.CancelScope() as watching:
            async with client.stream("GET", PAGES[-1], headers=headers) as live:
                async for text in live.aiter_text():
                    assert text
                    watching.cancel()
        assert watching.cancelled_caught


async def change_machine(server: Server, directory: Path) -> None:
    """Make a backup, rotate the master key, and have the configuration checked."""
    await server.post("/api/backup", {"file": str(directory / "copy.db")})
    new_key = base64.b64encode(os.urandom(32)).decode()
    await server.post("/api/master-key/rotate", {"newKey": new_key})
    with trio.fail_after(PATIENCE_SECONDS):
        while (await server.get("/api/backup"))["stage"] != "done":
            await trio.sleep(0.05)
        while (await server.get("/api/master-key"))["stage"] != "settled":
            await trio.sleep(0.05)
    assert server.process is not None
    server.process.send_signal(signal.SIGHUP)
    with trio.fail_after(PATIENCE_SECONDS):
        while "config.checked" not in server.log():
            await trio.sleep(0.05)


async def use_everything(directory: Path) -> dict[str, int]:
    """Use every part of a server; return the blocking calls on its event loop, with their counts."""
    report, secret = directory / "report", directory / "secret"
    secret.write_bytes(os.urandom(32).hex().encode())
    secret.chmod(0o600)
    jwt = f"[jwt]\nsecret_file = '{secret}'\nissuer = '{ISSUER}'\naudience = '{AUDIENCE}'\n"
    server = Server(directory, CONFIG + jwt)
    async with trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(steps("500,200")).run)
        await server.start([sys.executable, "-m", "tests.onloop", str(report)])
        webhook = await server.webhook(receiver.url)
        named = await server.webhook(receiver.url.replace("127.0.0.1", "localhost"), signature={"ed25519": True})
        with Client(server.socket) as producer:
            for number in range(20):
                await trio.to_thread.run_sync(partial(producer.send, "user.created", {}, id=f"e{number}"))
        for each in (webhook, named):
            await server.settled(each["id"])
        headers = {"authorization": f"Bearer {server.first_key}"}
        async with httpx.AsyncClient(
            base_url=server.url, headers=headers, trust_env=False, timeout=PATIENCE_SECONDS
        ) as client:
            await use_api(server, client, webhook)
            secret.write_bytes(os.urandom(32).hex().encode())
            with trio.fail_after(PATIENCE_SECONDS):
                while "jwt.keys_read" not in server.log():
                    await trio.sleep(0.05)
        await use_dashboard(server, server.first_key, webhook)
        await change_machine(server, directory)
        assert await server.stop() == 0
        nursery.cancel_scope.cancel()
    calls: dict[str, int] = json.loads(report.read_text())
    return calls


async def test_no_blocking_call_is_made_on_the_event_loop(tmp_path: Path) -> None:
    """Files, name lookups, processes and sleep are used in threads only, except for the allowed calls."""
    calls = await use_everything(tmp_path)
    assert set(calls) - set(ALLOWED) == set()


@pytest.mark.parametrize("call", ["os.stat(path)", "open(path).close()", "socket.getaddrinfo('localhost', 1)"])
def test_the_listener_counts_each_kind_of_call(tmp_path: Path, call: str) -> None:
    """A blocking call in the loop's thread is counted with its place, one in another thread is not."""
    code = f"""
import os, socket, sys, threading
from tests.onloop import Listener
listener = Listener()
listener.listen()
path = {str(tmp_path / "file")!r}
def call():
    {call}
call()  # its imports must not count
listener.is_armed = True
call()
thread = threading.Thread(target=call)
thread.start()
thread.join()
listener.is_armed = False
print(sum(listener.calls.values()), *listener.calls)
"""
    (tmp_path / "file").touch()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.startswith("1 ")
    assert output.endswith("__main__.call\n")

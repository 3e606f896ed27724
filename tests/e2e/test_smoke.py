"""A quick check of every part of an installation, which `python -m tests.versions --quick` runs."""

import json
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import trio

from tests.e2e.harness import running
from tests.receiver import Receiver, always
from webhookd.client import Client
from webhookd.verify import verify

LINES = 40


async def test_an_installation_works(tmp_path: Path) -> None:
    """Events by socket, JSON and NDJSON are delivered and verify; API and dashboard work; the exit status is 0."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver: Receiver = await nursery.start(Receiver(always()).run)
        headers = {"authorization": f"Bearer {server.first_key}"}
        async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
            wanted = {"url": receiver.url, "events": ["user.*"], "description": "smoke"}
            created = await client.post("/api/webhooks", json=wanted)
            assert created.status_code == 201, created.text
            with Client(server.socket) as producer:
                await trio.to_thread.run_sync(lambda: producer.send("user.created", {"by": "socket"}, id="socket"))
            event = {"type": "user.created", "data": {"by": "http"}}
            one = await client.post("/api/events", json=event | {"id": "json"}, headers={"idempotency-key": "k"})
            assert one.status_code == 202, one.text

            async def lines() -> AsyncIterator[bytes]:
                for number in range(LINES):
                    yield json.dumps(event | {"id": f"line-{number}"}).encode() + b"\n"

            many = await client.post("/api/events", content=lines(), headers={"content-type": "application/x-ndjson"})
            assert [json.loads(line)["ok"] for line in many.text.splitlines()] == [True] * LINES
            with trio.fail_after(60):
                requests = await receiver.wait_for(LINES + 2)
            assert [request.headers["webhook-id"] for request in requests] == [
                *("socket", "json"),
                *(f"line-{number}" for number in range(LINES)),
            ]
            for request in requests:
                verify(created.json()["secret"], request.headers, request.body)
            await server.settled(created.json()["id"])
            page = await client.get(
                f"/api/webhooks/{created.json()['id']}/deliveries", params={"status": "succeeded", "limit": 100}
            )
            assert len(page.json()["data"]) == LINES + 2
            refused = await client.post("/api/events", json={"type": "no such type", "data": {}})
            assert (refused.status_code, refused.headers["content-type"]) == (400, "application/problem+json")
            assert "webhookd_ready 1.0" in (await client.get("/metrics")).text
        async with httpx.AsyncClient(base_url=server.url, trust_env=False, timeout=60) as browser:
            origin = {"origin": server.url}
            signed_in = await browser.post("/sign-in", data={"key": server.first_key}, headers=origin)
            assert signed_in.status_code == 303, signed_in.text
            shown = await browser.get("/webhooks")
            assert (shown.status_code, "smoke" in shown.text) == (200, True)
        assert server.process is not None
        server.process.send_signal(signal.SIGTERM)
        assert await server.ended() == 0, server.log()[-3000:]
        nursery.cancel_scope.cancel()

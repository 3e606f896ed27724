"""The load of one organization on a real server does not hold up the events of another."""

import json
from pathlib import Path

import httpx
import trio

from tests.admin.raw import split_replies
from tests.e2e.harness import Server, running
from tests.e2e.posting import connect, head

HOOK = "http://127.0.0.1:9999/"
WEBHOOKS, EVENTS = 60, 300
LINE = b'{"type": "user.created", "data": {}}\n'


async def ingest_key(server: Server, organization: str) -> str:
    created = await server.post("/api/keys", {"role": "ingest", "organizationId": organization})
    return str(created["key"])


async def test_a_post_does_not_wait_for_another_organizations_deliveries(tmp_path: Path) -> None:
    """While one organization's stream becomes 18,000 deliveries, another organization's posts are answered.

    The results of the stream arrive in the order of its lines, and all its deliveries are queued at the end.
    """
    async with running(tmp_path) as server:
        webhooks = [await server.webhook(HOOK, organizationId="crowd", isActive=False) for _ in range(WEBHOOKS)]
        crowd, quiet = await ingest_key(server, "crowd"), await ingest_key(server, "quiet")
        body = LINE * EVENTS
        more = ("content-type: application/x-ndjson", f"content-length: {len(body)}", "connection: close")
        request = head(server, "POST", "/api/events", *more, key=crowd) + body
        received = bytearray()
        has_begun = trio.Event()
        async with await connect(server) as stream, trio.open_nursery() as nursery:

            async def read() -> None:
                while chunk := await stream.receive_some(65_536):
                    received.extend(chunk)
                    if b'"ok":true' in received:
                        has_begun.set()

            nursery.start_soon(read)
            await stream.send_all(request)
            with trio.fail_after(60):
                await has_begun.wait()
            headers = {"authorization": f"Bearer {quiet}"}
            async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
                for _ in range(3):
                    answer = await client.post("/api/events", json={"type": "user.created", "data": {}})
                    assert answer.status_code == 202
            done = received.count(b'"ok":true')
            assert done < EVENTS, "the stream ended before the posts were answered"
        [reply], _ = split_replies(bytes(received))
        results = [json.loads(line) for line in reply.body.splitlines()]
        assert [result["deliveries"] for result in results] == [WEBHOOKS] * EVENTS
        health = (await server.get(f"/api/webhooks/{webhooks[0]['id']}"))["health"]
        assert health["queued"] == EVENTS

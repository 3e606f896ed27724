"""One organization's load on a real server: what another one sends goes on next to it."""

import json
from pathlib import Path

import httpx
import trio

from tests.admin.raw import split_replies
from tests.e2e.harness import CONFIG, Server, running
from tests.e2e.posting import connect

HOOK = "http://127.0.0.1:9999/"
WEBHOOKS, EVENTS = 60, 300
LINE = b'{"type": "user.created", "data": {}}\n'


async def ingest_key(server: Server, organization: str) -> str:
    made = await server.post("/api/keys", {"role": "ingest", "organizationId": organization})
    return str(made["key"])


async def test_a_post_does_not_wait_for_another_organizations_deliveries(tmp_path: Path) -> None:
    """While a stream of one becomes 18,000 deliveries another one's posts are answered, one after the other.

    The stream's own results come in the order of its lines, and all of its deliveries are queued in the end.
    """
    async with running(tmp_path, CONFIG) as server:
        made = [await server.webhook(HOOK, organizationId="crowd", isActive=False) for _ in range(WEBHOOKS)]
        crowd, quiet = await ingest_key(server, "crowd"), await ingest_key(server, "quiet")
        body = LINE * EVENTS
        head = (
            f"POST /api/events HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {crowd}\r\n"
            f"content-type: application/x-ndjson\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
        )
        received = bytearray()
        has_begun = trio.Event()
        async with await connect(server) as stream, trio.open_nursery() as nursery:

            async def read() -> None:
                while chunk := await stream.receive_some(65_536):
                    received.extend(chunk)
                    if b'"ok":true' in received:
                        has_begun.set()

            nursery.start_soon(read)
            await stream.send_all(head.encode() + body)
            with trio.fail_after(60):
                await has_begun.wait()
            headers = {"authorization": f"Bearer {quiet}"}
            async with httpx.AsyncClient(base_url=server.url, headers=headers, trust_env=False, timeout=60) as client:
                for _ in range(3):
                    answer = await client.post("/api/events", json={"type": "user.created", "data": {}})
                    assert answer.status_code == 202
            done = received.count(b'"ok":true')
            assert done < EVENTS, "the stream was over before the posts were answered"
        [reply], _ = split_replies(bytes(received))
        results = [json.loads(line) for line in reply.body.splitlines()]
        assert [result["deliveries"] for result in results] == [WEBHOOKS] * EVENTS
        health = (await server.get(f"/api/webhooks/{made[0]['id']}"))["health"]
        assert health["queued"] == EVENTS

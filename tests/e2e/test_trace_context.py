"""The trace context of an event, from each interface to the receiver, the feed and the log."""

import json
from pathlib import Path

import httpx
import trio

from tests.e2e.harness import Server, running
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver
from webhookd.client import Client

TRACE = "0af7651916cd43dd8448eb211c80319c"
OWN = f"00-{TRACE}-b7ad6b7169203331-01"
OF_REQUEST = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"
NO_TRACE = "00-00000000000000000000000000000000-00f067aa0ba902b7-00"


async def post(server: Server, body: str, *traceparents: str, media_type: str = "application/json") -> list[str]:
    """Send one event, or lines of events, with these traceparent headers; return the ids."""
    headers = [("authorization", f"Bearer {server.first_key}"), ("content-type", media_type)]
    headers += [("traceparent", text) for text in traceparents]
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(f"{server.url}/api/events", content=body, headers=headers)
    assert answer.is_success, answer.text
    return [json.loads(line)["id"] for line in answer.text.splitlines()]


def event(**fields: str) -> str:
    return json.dumps({"type": "user.created", "data": {}, **fields})


async def test_an_event_keeps_its_trace_from_each_interface(tmp_path: Path) -> None:
    """The traceparent of the event, or else a valid one of the request, is sent, shown and logged."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        webhook = await server.webhook(receiver.url)
        with Client(server.socket) as client:
            ids = [client.send("user.created", {}, traceparent=OWN).id, client.send("user.created", {}).id]
        ids += await post(server, event(traceparent=OWN), OF_REQUEST)
        ids += await post(server, event(), OF_REQUEST)
        ids += await post(server, event(), NO_TRACE)
        ids += await post(server, event(), OF_REQUEST, OWN)
        lines = f"{event()}\n{event(traceparent=OWN)}\n"
        ids += await post(server, lines, OF_REQUEST, media_type="application/x-ndjson")
        expected = [OWN, None, OWN, OF_REQUEST, None, None, OF_REQUEST, OWN]
        await server.settled(webhook["id"])
        sent = {request.headers["webhook-id"]: request.headers.get("traceparent") for request in receiver.requests}
        assert [sent[event_id] for event_id in ids] == expected
        assert [(await server.get(f"/api/events/{event_id}"))["traceparent"] for event_id in ids] == expected
        assert await server.stop() == 0  # the log is complete after that
        nursery.cancel_scope.cancel()
    logged = [json.loads(line) for line in server.log().splitlines()]
    attempts = {line["event_id"]: line for line in logged if line["event"] == "delivery.attempted"}
    traces = [attempts[event_id]["trace_id"] for event_id in ids]
    assert traces == [None if text is None else text.split("-")[1] for text in expected]
    assert [attempts[event_id]["reused"] for event_id in ids] == [False] + [True] * 7


async def test_every_attempt_sends_the_same_trace(tmp_path: Path) -> None:
    """An attempt after a restart and a replay send the traceparent of the event; a duplicate does not change it."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        webhook = await server.webhook(receiver.url, isActive=False)
        with Client(server.socket) as client:
            first = client.send("user.created", {}, "mine", traceparent=OWN)
            assert client.send("user.created", {}, "mine", traceparent=OF_REQUEST).duplicate
        await server.stop()
        await server.start()
        await server.enable(webhook["id"])
        await server.settled(webhook["id"])
        await server.post(f"/api/webhooks/{webhook['id']}/replay", {"since": "2025-01-01T00:00:00Z"})
        with trio.fail_after(PATIENCE_SECONDS):
            while len(receiver.requests) < 2:
                await trio.sleep(0.02)
        found = [(request.headers["webhook-id"], request.headers["traceparent"]) for request in receiver.requests]
        assert found == [(first.id, OWN)] * 2
        nursery.cancel_scope.cancel()

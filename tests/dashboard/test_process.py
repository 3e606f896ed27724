"""The dashboard of a real process: it doesn't delay a stop, needs a key on the control socket, and can be disabled."""

from pathlib import Path

import httpx
import trio

from tests.e2e.harness import CONFIG, Server, running
from tests.patience import PATIENCE_SECONDS


async def test_a_live_page_holds_up_no_stop(tmp_path: Path) -> None:
    """With an open stream of a client that only reads, the drain doesn't wait, and the stream ends."""
    async with running(tmp_path, CONFIG.replace("drain_seconds = 10", "drain_seconds = 600")) as server:
        async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
            begun = await client.post("/sign-in", data={"key": server.first_key})
            assert begun.status_code == 303
            received = bytearray()
            has_begun = trio.Event()

            async def listen() -> None:
                async with client.stream("GET", "/live", timeout=PATIENCE_SECONDS) as answer:
                    assert answer.headers["content-type"].startswith("text/event-stream")
                    async for chunk in answer.aiter_bytes():
                        received.extend(chunk)
                        has_begun.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(listen)
                with trio.fail_after(PATIENCE_SECONDS):
                    await has_begun.wait()
                assert await server.stop() == 0
            assert b"event: numbers" in received
        assert "http.drain_cut_off" not in server.log()


async def test_wrong_sign_ins_keep_no_right_one_out(tmp_path: Path) -> None:
    """Behind a proxy all clients have one address: a valid key passes after and between many wrong ones."""
    wrong = {"key": "whd_admin_01JHM0000000000000000000AA_wrong"}
    async with running(tmp_path) as server, httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        statuses = [(await client.post("/sign-in", data=wrong)).status_code for _ in range(14)]
        assert set(statuses) == {401, 429}
        for _ in range(3):
            right = await client.post("/sign-in", data={"key": server.first_key})
            assert (right.status_code, right.headers["location"]) == (303, "/")
            assert (await client.post("/sign-in", data=wrong)).status_code == 429


async def test_the_control_socket_asks_for_a_key(tmp_path: Path) -> None:
    """On the control socket pages need a key too: a tunneled browser may also send requests of other pages."""
    async with running(tmp_path) as server:
        transport = httpx.AsyncHTTPTransport(uds=str(tmp_path / "control.sock"))
        async with httpx.AsyncClient(base_url="http://localhost", transport=transport) as client:
            assert (await client.get("/api/webhooks")).status_code == 200
            assert (await client.get("/webhooks")).headers["location"] == "/sign-in?next=%2Fwebhooks"
            signed_in = await client.post("/sign-in", data={"key": server.first_key, "next": "/webhooks"})
            assert signed_in.headers["location"] == "/webhooks"
            assert (await client.get("/webhooks")).status_code == 200


async def test_it_can_be_off(tmp_path: Path) -> None:
    """With the dashboard disabled its paths are 404s, and the API is unchanged."""
    server = Server(tmp_path, CONFIG.replace("port = 0", "port = 0\ndashboard = false"))
    await server.start()
    async with httpx.AsyncClient(base_url=server.url, trust_env=False) as client:
        for path in ("/", "/sign-in", "/webhooks"):
            assert (await client.get(path)).status_code == 404
        assert (await client.get("/readyz")).status_code == 200
    assert await server.stop() == 0

"""The body of a request until it is read: back-pressure, and what happens when the client leaves."""

from collections.abc import Callable, Coroutine
from typing import Any, cast

import pytest
import trio
from hypercorn.typing import ASGIReceiveEvent, ASGISendEvent, Scope
from quart_trio import QuartTrio
from trio.testing import wait_all_tasks_blocked

from tests.patience import PATIENCE_SECONDS
from webhookd.admin.bodies import chunks, current_request, read_body, with_bodies

CHUNK = b"x" * 65_536
CHUNKS = 32
# The bound, the chunk that passes it, and the one that the gate has in its hand.
MOST_HELD_CHUNKS = 6


class Client:
    """Sends a body chunk by chunk on request, then leaves or stays; keeps the answer."""

    def __init__(self, app: QuartTrio, count: int, *, leaves: bool = False) -> None:
        self.sent = 0
        self.answer = b""
        self._app = app
        self._count = count
        self._leaves = leaves

    async def run(self) -> None:
        """Send one request."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "root_path": "",
            "headers": [(b"host", b"x"), (b"content-length", str(self._count * len(CHUNK)).encode())],
            "client": None,
            "server": None,
            "state": {},
            "extensions": {},
        }
        await self._app(cast("Scope", scope), self._receive, self._send)

    async def _receive(self) -> ASGIReceiveEvent:
        # A request without a body has one part, an empty one.
        if self.sent < max(self._count, 1):
            self.sent += 1
            body = CHUNK if self._count else b""
            return {"type": "http.request", "body": body, "more_body": self.sent < self._count}
        if not self._leaves:
            await trio.sleep_forever()
        return {"type": "http.disconnect"}

    async def _send(self, message: ASGISendEvent) -> None:
        if message["type"] == "http.response.body":
            self.answer += message["body"]


def app_of(handler: Callable[[], Coroutine[Any, Any, str]]) -> QuartTrio:
    app = QuartTrio("bodies")
    app.asgi_app = with_bodies(app.asgi_app)  # type: ignore[assignment,method-assign]  # Quart documents it
    app.post("/")(handler)
    return app


async def test_a_body_that_nobody_reads_holds_its_sender_back() -> None:
    """Only some 256 KiB of a body are accepted before it is read, and all of it after that."""
    may_read = trio.Event()

    async def measure() -> str:
        await may_read.wait()
        return str(sum([len(chunk) async for chunk in chunks(current_request(), 60)]))

    client = Client(app_of(measure), CHUNKS)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.run)
        await wait_all_tasks_blocked()
        assert 0 < client.sent <= MOST_HELD_CHUNKS
        may_read.set()
    assert (client.sent, client.answer) == (CHUNKS, str(CHUNKS * len(CHUNK)).encode())


async def test_who_waits_is_told_that_the_client_has_left() -> None:
    """A request ends when its client leaves, also if its body has arrived and isn't read."""
    ended = trio.Event()

    async def wait() -> str:
        try:
            await trio.sleep_forever()
        finally:
            ended.set()

    with trio.fail_after(PATIENCE_SECONDS):
        await Client(app_of(wait), 2, leaves=True).run()
    assert ended.is_set()


@pytest.mark.parametrize("count", [0, 1, 3])
async def test_a_whole_body_can_be_read_again(count: int) -> None:
    """A body that was read for an Idempotency-Key can be read again by the handler."""

    async def read_twice() -> str:
        first = await read_body(current_request(), max_bytes=len(CHUNK) * CHUNKS, timeout_seconds=60)
        again = await read_body(current_request(), max_bytes=len(CHUNK) * CHUNKS, timeout_seconds=60)
        return f"{len(first)} {first == again}"

    client = Client(app_of(read_twice), count)
    await client.run()
    assert client.answer == f"{count * len(CHUNK)} True".encode()

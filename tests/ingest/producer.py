"""A client that sends raw bytes, and a server for it, for the tests of the socket."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import trio
import trio.testing

from tests.ingest.fakes import FakePublisher
from tests.patience import PATIENCE_SECONDS
from webhookd.config import IngestConfig
from webhookd.ingest import IngestServer

LIMIT = 1024


def line(number: int, **fields: object) -> bytes:
    event = {"type": "user.created", "id": f"evt_{number}", "data": {"n": number}} | fields
    return json.dumps(event).encode() + b"\n"


class Producer:
    """Sends raw bytes, and reads result lines."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._read = b""

    async def send(self, data: bytes) -> None:
        await self.stream.send_all(data)

    async def result(self) -> dict[str, object]:
        with trio.fail_after(PATIENCE_SECONDS):
            while b"\n" not in self._read:
                chunk = await self.stream.receive_some(65536)
                assert chunk, f"connection ended; unread: {self._read!r}"
                self._read += chunk
        first, _, self._read = self._read.partition(b"\n")
        decoded: dict[str, object] = json.loads(first)
        return decoded

    async def results(self, count: int) -> list[dict[str, object]]:
        return [await self.result() for _ in range(count)]

    async def rest(self) -> list[dict[str, object]]:
        """Read to the end."""
        with trio.fail_after(PATIENCE_SECONDS):
            while chunk := await self.stream.receive_some(65536):
                self._read += chunk
        text, self._read = self._read, b""
        assert not text or text.endswith(b"\n")
        return [json.loads(each) for each in text.splitlines()]

    async def is_silent(self) -> bool:
        await trio.testing.wait_all_tasks_blocked(0.02)
        with trio.move_on_after(0):
            self._read += await self.stream.receive_some(65536)
        return not self._read


def code(result: dict[str, object]) -> object:
    error = result["error"]
    assert result["ok"] is False
    assert isinstance(error, dict)
    assert set(error) == {"code", "message"}
    return error["code"]


def ids(results: list[dict[str, object]]) -> list[object]:
    return [result.get("id") for result in results]


@asynccontextmanager
async def serving(
    path: Path,
    publisher: FakePublisher,
    *,
    write_timeout_seconds: float = 5,
    allowed_uids: tuple[int, ...] = (),
    allowed_gids: tuple[int, ...] = (),
    max_connections: int = 100,
) -> AsyncIterator[IngestServer]:
    config = IngestConfig(
        socket=path,
        max_event_bytes=LIMIT,
        allowed_uids=allowed_uids,
        allowed_gids=allowed_gids,
        max_connections=max_connections,
    )
    server = IngestServer(config, publisher, write_timeout_seconds=write_timeout_seconds)
    server.bind()
    async with trio.open_nursery() as nursery:
        await nursery.start(lambda *, task_status: server.run(task_status=task_status))
        yield server
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Producer]:
    async with await trio.open_unix_socket(path) as stream:
        yield Producer(stream)


async def eventually(claim: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_SECONDS):
        while not claim():
            await trio.sleep(0.002)

"""How many lines a second the local socket takes on one core: `python -m tests.bench.bench_ingest`.

The producer is a process of its own, and the server's own CPU time is shown beside the wall time. The yardstick is a
server that reads the same bytes and answers as many lines, without looking at them. Tickets are done
at once: the disk isn't measured here.
"""

import argparse
import socket
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from webhookd.config import IngestConfig
from webhookd.ingest import IngestServer
from webhookd.models import NewEvent, PublishResult

_RESULT = b'{"id":"evt_0","deliveries":1,"duplicate":false,"ok":true}\n'


class DoneTicket:
    def __init__(self, result: PublishResult) -> None:
        self._result = result

    async def wait(self) -> PublishResult:
        return self._result


class InstantPublisher:
    async def room(self) -> None:
        return

    def publish(self, new: NewEvent) -> DoneTicket:
        return DoneTicket(PublishResult(id=new.id or "evt_0", deliveries=1, duplicate=False))


def produce(path: str, lines: int) -> None:
    """Send `lines` events pipelined in blocks and read all their results; runs in a process of its own."""
    data = '{"userId":"usr_%026d","email":"someone@example.com","plan":"pro","seats":12}'
    block = b"".join(
        b'{"type":"user.created","id":"evt_%026d","data":%b}\n' % (n, (data % n).encode()) for n in range(500)
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(path)
        unanswered = 0
        for _ in range(lines // 500):
            connection.sendall(block)
            unanswered += 500
            while unanswered > 1000:
                unanswered -= connection.recv(1 << 20).count(b"\n")
        while unanswered:
            unanswered -= connection.recv(1 << 20).count(b"\n")


async def echo(stream: trio.SocketStream) -> None:
    while chunk := await stream.receive_some(65_536):
        await stream.send_all(_RESULT * chunk.count(b"\n"))


async def measure(name: str, path: Path, lines: int, serve: Callable[[], Awaitable[None]]) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        while not await trio.Path(path).exists():
            await trio.sleep(0.01)
        await trio.sleep(0.1)
        wall, cpu = time.perf_counter(), time.process_time()
        command = [sys.executable, "-m", "tests.bench.bench_ingest", "--produce", str(path), "--lines", str(lines)]
        await trio.run_process(command)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name:8} {lines / wall:10,.0f} lines/s   {cpu / lines * 1e6:6.2f} µs of CPU a line")
        nursery.cancel_scope.cancel()


async def main(lines: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        yardstick = Path(directory) / "echo.sock"

        async def serve_echo() -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
                listener.bind(str(yardstick))
                listener.listen()
                await trio.serve_listeners(echo, [trio.SocketListener(trio.socket.from_stdlib_socket(listener))])

        path = Path(directory) / "ingest.sock"
        server = IngestServer(IngestConfig(socket=path), InstantPublisher())
        await measure("echo", yardstick, lines, serve_echo)
        await measure("ingest", path, lines, server.run)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lines", type=int, default=300_000)
    parser.add_argument("--produce", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.produce:
        produce(options.produce, options.lines)
    else:
        trio.run(main, options.lines)

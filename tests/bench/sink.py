"""A receiver that costs little: answers every request with 200 and counts; a process of its own.

`python -m tests.bench.sink` prints its port. Each line on its standard input is answered with the number of requests so
far and the time of the last one (seconds of the monotonic clock).
"""

import asyncio
import sys
import time

import httptools

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"


class Sink:
    """What all connections share."""

    requests = 0
    last_at = 0.0


class Connection(asyncio.Protocol):
    """One connection."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the way back."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Feed the parser."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Answer."""
        self._sink.requests += 1
        self._sink.last_at = time.monotonic()
        assert self._transport is not None
        self._transport.write(ANSWER)


async def main() -> None:
    """Serve until standard input ends."""
    sink = Sink()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(sink), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        print(sink.requests, sink.last_at, flush=True)
    server.close()


if __name__ == "__main__":
    asyncio.run(main())

"""A receiver that uses little CPU, as a process: `python -m tests.bench.sink MODE [--tls CERTIFICATE]`.

It prints its port and answers commands on standard input: `count` with the number of requests so far, `arrivals` with a
JSON object from event id to time (seconds of the machine's monotonic clock) of the requests since the last command. The
id is in the header of webhookd, Svix or Outpost.
The modes `count` and `record` answer 200, and only `record` knows arrivals; `wait` answers 200 after 5 ms, `hang` never
answers, and `drip` answers with a byte every fifth of a second.
"""

import argparse
import asyncio
import json
import ssl
import sys
import time

import httptools

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
DRIPPED = b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n"
DRIP_SECONDS = 0.2
WAIT_SECONDS = 0.005
ID_HEADERS = {b"webhook-id", b"svix-id", b"x-outpost-event-id"}


class Seen:
    """The counts that all connections share."""

    def __init__(self) -> None:
        self.requests = 0
        self.arrivals: dict[str, float] = {}


class Counting(asyncio.Protocol):
    """A connection that counts and answers requests."""

    def __init__(self, seen: Seen) -> None:
        self._seen = seen
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport for the answers."""
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Parse the data."""
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        """Count the request and answer it."""
        self._seen.requests += 1
        self._answer()

    def _answer(self) -> None:
        self._write(ANSWER)

    def _write(self, data: bytes) -> None:
        assert self._transport is not None
        self._transport.write(data)


class Recording(Counting):
    """A connection that also records the time at which the headers of a request arrive."""

    def on_header(self, name: bytes, value: bytes) -> None:
        """Record the first arrival of each id."""
        if name.lower() in ID_HEADERS:
            self._seen.arrivals.setdefault(value.decode(), time.monotonic())


class Waiting(Counting):
    """A connection that answers as a receiver that does something first."""

    def _answer(self) -> None:
        asyncio.get_running_loop().call_later(WAIT_SECONDS, self._write, ANSWER)


class Hanging(Counting):
    """A connection that never answers."""

    def _answer(self) -> None:
        return


class Dripping(Counting):
    """A connection whose answers arrive a byte at a time and do not end."""

    def _answer(self) -> None:
        self._write(DRIPPED)
        self._drip()

    def _drip(self) -> None:
        assert self._transport is not None
        if not self._transport.is_closing():
            self._transport.write(b".")
            asyncio.get_running_loop().call_later(DRIP_SECONDS, self._drip)


MODES: dict[str, type[Counting]] = {
    "count": Counting,
    "record": Recording,
    "wait": Waiting,
    "hang": Hanging,
    "drip": Dripping,
}


async def main(mode: str, certificate: str | None) -> None:
    """Serve until standard input ends."""
    seen = Seen()
    context = None
    if certificate is not None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: MODES[mode](seen), "127.0.0.1", 0, ssl=context, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    while command := await loop.run_in_executor(None, sys.stdin.readline):
        if command.strip() == "arrivals":
            arrivals, seen.arrivals = seen.arrivals, {}
            print(json.dumps(arrivals), flush=True)
        else:
            print(seen.requests, flush=True)
    server.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("--tls", metavar="CERTIFICATE")
    options = parser.parse_args()
    asyncio.run(main(options.mode, options.tls))

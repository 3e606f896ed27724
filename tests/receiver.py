"""A scriptable HTTP receiver on loopback: it records each request and answers, or misbehaves, by its script.

In a test: `receiver = await nursery.start(Receiver(steps("500*2,200")).run)`, then `receiver.url`. As a process:
`python -m tests.receiver --port 0 --log FILE --script 500,200` prints its URL and appends one line of JSON for each
request to FILE, flushed before it answers.
"""

import argparse
import json
import socket
import ssl
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from pathlib import Path
from typing import TextIO

import httptools
import trio

_CHUNK_BYTES = 65_536
_LISTEN_BACKLOG = 512


class Act(StrEnum):
    """What the receiver does after it has read a request."""

    ANSWER = "answer"
    HANG = "hang"  # sends nothing and keeps the connection open
    CLOSE = "close"  # closes before the first byte of the reply
    CUT = "cut"  # closes in the middle of the announced body
    RESET = "reset"  # sends a RST instead of a reply
    GARBAGE = "garbage"  # sends bytes that are no HTTP


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request: `number` counts from 1 at this receiver, `at` is in epoch seconds, header names are in lower case.

    `connection` is the number of its connection, from 1.
    """

    number: int
    connection: int
    at: float
    method: str
    path: str
    headers: dict[str, str]
    raw_headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """One answer; `raw` replaces the whole reply by these bytes and closes the connection after them."""

    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    delay_seconds: float = 0.0
    after: trio.Event | None = None  # the answer waits for this event
    act: Act = Act.ANSWER
    raw: bytes | None = None


Script = Callable[[Request, int], Reply]
OK = Reply()


def always(reply: Reply = OK) -> Script:
    """Return a script that answers every request with `reply`."""
    return lambda _request, _nth: reply


def in_turn(*replies: Reply) -> Script:
    """Return a script that answers the nth request with the nth reply; the last reply repeats."""
    return lambda _request, nth: replies[min(nth, len(replies)) - 1]


def steps(text: str) -> Script:
    """Read a script such as `500*2,429;retry-after=1,hang,200@0.5`.

    Steps are separated by commas. Each is a status or one of hang, close, cut, reset and garbage; then `@seconds` of
    delay, `;name=value` headers and `*times`, each optional and in this order. The last step repeats.
    """
    replies: list[Reply] = []
    for step in text.split(","):
        rest, _, times = step.strip().partition("*")
        rest, *pairs = rest.split(";")
        word, _, delay = rest.partition("@")
        headers = tuple((name, value) for name, _, value in (pair.partition("=") for pair in pairs))
        seconds = float(delay or 0)
        if word.isdigit():
            reply = Reply(status=int(word), headers=headers, delay_seconds=seconds)
        else:
            reply = Reply(act=Act(word), headers=headers, delay_seconds=seconds)
        replies += [reply] * int(times or 1)
    return in_turn(*replies)


class Receiver:
    """The receiver; `requests` may be read at any time, and `wait_for` waits for a number of requests."""

    def __init__(
        self,
        script: Script | None = None,
        *,
        port: int = 0,
        ssl_context: ssl.SSLContext | None = None,
        log: TextIO | None = None,
    ) -> None:
        self.script: Script = always() if script is None else script
        self.requests: list[Request] = []
        self.url = ""
        self.port = port
        self.connections = 0
        self.open_connections = 0
        self.in_flight = 0
        self.most_in_flight = 0
        self._ssl_context = ssl_context
        self._log = log
        self._arrived = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus["Receiver"] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `nursery.start` returns this receiver when it listens and its URL is set."""
        listeners = await trio.open_tcp_listeners(self.port, host="127.0.0.1", backlog=_LISTEN_BACKLOG)
        self.port = listeners[0].socket.getsockname()[1]
        self.url = f"{'https' if self._ssl_context else 'http'}://127.0.0.1:{self.port}"
        async with trio.open_nursery() as nursery:
            await nursery.start(trio.serve_listeners, self._serve, listeners)
            task_status.started(self)

    async def wait_for(self, count: int) -> list[Request]:
        """Return the requests once there are `count`; the caller sets the deadline."""
        while len(self.requests) < count:
            await self._arrived.wait()
        return self.requests

    async def _serve(self, tcp: trio.SocketStream) -> None:
        self.connections += 1
        self.open_connections += 1
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream] = tcp
        if self._ssl_context is not None:
            stream = trio.SSLStream(tcp, self._ssl_context, server_side=True, https_compatible=True)
        try:
            await _Conversation(self, tcp, stream, self.connections).run()
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the peer closed the connection, which tests do on purpose
        finally:
            self.open_connections -= 1
            await trio.aclose_forcefully(stream)

    def take(self, request: Request) -> Reply:
        """Record one request, wake `wait_for` and return the reply."""
        self.requests.append(request)
        if self._log is not None:
            self._log.write(json.dumps(_as_json(request)) + "\n")
            self._log.flush()
        self._arrived.set()
        self._arrived = trio.Event()
        return self.script(request, request.number)


class _Conversation:
    """One connection: its parser's callbacks, and the loop that answers."""

    def __init__(
        self,
        receiver: Receiver,
        tcp: trio.SocketStream,
        stream: trio.SocketStream | trio.SSLStream[trio.SocketStream],
        number: int,
    ) -> None:
        self._receiver = receiver
        self._tcp = tcp
        self._stream = stream
        self._number = number
        self._parser = httptools.HttpRequestParser(self)
        self._complete: list[tuple[str, str, tuple[tuple[str, str], ...], bytes]] = []

    def on_message_begin(self) -> None:
        self._url = b""
        self._headers: list[tuple[str, str]] = []
        self._body: list[bytes] = []

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.append((name.decode("latin-1").lower(), value.decode("latin-1")))

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        method = self._parser.get_method().decode("latin-1")
        self._complete.append((method, self._url.decode("latin-1"), tuple(self._headers), b"".join(self._body)))

    async def run(self) -> None:
        while chunk := await self._stream.receive_some(_CHUNK_BYTES):
            try:
                self._parser.feed_data(chunk)
            except httptools.HttpParserError as error:
                raise AssertionError(f"the server under test sent invalid HTTP: {chunk!r}") from error
            while self._complete:
                method, path, headers, body = self._complete.pop(0)
                request = Request(
                    number=len(self._receiver.requests) + 1,
                    connection=self._number,
                    at=time.time(),
                    method=method,
                    path=path,
                    headers=dict(headers),
                    raw_headers=headers,
                    body=body,
                )
                self._receiver.in_flight += 1
                self._receiver.most_in_flight = max(self._receiver.most_in_flight, self._receiver.in_flight)
                try:
                    is_kept = await self._answer(self._receiver.take(request))
                finally:
                    self._receiver.in_flight -= 1
                if not is_kept or not self._parser.should_keep_alive():
                    return

    async def _answer(self, reply: Reply) -> bool:
        """Send one reply, or misbehave as it says; return whether the connection stays open."""
        if reply.delay_seconds:
            await trio.sleep(reply.delay_seconds)
        if reply.after is not None:
            await reply.after.wait()
        if reply.act is Act.HANG:
            # Wait until the peer closes the connection.
            while await self._stream.receive_some(_CHUNK_BYTES):
                pass
            return False
        if reply.act is Act.RESET:
            self._tcp.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._tcp.socket.close()
            return False
        if reply.act is Act.CLOSE:
            return False
        raw = b"\x00\xffthis is not HTTP\r\n\r\n" if reply.act is Act.GARBAGE else reply.raw
        await self._stream.send_all(_encode(reply) if raw is None else raw)
        return raw is None and reply.act is Act.ANSWER


def _encode(reply: Reply) -> bytes:
    body = reply.body
    head = [f"HTTP/1.1 {reply.status} {HTTPStatus(reply.status).phrase if reply.status in _KNOWN else 'Unknown'}"]
    head += [f"{name}: {value}" for name, value in reply.headers]
    length = len(body)
    if reply.act is Act.CUT:
        body, length = b"half of it", 20
    if reply.status not in {204, 304}:
        head.append(f"content-length: {length}")
    return "\r\n".join([*head, "", ""]).encode("latin-1") + body


_KNOWN = frozenset(status.value for status in HTTPStatus)


def _as_json(request: Request) -> dict[str, object]:
    return {
        "number": request.number,
        "connection": request.connection,
        "at": request.at,
        "method": request.method,
        "path": request.path,
        "headers": request.headers,
        "body": request.body.decode("utf-8", "surrogateescape"),
    }


async def _main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.receiver", description="A scriptable HTTP receiver.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--log", type=Path, required=True)
    parser.add_argument("--script", default="200")
    options = parser.parse_args()
    with options.log.open("a") as log:
        receiver = Receiver(steps(options.script), port=options.port, log=log)
        async with trio.open_nursery() as nursery:
            await nursery.start(receiver.run)
            print(receiver.url, flush=True)


if __name__ == "__main__":
    trio.run(_main)

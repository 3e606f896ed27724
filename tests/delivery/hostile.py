"""Receivers that misbehave: each script speaks raw bytes over an accepted connection, over TLS or not.

`Hostile` counts its connections and what was asked of it; `Proxy` is a small CONNECT and forward proxy on loopback.
"""

import fcntl
import socket
import ssl
import struct
import termios
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext
from urllib.parse import urlsplit

import trio

from tests.ports import EVERYWHERE, held_port

Stream = trio.SocketStream | trio.SSLStream[trio.SocketStream]
Script = Callable[[Stream, int], Awaitable[None]]


class Hostile:
    """Serves `script(stream, number of the connection)` on loopback, after reading one request each time it asks."""

    def __init__(
        self, script: Script, *, ssl_context: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        self._script = script
        self._host = host
        self.port = port
        self.ssl_context = ssl_context
        self.connections = 0
        self.open_connections = 0
        self.url = ""

    async def run(self, *, task_status: trio.TaskStatus["Hostile"] = trio.TASK_STATUS_IGNORED) -> None:
        # Other receivers of a test may use the same port at other addresses.
        with held_port(*EVERYWHERE) if self.port == 0 else nullcontext(self.port) as self.port:
            listeners = await trio.open_tcp_listeners(self.port, host=self._host)
            self.url = f"{'https' if self.ssl_context else 'http'}://{self._host}:{self.port}/hook"
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, self._serve, listeners)
                task_status.started(self)

    async def _serve(self, tcp: trio.SocketStream) -> None:
        self.connections += 1
        self.open_connections += 1
        stream: Stream = tcp
        if self.ssl_context is not None:
            stream = trio.SSLStream(tcp, self.ssl_context, server_side=True, https_compatible=True)
        try:
            await self._script(stream, self.connections)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the sender has gone, which is what it should do
        finally:
            self.open_connections -= 1
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def serving(
    script: Script, *, ssl_context: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Hostile]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(Hostile(script, ssl_context=ssl_context, host=host, port=port).run)
        nursery.cancel_scope.cancel()


async def read_request(stream: Stream) -> bytes:
    """Return one request, head and body."""
    data = b""
    while b"\r\n\r\n" not in data:
        chunk = await stream.receive_some(65_536)
        if not chunk:
            raise trio.BrokenResourceError
        data += chunk
    head, _, body = data.partition(b"\r\n\r\n")
    length = next(
        int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
    )
    while len(body) < length:
        body += await stream.receive_some(65_536)
    return head + b"\r\n\r\n" + body


def saying(*parts: bytes, then_close: bool = True, pause: float = 0.0) -> Script:
    """Return a script that answers each request with these bytes."""

    async def script(stream: Stream, number: int) -> None:
        while True:
            await read_request(stream)
            for part in parts:
                await stream.send_all(part)
                await trio.sleep(pause)
            if then_close:
                return

    return script


def forever(first: bytes, again: bytes, *, pause: float = 0.0) -> Script:
    """Return a script that begins an answer and never ends it."""

    async def script(stream: Stream, number: int) -> None:
        await read_request(stream)
        await stream.send_all(first)
        while True:
            await stream.send_all(again)
            await trio.sleep(pause)

    return script


async def delivered(stream: Stream) -> None:
    """Return once the other side's kernel has all that was sent: an end or a reset overtakes nothing then."""
    while struct.unpack("i", fcntl.ioctl(_tcp(stream).socket.fileno(), termios.TIOCOUTQ, bytes(4)))[0]:
        await trio.sleep(0.001)


async def left(stream: Stream) -> None:
    """Return once the other side has gone."""
    try:
        while await _tcp(stream).receive_some(65_536):
            pass
    except trio.BrokenResourceError:
        pass  # it went with a reset


def _tcp(stream: Stream) -> trio.SocketStream:
    return stream.transport_stream if isinstance(stream, trio.SSLStream) else stream


def reset(stream: Stream) -> None:
    """Close with an RST, whatever is still on its way."""
    tcp = _tcp(stream)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tcp.socket.close()


@contextmanager
def swallowing(host: str = "0.0.0.0", port: int = 0) -> Iterator[int]:
    """Give the port of a listener whose backlog is full, at every address unless said: it answers no SYN."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the port may be held
        listener.bind((host, port))
        listener.listen(0)
        port = listener.getsockname()[1]
        with socket.create_connection(("127.0.0.1" if host == "0.0.0.0" else host, port)):
            yield port


class Proxy:
    """Forwards what it is asked to, and counts; with a context it speaks TLS itself."""

    def __init__(self, ssl_context: ssl.SSLContext | None = None) -> None:
        self._ssl_context = ssl_context
        self.url = ""
        self.asked: list[bytes] = []
        self.heads: list[bytes] = []
        self.open_connections = 0

    async def run(self, *, task_status: trio.TaskStatus["Proxy"] = trio.TASK_STATUS_IGNORED) -> None:
        scheme = "https" if self._ssl_context else "http"
        with held_port(*EVERYWHERE) as port:
            listeners = await trio.open_tcp_listeners(port, host="127.0.0.1")
            self.url = f"{scheme}://127.0.0.1:{port}"
            async with trio.open_nursery() as nursery:
                await nursery.start(trio.serve_listeners, self._serve, listeners)
                task_status.started(self)

    async def _serve(self, tcp: trio.SocketStream) -> None:
        self.open_connections += 1
        client: Stream = tcp
        if self._ssl_context is not None:
            client = trio.SSLStream(tcp, self._ssl_context, server_side=True, https_compatible=True)
        try:
            await self._forward(client)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one side has gone
        finally:
            self.open_connections -= 1
            await trio.aclose_forcefully(client)

    async def _forward(self, client: Stream) -> None:
        head = b""
        while b"\r\n\r\n" not in head:
            chunk = await client.receive_some(65_536)
            if not chunk:
                return
            head += chunk
        line = head.split(b"\r\n", 1)[0]
        self.asked.append(line)
        self.heads.append(head)
        method, target, _ = line.split(b" ")
        authority = target if method == b"CONNECT" else target.split(b"/")[2]
        parts = urlsplit(f"//{authority.decode()}")
        try:
            server = await trio.open_tcp_stream(parts.hostname or "", parts.port or 80)
        except OSError:
            await client.send_all(b"HTTP/1.1 502 Bad Gateway\r\ncontent-length: 0\r\n\r\n")
            return
        try:
            if method == b"CONNECT":
                await client.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
            else:
                await server.send_all(head.replace(b"http://" + authority, b"", 1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_pump, client, server, nursery.cancel_scope)
                nursery.start_soon(_pump, server, client, nursery.cancel_scope)
        finally:
            await trio.aclose_forcefully(server)


@asynccontextmanager
async def proxying(*, ssl_context: ssl.SSLContext | None = None) -> AsyncIterator[Proxy]:
    async with trio.open_nursery() as nursery:
        yield await nursery.start(Proxy(ssl_context).run)
        nursery.cancel_scope.cancel()


async def _pump(source: Stream, sink: Stream, scope: trio.CancelScope) -> None:
    """Pass on until the source has ended, which ends the other direction, too.

    A sink that has gone may have left an answer behind: that is passed on first.
    """
    try:
        while data := await source.receive_some(65_536):
            try:
                await sink.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass  # as good as an end
    scope.cancel()

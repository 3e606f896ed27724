"""Send requests on connections of their own, to servers that may close them without a complete answer."""

from contextlib import suppress

import trio

from tests.admin.raw import Reply, split_replies
from tests.e2e.harness import Server


async def connect(server: Server) -> trio.SocketStream:
    """Open a connection to the port of the API."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


def head(server: Server, method: str, target: str, *more: str, key: str | None = None) -> bytes:
    """Return the head of a request with these further header lines and an API key, by default the first admin key."""
    lines = [f"{method} {target} HTTP/1.1", "host: localhost", f"authorization: Bearer {key or server.first_key}"]
    return "\r\n".join([*lines, *more, "", ""]).encode()


def stream_head(server: Server, key: str, length: int) -> bytes:
    """Return the head of a request that submits `length` bytes of lines of JSON."""
    more = ("content-type: application/x-ndjson", f"content-length: {length}")
    return head(server, "POST", "/api/events", *more, key=key)


async def post_events(server: Server, body: bytes, *, media_type: str = "application/json") -> Reply | None:
    """Post events; return the answer, or None if the server closed the connection before a complete one."""
    more = (f"content-type: {media_type}", f"content-length: {len(body)}", "connection: close")
    received = b""
    try:
        stream = await connect(server)
    except OSError:
        return None
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            # A server that answers early closes the connection before it has read everything.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(head(server, "POST", "/api/events", *more) + body)

        nursery.start_soon(send)
        with suppress(trio.BrokenResourceError):
            while chunk := await stream.receive_some(65_536):
                received += chunk
        nursery.cancel_scope.cancel()
    replies, _ = split_replies(received)
    return replies[-1] if replies else None

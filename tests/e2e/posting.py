"""One POST to the API on a connection of its own, for servers that may turn it away or end in the middle."""

from contextlib import suppress

import trio

from tests.admin.raw import Reply, split_replies
from tests.e2e.harness import Server


async def connect(server: Server) -> trio.SocketStream:
    """Open a connection to the API's port."""
    host, _, port = server.url.removeprefix("http://").rpartition(":")
    return await trio.open_tcp_stream(host, int(port))


def head(server: Server, method: str, target: str, *more: str) -> bytes:
    """Return the head of a request with the admin key."""
    lines = [f"{method} {target} HTTP/1.1", "host: localhost", f"authorization: Bearer {server.first_key}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


async def post_events(server: Server, body: bytes, *, media_type: str = "application/json") -> Reply | None:
    """Post events; return the answer, or None where the server closed without a whole one."""
    more = (f"content-type: {media_type}", f"content-length: {len(body)}", "connection: close")
    received = b""
    try:
        stream = await connect(server)
    except OSError:
        return None
    async with stream, trio.open_nursery() as nursery:

        async def send() -> None:
            # A server that answers early closes before it has read everything.
            with suppress(trio.BrokenResourceError):
                await stream.send_all(head(server, "POST", "/api/events", *more) + body)

        nursery.start_soon(send)
        with suppress(trio.BrokenResourceError):
            while chunk := await stream.receive_some(65_536):
                received += chunk
        nursery.cancel_scope.cancel()
    replies, _ = split_replies(received)
    return replies[-1] if replies else None

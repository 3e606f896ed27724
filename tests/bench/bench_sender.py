"""Measure how many requests a second the sender makes over a kept connection, next to yardsticks in the same run.

`python -m tests.bench.bench_sender [REQUESTS]` prints the requests a second of bare trio streams that write the same
bytes and read the answer (the yardstick), of webhookd's sender, and of httpx's own transport. Receiver and sender share
one thread, so only the ratios are meaningful.
"""

import sys
from collections.abc import Awaitable, Callable
from time import perf_counter

import httpx
import trio

from webhookd.config import DeliveryConfig, EgressConfig
from webhookd.delivery.http.sender import Sender
from webhookd.delivery.request import Request, send

HEADERS = [
    ("content-type", "application/json"),
    ("user-agent", "webhookd/bench"),
    ("webhook-id", "evt_01JHMVZ3X5N7Q9S1T3V5W7Y9A1"),
    ("webhook-timestamp", "1736937000"),
    ("webhook-signature", "v1," + "a" * 44),
    ("x-webhook-signature", "t=1736937000,v1=" + "a" * 64),
    ("x-webhook-event", "user.created"),
    ("x-webhook-delivery", "dlv_01JHMVZ3X5N7Q9S1T3V5W7Y9A1"),
    ("x-webhook-attempt", "1"),
    ("x-webhook-sequence", "1"),
]
BODY = (
    b'{"id":"evt_1","type":"user.created","timestamp":"2025-01-15T10:30:00.000Z","data":{"pad":"' + b"x" * 400 + b'"}}'
)
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


async def answer_all(stream: trio.SocketStream) -> None:
    """Answer whenever the data ends like the body, without parsing it."""
    data = b""
    while chunk := await stream.receive_some(65_536):
        data += chunk
        if data.endswith(b'"}}'):
            data = b""
            await stream.send_all(ANSWER)


async def measure(name: str, count: int, send: Callable[[], Awaitable[None]], yardstick: float | None) -> float:
    """Send `count` requests one after the other; print and return the rate."""
    for _ in range(200):
        await send()
    began = perf_counter()
    for _ in range(count):
        await send()
    rate = count / (perf_counter() - began)
    share = "" if yardstick is None else f"  {rate / yardstick:6.2f} of the yardstick"
    print(f"{name:28} {rate:9.0f} requests/s{share}")
    return rate


async def main(count: int) -> None:
    """Measure all three, one after the other."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, answer_all, 0)
        port = listeners[0].socket.getsockname()[1]
        url = f"http://127.0.0.1:{port}/hook"
        head = "".join(f"{name}: {value}\r\n" for name, value in HEADERS)
        request = f"POST /hook HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\n{head}content-length: {len(BODY)}\r\n\r\n".encode()
        bare = await trio.open_tcp_stream("127.0.0.1", port)

        async def by_hand() -> None:
            await bare.send_all(request + BODY)
            data = b""
            while len(data) < len(ANSWER):
                data += await bare.receive_some(16_384)

        sender = Sender(DeliveryConfig(), EgressConfig(allow_http=True, ports=(), allow_networks=("127.0.0.0/8",)))
        await nursery.start(sender.run)
        nursery.start_soon(sender.keep_time)

        async def by_sender() -> None:
            outcome = await send(sender, Request("wh_1", url, HEADERS, BODY, 15))
            assert outcome.status == 200

        transport = httpx.AsyncHTTPTransport()

        async def by_httpx() -> None:
            response = await transport.handle_async_request(httpx.Request("POST", url, headers=HEADERS, content=BODY))
            await response.aread()
            await response.aclose()
            assert response.status_code == 200

        yardstick = await measure("bare streams (yardstick)", count, by_hand, None)
        await measure("webhookd's sender", count, by_sender, yardstick)
        await measure("httpx.AsyncHTTPTransport", count, by_httpx, yardstick)
        await transport.aclose()
        await bare.aclose()
        nursery.cancel_scope.cancel()


if __name__ == "__main__":
    trio.run(main, int(sys.argv[1]) if len(sys.argv) > 1 else 5000)

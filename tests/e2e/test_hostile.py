"""Hostile requests to the port of the API stop neither the server nor its deliveries."""

import random
import socket
from contextlib import ExitStack
from pathlib import Path

import httpx
import trio

from tests.e2e.harness import CONFIG, Server, running
from tests.patience import PATIENCE_SECONDS
from tests.receiver import Receiver
from webhookd.client import Client

HEAD = b"GET /healthz HTTP/1.1\r\nhost: x\r\n"
UPGRADE = HEAD + b"connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n"
KEYED = UPGRADE + b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
H2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
H2C = HEAD + b"connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: "
CHUNKS = b"transfer-encoding: chunked\r\n\r\n1\r\n{\r\n"
POST = b"POST /api/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"

KILLERS = (
    KEYED + b"\x81",
    KEYED + b"x" * 100,
    KEYED + b"\x88\x80\x00\x00\x00\x00",
    UPGRADE + b"sec-websocket-key: \xff\xff\r\n\r\n",
    UPGRADE + b"\r\nGET / HTTP/1.1\r\n\r\n",
    H2 + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    H2 + b"\xff" * 100,
    H2,
    H2C + b"AAMAAABkAARAAAAAAAIAAAAA\r\n\r\n" + H2,
    H2C + b"!!!not base64!!!\r\n\r\n",
    H2C + b"A\r\n\r\n\xff\xff",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1:22\r\n\r\n",
    b"GET http://127.0.0.1:22/ HTTP/1.1\r\nhost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET  / HTTP/1.1\r\n\r\n",
    b"GET / HTTP/9.9\r\nhost: x\r\n\r\n",
    b"GET /healthz?x HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /%ff%fe HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET /api/webhooks/%00 HTTP/1.1\r\nhost: x\r\n\r\n",
    b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"a: " + b"b" * 100_000 + b"\r\n\r\n",
    b"GET / HTTP/1.1\r\n" + b"".join(b"a%d: b\r\n" % number for number in range(5000)) + b"\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"\x00" * 1000,
    b"\r\n" * 5000,
    POST + b"content-length: 10\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
    POST + b"content-length: -1\r\n\r\n",
    POST + b"content-length: 99999999999999999999\r\n\r\n",
    POST + b"transfer-encoding: chunked\r\n\r\nffffffffffffffff\r\n",
    POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
    POST + b"content-length: 5\r\nexpect: 100-continue\r\n\r\n\xff\xfe\xfd\xfc\xfb",
    POST + b"content-length: 2\r\n\r\n{}GET / HTTP/1.1\r\n\r\n",
)


def fire(host: str, port: int, payload: bytes, *, reset: bool = False, wait_seconds: float = PATIENCE_SECONDS) -> bytes:
    """Send bytes; return the first bytes of the answer, or nothing if the connection failed."""
    with socket.create_connection((host, port), timeout=PATIENCE_SECONDS) as attacker:
        attacker.settimeout(wait_seconds)
        try:
            attacker.sendall(payload)
            if reset:
                attacker.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
                return b""
            attacker.shutdown(socket.SHUT_WR)
            return attacker.recv(65_536)
        except OSError:
            return b""


def mutated(chance: random.Random) -> bytes:
    """Return one of the killers with some bytes changed, inserted or removed, or mixed with another killer."""
    payload = bytearray(chance.choice(KILLERS)[:4000])
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(payload) + 1)
        match chance.randrange(4):
            case 0:
                payload[at:at] = bytes([chance.randrange(256)])
            case 1:
                del payload[at : at + chance.randrange(8)]
            case 2:
                payload[at:at] = chance.choice(KILLERS)[: chance.randrange(200)]
            case _:
                payload[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(payload)


async def check_server(server: Server, events: int) -> None:
    """Check that the server answers and accepts events."""
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.get(f"{server.url}/healthz", timeout=PATIENCE_SECONDS)
        assert answer.status_code == 200
        assert answer.json() == {"status": "ok"}
    with Client(server.socket) as producer:
        for number in range(events):
            assert producer.send("user.created", {"number": number}).deliveries == 1


async def test_no_request_ends_the_server_or_a_delivery(tmp_path: Path) -> None:
    """Requests that once crashed the HTTP server, hundreds of mutants of them and resets stop nothing."""
    chance = random.Random(7)  # noqa: S311 - not for security
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        webhook = await server.webhook(receiver.url)
        process = server.process
        assert process is not None
        host, port = server.url.removeprefix("http://").split(":")
        payloads = [*KILLERS, *(mutated(chance) for _ in range(400))]
        limiter = trio.CapacityLimiter(16)

        async def attack(payload: bytes, reset: bool) -> None:
            async with limiter:
                await trio.to_thread.run_sync(lambda: fire(host, int(port), payload, reset=reset, wait_seconds=0.3))

        async with trio.open_nursery() as attackers:
            for number, payload in enumerate(payloads):
                attackers.start_soon(attack, payload, number % 5 == 0)
        await check_server(server, 50)
        await server.settled(webhook["id"])
        assert len(receiver.requests) == 50
        assert process.returncode is None
        assert await server.stop() == 0
        log = server.log()  # complete, because its writer has ended
        for sign in ("http.connection_failed", "http.request_failed", '"status":500'):
            assert sign not in log
        nursery.cancel_scope.cancel()


async def test_clients_that_do_not_read_hold_up_nothing(tmp_path: Path) -> None:
    """Clients that send requests and never read the answers delay neither other clients nor the stop."""
    async with (
        running(tmp_path, CONFIG.replace("drain_seconds = 10", "drain_seconds = 1")) as server,
        trio.open_nursery() as nursery,
    ):
        receiver = await nursery.start(Receiver().run)
        await server.webhook(receiver.url)
        host, port = server.url.removeprefix("http://").split(":")
        lazy = []
        for _ in range(20):
            client = socket.create_connection((host, int(port)))
            client.setblocking(False)
            lazy.append(client)
            request = f"GET /api/openapi.json HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.first_key}\r\n\r\n"
            try:
                for _ in range(200):
                    client.send(request.encode())
            except BlockingIOError:
                pass
        await check_server(server, 20)
        with trio.fail_after(PATIENCE_SECONDS):
            assert await server.stop() == 0
        for client in lazy:
            client.close()
        nursery.cancel_scope.cancel()


async def test_512_slow_clients_hold_up_nothing(tmp_path: Path) -> None:
    """While 512 clients send slowly or nothing, others are answered, and events are accepted and delivered."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver().run)
        webhook = await server.webhook(receiver.url)
        host, port = server.url.removeprefix("http://").split(":")
        key = f"authorization: Bearer {server.first_key}\r\n".encode()
        starts = (b"", HEAD + b"a: ", POST + key + b"content-length: 1000\r\n\r\n{", POST + key + CHUNKS)
        with ExitStack() as opened:
            slow = [opened.enter_context(socket.create_connection((host, int(port)))) for _ in range(512)]
            for number, client in enumerate(slow):
                client.sendall(starts[number % 4])

            async def drip() -> None:
                while True:
                    for number, client in enumerate(slow):
                        if number % 4:
                            client.sendall(b"1\r\n \r\n" if number % 4 == 3 else b" ")
                        if number % 32 == 0:
                            await trio.sleep(0.05)

            async with trio.open_nursery() as dripping:
                dripping.start_soon(drip)
                for _ in range(100):
                    await one_request(server)
                await check_server(server, 20)
                await server.settled(webhook["id"])
                assert len(receiver.requests) == 20
                dripping.cancel_scope.cancel()
        nursery.cancel_scope.cancel()


async def one_request(server: Server) -> None:
    """Request the list of webhooks on a connection of its own."""
    host, port = server.url.removeprefix("http://").split(":")
    stream = await trio.open_tcp_stream(host, int(port))
    async with stream:
        request = f"GET /api/webhooks HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {server.first_key}\r\n\r\n"
        await stream.send_all(request.encode())
        assert (await stream.receive_some()).startswith(b"HTTP/1.1 200")


async def test_unsupported_requests_get_an_error(tmp_path: Path) -> None:
    """Upgrades are served as plain HTTP; CONNECT, HTTP/2 and broken requests get an error status."""
    async with running(tmp_path) as server:
        host, port = server.url.removeprefix("http://").split(":")

        def ask(payload: bytes) -> bytes:
            return fire(host, int(port), payload)

        assert ask(KEYED).startswith(b"HTTP/1.1 200")
        assert ask(KILLERS[11]).startswith(b"HTTP/1.1 405")
        assert b"application/problem+json" in ask(KILLERS[11])
        assert ask(H2).startswith(b"HTTP/1.1 505")
        assert ask(b"GET / HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n").startswith(b"HTTP/1.1 400")
        assert ask(POST + b"content-length: 2\r\n\r\n{}").startswith(b"HTTP/1.1 401")

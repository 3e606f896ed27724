"""Limits of the API's port: requests of a key, connections, and deadlines."""

import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest
import trio
from quart import request
from quart_trio import QuartTrio
from trio.testing import MockClock

from tests.admin.raw import exchange, split_replies
from tests.e2e.harness import CONFIG, Server, running
from tests.patience import PATIENCE_SECONDS
from webhookd.admin.bodies import chunks, with_bodies
from webhookd.admin.guard import Guard
from webhookd.admin.limits import MOST_BUCKETS, RateLimits, site_of
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.sockets.tcp import bind_tcp

HEALTH = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.at = 100.0

    def __call__(self) -> float:
        return self.at


def test_a_keys_bucket_empties_and_fills() -> None:
    """A burst passes, then the rate applies; each key has its own bucket, and the headers show the rest."""
    clock = Hand()
    limits = RateLimits(2.0, 4, clock)
    remaining = []
    for _ in range(4):
        quota = limits.take("key_A")
        assert quota is not None
        quota.check()
        remaining.append(quota.remaining)
    assert remaining == [3, 2, 1, 0]
    refused = limits.take("key_A")
    assert refused is not None
    assert refused.headers() == {"ratelimit-policy": '"key";q=4;w=2', "ratelimit": '"key";r=0;t=2'}
    with pytest.raises(Rejected) as rejected:
        refused.check()
    assert (rejected.value.code, rejected.value.retry_after_seconds) == (ErrorCode.RATE_LIMITED, 1)
    other = limits.take("key_B")
    assert other is not None
    assert other.remaining == 3
    clock.at += 0.5
    again = limits.take("key_A")
    assert again is not None
    again.check()
    clock.at += 3600
    full = limits.take("key_A")
    assert full is not None
    assert full.headers()["ratelimit"] == '"key";r=3;t=1'


def test_without_a_rate_nothing_is_counted() -> None:
    """The limit is off unless the configuration sets it."""
    limits = RateLimits(None, 1)
    assert [limits.take("key_A") for _ in range(3)] == [None, None, None]


def test_the_number_of_buckets_is_bounded() -> None:
    """The number of buckets is bounded: those of the most recently used keys are kept."""
    limits = RateLimits(0.001, 1, Hand())
    limits.take("key_first")
    for number in range(2 * MOST_BUCKETS):
        limits.take(f"key_{number}")
    assert len(limits._buckets) == MOST_BUCKETS
    again, last = limits.take("key_first"), limits.take(f"key_{2 * MOST_BUCKETS - 1}")
    assert again is not None
    assert last is not None
    assert (again.retry_after_seconds, last.retry_after_seconds) == (None, 1000)


@pytest.mark.parametrize(
    ("address", "site"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("local", "local"),
    ],
)
def test_a_client_is_told_by_what_it_cannot_have_many_of(address: str, site: str) -> None:
    """A client counts by its IPv4 address, in either notation, or by its /64 network of IPv6."""
    assert site_of(address) == site


async def test_a_key_that_asks_too_often_is_told_when_to_come_back(tmp_path: Path) -> None:
    """Beyond the rate a key gets 429 with the headers; events, the control socket and other keys are not limited."""
    config = CONFIG.replace("port = 0", "port = 0\nrate_limit_per_second = 0.01\nrate_limit_burst = 3")
    async with (
        running(tmp_path, config) as server,
        httpx.AsyncClient(base_url=server.url, trust_env=False) as client,
    ):
        key = {"authorization": f"Bearer {server.first_key}"}
        answers = [await client.get("/api/webhooks", headers=key) for _ in range(3)]
        answers.append(await client.get("/api/nothing", headers=key))
        assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
        assert [answer.headers["ratelimit"][:9] for answer in answers] == [
            '"key";r=2', '"key";r=1', '"key";r=0', '"key";r=0',
        ]  # fmt: skip
        assert answers[0].headers["ratelimit-policy"] == '"key";q=3;w=300'
        assert answers[3].json()["code"] == "RATE_LIMITED"
        assert 90 <= int(answers[3].headers["retry-after"]) <= 100
        for _ in range(5):
            event = await client.post("/api/events", headers=key, json={"type": "user.created", "data": {}})
            assert event.status_code == 202
            assert "ratelimit" not in event.headers
            assert (await server.get("/api/webhooks"))["data"] == []
        other = await server.post("/api/keys", {"role": "viewer"})
        viewer = await client.get("/api/webhooks", headers={"authorization": f"Bearer {other['key']}"})
        assert (viewer.status_code, viewer.headers["ratelimit"][:9]) == (200, '"key";r=2')
        assert "ratelimit" not in (await client.get("/healthz")).headers
        assert (await client.get("/api/webhooks", headers={"authorization": "Bearer x"})).status_code == 401


def connect(server: Server, source: str) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=PATIENCE_SECONDS, source_address=(source, 0))


def ask(client: socket.socket) -> bytes:
    """Send a request and return the first bytes of its answer."""
    client.sendall(HEALTH)
    return client.recv(65_536)


async def test_connections_are_bounded_in_all_and_for_an_address(tmp_path: Path) -> None:
    """Connections are limited for each address and in total, and are free again when they end."""
    config = CONFIG.replace("port = 0", "port = 0\nmax_connections = 6\nmax_connections_per_address = 4")
    async with running(tmp_path, config) as server:
        with ExitStack() as opened:
            first = [opened.enter_context(connect(server, "127.0.0.1")) for _ in range(4)]
            assert [ask(client)[9:12] for client in first] == [b"200"] * 4
            with connect(server, "127.0.0.1") as fifth:
                refused = fifth.recv(65_536)
            assert refused.startswith(b"HTTP/1.1 429 ")
            assert b"max_connections_per_address" in refused
            others = [opened.enter_context(connect(server, f"127.0.0.{number}")) for number in (2, 3)]
            assert [ask(client)[9:12] for client in others] == [b"200"] * 2
            with connect(server, "127.0.0.4") as seventh:
                [reply], _ = split_replies(seventh.recv(65_536))
            assert (reply.status, reply.headers["retry-after"]) == (429, "1")
            assert b"server.max_connections allows" in reply.body
            assert (await server.get("/api/webhooks"))["data"] == []
        with trio.fail_after(PATIENCE_SECONDS):
            while True:
                with connect(server, "127.0.0.1") as again:
                    if ask(again)[9:12] == b"200":
                        break
                await trio.sleep(0.01)
        # A flood of refused connections is a line of the log now and then, not one each.
        for client in [connect(server, "127.0.0.1") for _ in range(60)]:
            client.close()
        assert server.log().count("http.turned_away") < 10


OTHER_USER = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(65534)
client = socket.socket(socket.AF_UNIX)
try:
    client.connect(sys.argv[1])
except PermissionError:
    print("EACCES"); sys.exit()
try:
    client.sendall(b"GET /api/keys HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n")
except BrokenPipeError:
    pass  # refused before it was asked
print(client.recv(65536).decode())
"""


async def test_the_control_socket_is_for_its_own_user_and_root(tmp_path: Path) -> None:
    """Another user is refused by the file's mode, and if the mode was changed, by the peer's uid."""
    async with running(tmp_path) as server:
        path = tmp_path / "control.sock"
        assert path.stat().st_mode & 0o777 == 0o600
        assert (await server.get("/api/keys"))["data"]
        if os.geteuid() != 0:
            pytest.skip("only root may become another user")
        for directory in (tmp_path, *tmp_path.parents):
            if directory == tmp_path or directory.name.startswith(("pytest-", "popen-")):
                directory.chmod(0o755)

        async def as_nobody() -> str:
            command = [sys.executable, "-c", OTHER_USER, str(path)]
            return (await trio.run_process(command, capture_stdout=True)).stdout.decode()

        assert await as_nobody() == "EACCES\n"
        path.chmod(0o666)
        answer = await as_nobody()
        assert answer.startswith("HTTP/1.1 403 Forbidden\r\n")
        assert "you are user 65534" in answer
        assert (await server.get("/api/keys"))["data"]


@asynccontextmanager
async def guarded(*, head_seconds: float = 0.5, body_seconds: float = 0.5) -> AsyncIterator[tuple[str, int]]:
    """Run a guard with short deadlines around an application that counts the lines of a body."""
    app = QuartTrio("guarded")
    app.asgi_app = with_bodies(app.asgi_app)  # type: ignore[assignment,method-assign]  # Quart documents it

    @app.post("/")
    async def count() -> str:
        return str(sum([chunk.count(b"\n") async for chunk in chunks(request, body_seconds)]))

    [listener] = bind_tcp("127.0.0.1", 0)
    guard = Guard(
        app,
        tcp=[listener],
        control=[],
        max_connections=100,
        max_connections_per_address=100,
        new_request_id=lambda: "req_1",
        head_timeout_seconds=head_seconds,
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(guard.run)
        yield listener.getsockname()
        nursery.cancel_scope.cancel()
    listener.close()


@pytest.fixture
def patient_clock() -> MockClock:
    """A clock that jumps when nothing happens for a moment, which is enough for data on loopback to arrive."""
    return MockClock(autojump_threshold=0.01)


async def drip(address: tuple[str, int], start: bytes, drop: bytes, seconds: float) -> tuple[bytes, float]:
    """Send `start`, then `drop` again and again; return what comes back, and when the connection ended."""
    began = trio.current_time()
    received = b""
    with trio.move_on_after(seconds):
        stream = await trio.open_tcp_stream(*address)
        async with stream, trio.open_nursery() as nursery:

            async def send() -> None:
                try:
                    await stream.send_all(start)
                    while True:
                        await trio.sleep(0.05)
                        await stream.send_all(drop)
                except trio.BrokenResourceError:
                    pass  # cut off, which the other end of it sees too

            nursery.start_soon(send)
            try:
                while chunk := await stream.receive_some():
                    received += chunk
            except trio.BrokenResourceError:
                pass
            nursery.cancel_scope.cancel()
    return received, trio.current_time() - began


async def test_a_head_that_drips_is_cut_off(patient_clock: MockClock) -> None:
    """A head has one deadline, however many of its bytes arrive; so has the wait for the next head."""
    async with guarded() as address:
        _, seconds = await drip(address, b"GET / HTTP/1.1\r\nhost: x\r\na: ", b"b", 60)
        assert 0.5 <= seconds < 10
        stream = await trio.open_tcp_stream(*address)
        async with stream:
            with trio.fail_after(PATIENCE_SECONDS):
                assert await stream.receive_some() == b""


async def test_a_body_that_drips_is_cut_off(patient_clock: MockClock) -> None:
    """A stream may last as long as its lines end in time; a line that never ends is a 408."""
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    async with guarded() as address:
        received, seconds = await drip(address, head, b"1\r\nx\r\n", 60)
        assert received.startswith(b"HTTP/1.1 408 ")
        assert 0.5 <= seconds < 10
        received, _ = await drip(address, head, b"1\r\n\n\r\n", 1.5)
        assert received == b""


async def test_a_request_that_ends_is_answered_within_the_deadlines() -> None:
    """A request that arrives in pieces within the deadlines is served."""
    async with guarded(head_seconds=5, body_seconds=5) as address:
        body = [b"2\r\na\n\r\n"] * 3
        head = [b"POST / HT", b"TP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r", b"\n\r\n"]
        replies, rest = await trio.to_thread.run_sync(partial(exchange, address, [*head, *body, b"0\r\n\r\n"]))
        assert ([reply.body for reply in replies], rest) == ([b"3"], b"")

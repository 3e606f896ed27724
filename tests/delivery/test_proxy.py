"""Sending through an egress proxy: what is dialled and kept, and that one endpoint's failures affect no other."""

import time
from collections.abc import Sequence

import httpcore
import pytest
import trio
from trio.testing import MockClock

from tests.delivery import receivers
from tests.delivery.hostile import Stream, proxying, read_request, saying, serving
from tests.delivery.out import OK, StubResolver, sending, server_context, through
from tests.patience import until
from tests.ports import held_port
from webhookd.base.errors import ConfigError
from webhookd.base.models import DeliveryError
from webhookd.config import DeliveryConfig, EgressConfig
from webhookd.delivery.egress.resolver import SystemResolver
from webhookd.delivery.http.sender import Sender
from webhookd.delivery.http.tunnel import ToTheProxy


async def test_a_proxy_is_used_and_named_when_it_fails() -> None:
    """With `egress.proxy` requests go through it, in plain text and by CONNECT; its failure is `connect`."""
    async with proxying() as proxy, sending(through(proxy)) as out:
        async with (
            serving(saying(OK), ssl_context=server_context("127.0.0.1")) as secured,
            serving(saying(OK)) as clear,
        ):
            assert (await out.send(secured.url)).status == 200
            assert (await out.send(clear.url + "?a=b")).status == 200
            assert proxy.asked == [
                f"CONNECT {secured.url.split('/')[2]} HTTP/1.1".encode(),
                f"POST {clear.url}?a=b HTTP/1.1".encode(),
            ]
        with held_port() as port:
            outcome = await out.send(f"https://127.0.0.1:{port}/")
        assert (outcome.error, outcome.detail) == (DeliveryError.CONNECT, "through the proxy: 502 Bad Gateway")
    with held_port() as port:
        nowhere = EgressConfig(allow_http=True, ports=(), proxy=f"http://127.0.0.1:{port}")
        async with sending(nowhere) as out:
            outcome = await out.send("https://receiver.example.com/")
    assert outcome.error is DeliveryError.CONNECT
    assert outcome.detail == "through the proxy: can't connect to the proxy: Connection refused"


@pytest.mark.parametrize(
    "proxy", ["ftp://proxy.example", "socks5://proxy.example", "http://", "proxy:3128", "http://:3128"]
)
def test_what_is_no_proxy_stops_the_start(proxy: str) -> None:
    """Only HTTP proxies are supported; any other is refused at the start."""
    with pytest.raises(ConfigError, match=r"egress\.proxy"):
        Sender(DeliveryConfig(), EgressConfig(proxy=proxy))


async def test_nothing_but_the_proxy_is_dialled() -> None:
    """Only the proxy's own name and port can be connected to, and no socket file."""
    way = ToTheProxy("proxy.example", 3128, StubResolver(["127.0.0.1"]))
    for host, port in (("127.0.0.1", 3128), ("proxy.example", 80), ("10.0.0.1", 3128)):
        with pytest.raises(httpcore.ConnectError, match="is not the proxy"):
            await way.connect_tcp(host, port)
    with pytest.raises(NotImplementedError):
        await way.connect_unix_socket("/run/docker.sock")


async def test_only_the_proxys_name_is_resolved_here() -> None:
    """The proxy resolves a receiver's name; of the proxy's own addresses the first that answers is used."""
    asked = []

    class Recording:
        async def resolve(self, host: str, port: int) -> Sequence[str]:
            await trio.lowlevel.checkpoint()
            asked.append(host)
            return ["127.0.0.2", "127.0.0.1"]

    async with proxying() as proxy:
        port = proxy.url.rpartition(":")[2]
        config = EgressConfig(allow_http=True, ports=(), proxy=f"http://user:s3cret@proxy.example:{port}")
        async with sending(config, resolver=Recording()) as out:
            assert (await out.send("https://receiver.invalid.example:8443/hook")).error is DeliveryError.CONNECT
            assert (await out.send("https://[2606:4700:4700::1111%25lo]/")).error is DeliveryError.BLOCKED
            assert (await out.send("http://localhost/")).error is DeliveryError.BLOCKED
            assert (await out.send("http://10.0.0.1/")).error is DeliveryError.BLOCKED
        assert asked == ["proxy.example"]
        assert proxy.asked == [b"CONNECT receiver.invalid.example:8443 HTTP/1.1"]
        assert b"proxy-authorization: basic dxnlcjpzm2nyzxq=" in proxy.heads[0].lower()
        assert b"webhook-id" not in proxy.heads[0]


async def test_an_ipv6_literal_keeps_its_brackets() -> None:
    """A receiver's IPv6 address is sent to the proxy in brackets, so that its port is clear."""
    async with proxying() as proxy, sending(through(proxy)) as out:
        with held_port() as port:
            for scheme in ("http", "https"):
                await out.send(f"{scheme}://[::1]:{port}/")
        assert proxy.asked[0].startswith(b"POST http://[::1]:")
        assert proxy.asked[1].startswith(b"CONNECT [::1]:")


async def test_a_tunnel_is_kept_for_its_endpoint() -> None:
    """Requests of one endpoint share a tunnel, another endpoint has its own, and `forget` or idle time closes it."""
    async with (
        proxying() as proxy,
        sending(through(proxy)) as out,
        serving(saying(OK, then_close=False), ssl_context=server_context("127.0.0.1")) as receiver,
    ):
        for _ in range(3):
            await out.send(receiver.url)
        await out.send(receiver.url, endpoint_id="wh_2")
        assert (receiver.connections, out.sender.transport.idle_connections) == (2, 2)
        assert (out.sender.transport.opened, out.sender.transport.reused) == (2, 2)
        await out.sender.forget("wh_1")
        await out.sender.forget("wh_3")
        assert out.sender.transport.idle_connections == 1
        await out.send(receiver.url)
        assert receiver.connections == 3
        out.sender.transport.close_idle(trio.current_time() - 60)
        assert out.sender.transport.idle_connections == 2
        out.sender.transport.close_idle(trio.current_time() + 1)
        assert out.sender.transport.idle_connections == 0
        await until(lambda: not proxy.open_connections)


async def test_tunnels_that_failed_leave_nothing_behind(mock_clock: MockClock) -> None:
    """Handshakes that fail, stall or are canceled close their connections and free their places."""
    async with (
        proxying() as proxy,
        sending(through(proxy), connect=0.5) as out,
        serving(saying(OK), ssl_context=receivers.expired()) as expired,
        serving(receivers.never_shakes_hands) as stalled,
    ):
        asked = "https" + stalled.url.removeprefix("http")

        async def fail(endpoint_id: str) -> None:
            await out.send(expired.url, endpoint_id=endpoint_id)
            await out.send(asked, endpoint_id=endpoint_id)

        async def fail_soon(endpoint_id: str) -> None:
            await out.send(asked, endpoint_id=endpoint_id, seconds=0.1)

        async with trio.open_nursery() as flights:
            for number in range(20):
                flights.start_soon(fail, f"wh_{number % 10}")
            # Time stands still until all have got where their deadlines find them.
            await until(lambda: stalled.connections == 20)
            # The time for a handshake begins after the connection, so for some after a jump.
            while flights.child_tasks:
                mock_clock.jump(0.5)
                await trio.to_thread.run_sync(time.sleep, 0.005)
        async with trio.open_nursery() as flights:
            for number in range(20):
                flights.start_soon(fail_soon, f"wh_{number % 10}")
            await until(lambda: stalled.connections == 40)
            mock_clock.jump(0.1)
        assert expired.connections == 20
        await until(lambda: not proxy.open_connections)
        assert out.sender.transport.idle_connections == 0


async def test_a_failure_leaves_the_endpoints_other_requests_alone() -> None:
    """A failed request doesn't disturb other requests in flight to the same endpoint."""
    is_time = trio.Event()

    async def script(stream: Stream, number: int) -> None:
        request = await read_request(stream)
        if b"/bad" in request.split(b"\r\n")[0]:
            await stream.send_all(b"no HTTP\r\n\r\n")
        else:
            await is_time.wait()
            await stream.send_all(OK)

    statuses = []
    async with proxying() as proxy, sending(through(proxy)) as out, serving(script) as receiver:

        async def wait() -> None:
            statuses.append((await out.send(receiver.url)).status)

        async with trio.open_nursery() as flights:
            for _ in range(3):
                flights.start_soon(wait)
            await until(lambda: receiver.connections == 3)
            outcome = await out.send(receiver.url.replace("/hook", "/bad"))
            assert outcome.error is DeliveryError.PROTOCOL
            is_time.set()
        assert statuses == [200, 200, 200]


async def test_a_dead_proxy_name_is_said() -> None:
    """A proxy whose name doesn't resolve is `connect`, with the reason."""
    config = EgressConfig(proxy="http://proxy.example:3128")
    async with sending(config, resolver=StubResolver([])) as out:
        outcome = await out.send("https://receiver.example.com/")
    assert (outcome.error, outcome.detail) == (
        DeliveryError.CONNECT,
        "through the proxy: the proxy's name doesn't resolve: no such name",
    )


async def test_a_proxy_that_swallows_everything_is_a_timeout(autojump_clock: MockClock) -> None:
    """A proxy that never answers costs no more than the deadline for connecting."""

    class Never(SystemResolver):
        async def resolve(self, host: str, port: int) -> Sequence[str]:
            await trio.sleep_forever()
            raise AssertionError

    async with sending(EgressConfig(proxy="http://proxy.example:3128"), resolver=Never(), connect=0.2) as out:
        assert (await out.send("https://receiver.example.com/")).error is DeliveryError.TIMEOUT

"""The maximum age of a connection, in virtual time over real sockets: what is checked again, and when."""

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.delivery import receivers
from tests.delivery.hostile import Stream, proxying, read_request, saying, serving
from tests.delivery.out import OK, StubResolver, sending, server_context, through
from tests.patience import until
from webhookd.base.models import DeliveryError
from webhookd.config import EgressConfig
from webhookd.delivery.http.exchange import LEAST_SHARE_OF_AGE

NAME = "receiver.example.com"
OPEN = saying(OK, then_close=False)
CLOSING = saying(OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
YOUNG = 60 * LEAST_SHARE_OF_AGE - 1


async def test_a_name_that_moves_is_followed(mock_clock: MockClock) -> None:
    """A busy connection is replaced within the maximum age, and the next one goes to the name's new address."""
    async with (
        serving(OPEN) as blue,
        serving(OPEN, host="127.0.0.2", port=blue.port) as green,
        sending(resolver=StubResolver(["127.0.0.1"], ["127.0.0.2"])) as out,
    ):
        url = f"http://{NAME}:{blue.port}/"
        went = []
        for _ in range(122):  # the last of them at 60.5 s
            went.append((await out.send(url)).remote_address)
            mock_clock.jump(0.5)
    to_blue, to_green = f"127.0.0.1:{blue.port}", f"127.0.0.2:{green.port}"
    switched = went.index(to_green)
    assert 60 * LEAST_SHARE_OF_AGE <= switched * 0.5 <= 60
    assert went == [to_blue] * switched + [to_green] * (122 - switched)
    assert (blue.connections, green.connections) == (1, 1)


async def test_a_name_that_turns_internal_is_noticed(mock_clock: MockClock) -> None:
    """A name's addresses are checked again within the maximum age of a connection."""
    async with serving(OPEN) as receiver, sending(resolver=StubResolver(["127.0.0.1"], ["10.0.0.1"])) as out:
        url = f"http://{NAME}:{receiver.port}/"
        assert (await out.send(url)).status == 200
        for seconds in (20.0, YOUNG - 20.0):
            mock_clock.jump(seconds)
            assert (await out.send(url)).is_reused
        mock_clock.jump(60 - YOUNG)
        assert (await out.send(url)).error is DeliveryError.BLOCKED


async def test_a_certificate_that_went_bad_is_noticed(mock_clock: MockClock) -> None:
    """The certificate is checked again within the maximum age, with kept connections and resumed sessions."""
    async with serving(OPEN, ssl_context=receivers.good()) as receiver, sending() as out:
        assert (await out.send(receiver.url)).status == 200
        receiver.ssl_context = receivers.expired()
        for seconds in (20.0, YOUNG - 20.0):
            mock_clock.jump(seconds)
            assert (await out.send(receiver.url)).is_reused
        mock_clock.jump(60 - YOUNG)
        outcome = await out.send(receiver.url)
    assert (outcome.error, "expired" in outcome.detail) == (DeliveryError.TLS, True)


async def test_an_old_idle_connection_is_closed(mock_clock: MockClock) -> None:
    """An idle connection that is too old is closed without waiting for a request."""
    async with serving(OPEN) as receiver, sending(max_age=10.0) as out:
        await out.send(receiver.url)
        mock_clock.jump(7.0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert out.sender.transport.idle_connections == 1
        mock_clock.jump(3.0)
        await until(lambda: receiver.open_connections == 0)
        assert out.sender.transport.idle_connections == 0


async def test_a_request_in_flight_ends_before_its_old_connection(mock_clock: MockClock) -> None:
    """A connection that becomes too old during a request is closed after the answer."""
    is_time = trio.Event()
    statuses = []

    async def script(stream: Stream, number: int) -> None:
        await read_request(stream)
        if number == 1:
            await is_time.wait()
        await stream.send_all(OK)
        await stream.receive_some(1)

    async with serving(script) as receiver, sending() as out, trio.open_nursery() as nursery:

        async def send() -> None:
            statuses.append((await out.send(receiver.url, seconds=1000.0)).status)

        nursery.start_soon(send)
        await until(lambda: receiver.connections == 1)
        mock_clock.jump(61)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not statuses
        is_time.set()
        await until(lambda: bool(statuses))
        assert statuses == [200]
        assert out.sender.transport.idle_connections == 0
        await until(lambda: receiver.open_connections == 0)


async def test_a_session_is_resumed_until_its_certificate_was_looked_at_too_long_ago(mock_clock: MockClock) -> None:
    """With a receiver that closes each connection, sessions are resumed, with a full handshake within the maximum age.

    Each resumption hands out a new session, which must not make the old look at the certificate a new one.
    """
    resumed = []

    async def script(stream: Stream, number: int) -> None:
        await CLOSING(stream, number)
        assert isinstance(stream, trio.SSLStream)
        resumed.append(stream.session_reused)

    async with serving(script, ssl_context=receivers.good()) as receiver, sending() as out:
        for _ in range(24):
            assert (await out.send(receiver.url)).status == 200
            mock_clock.jump(5.0)
    in_full = [at * 5.0 for at, is_resumed in enumerate(resumed) if not is_resumed]
    assert in_full[0] == 0
    assert 60 * LEAST_SHARE_OF_AGE <= in_full[1] <= 60
    assert len(in_full) == 2 or 60 * LEAST_SHARE_OF_AGE <= in_full[2] - in_full[1] <= 60


async def test_a_connection_that_was_resumed_is_as_old_as_its_session(mock_clock: MockClock) -> None:
    """A connection made with a resumed session expires with it: its certificate was checked at the same time."""
    resumed = []

    async def script(stream: Stream, number: int) -> None:
        assert isinstance(stream, trio.SSLStream)
        await read_request(stream)
        resumed.append(stream.session_reused)
        await stream.send_all(OK)
        await OPEN(stream, number)

    async with serving(script, ssl_context=receivers.good()) as receiver, sending() as out:
        await out.send(receiver.url)
        await out.sender.forget("wh_1")
        mock_clock.jump(40)
        assert not (await out.send(receiver.url)).is_reused
        mock_clock.jump(7)
        assert (await out.send(receiver.url)).is_reused
        mock_clock.jump(13)
        assert not (await out.send(receiver.url)).is_reused
    assert resumed == [False, True, False]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_connection_through_a_proxy_has_a_greatest_age(scheme: str, mock_clock: MockClock) -> None:
    """Connections through a proxy are replaced too: the proxy's name is resolved again, and old ones are closed."""
    context = server_context("127.0.0.1") if scheme == "https" else None
    async with proxying() as proxy, serving(OPEN, ssl_context=context) as receiver:
        port = int(proxy.url.rpartition(":")[2])
        config = EgressConfig(
            allow_http=True,
            ports=(),
            allow_networks=through(proxy).allow_networks,
            proxy=f"http://proxy.example.com:{port}",
        )
        async with sending(config, resolver=StubResolver(["127.0.0.1"], [])) as out:
            assert (await out.send(receiver.url)).status == 200
            for seconds in (20.0, YOUNG - 20.0):
                mock_clock.jump(seconds)
                assert (await out.send(receiver.url)).is_reused
            mock_clock.jump(60 - YOUNG)
            outcome = await out.send(receiver.url)
            await until(lambda: proxy.open_connections == 0)
    assert outcome.error is DeliveryError.CONNECT
    assert "the proxy's name doesn't resolve" in outcome.detail


async def test_an_old_idle_tunnel_is_closed(mock_clock: MockClock) -> None:
    """An idle connection through a proxy that is too old is closed without waiting for a request."""
    async with (
        proxying() as proxy,
        serving(OPEN, ssl_context=server_context("127.0.0.1")) as receiver,
        sending(through(proxy), max_age=10.0) as out,
    ):
        await out.send(receiver.url)
        mock_clock.jump(7.0)
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert out.sender.transport.idle_connections == 1
        mock_clock.jump(3.0)
        await until(lambda: proxy.open_connections == 0)
        assert out.sender.transport.idle_connections == 0

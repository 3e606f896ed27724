"""Names with several addresses, some of them dead, silent or failing, over real sockets and through a proxy.

Time is virtual: it goes on only while nothing comes over any socket, so that a busy machine delays nothing.
"""

import pytest
import trio
from trio.testing import MockClock

from tests.delivery import receivers
from tests.delivery.hostile import Stream, proxying, saying, serving, swallowing
from tests.delivery.out import OK, StubResolver, sending, server_context
from tests.patience import until
from webhookd.base.models import DeliveryError
from webhookd.config import EgressConfig
from webhookd.delivery.http.happy_eyeballs import ATTEMPT_DELAY_SECONDS

NAME = "receiver.example.com"


@pytest.fixture(autouse=True)
def _clock(autojump_clock: MockClock) -> None:
    autojump_clock.autojump_threshold = 0.1


async def says_nothing(stream: Stream, number: int) -> None:
    """Read everything and answer nothing, until the other side has closed."""
    tcp = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    while await tcp.receive_some(65_536):
        pass


@pytest.mark.parametrize("swallows", ["::1", "127.0.0.8"])
async def test_a_dead_first_address_costs_no_delivery(swallows: str) -> None:
    """Within two seconds a name whose first address answers no SYN is reached at its second address."""
    async with serving(saying(OK)) as receiver:
        with swallowing(swallows, receiver.port):
            async with sending(resolver=StubResolver([swallows, "127.0.0.1"])) as out:
                outcome = await out.send(f"http://{NAME}:{receiver.port}/", seconds=2.0)
    assert (outcome.status, outcome.remote_address) == (200, f"127.0.0.1:{receiver.port}")
    assert outcome.duration_seconds >= ATTEMPT_DELAY_SECONDS - 0.001


async def test_an_address_that_is_silent_in_tls_is_not_connected() -> None:
    """While an address accepts the connection but not the TLS handshake, the next is tried, and the first closed."""
    async with (
        serving(saying(OK, then_close=False), ssl_context=server_context(NAME)) as receiver,
        serving(says_nothing, host="127.0.0.8", port=receiver.port) as silent,
        sending(resolver=StubResolver(["127.0.0.8", "127.0.0.1"])) as out,
    ):
        outcome = await out.send(f"https://{NAME}:{receiver.port}/", seconds=2.0)
        assert (outcome.status, outcome.remote_address) == (200, f"127.0.0.1:{receiver.port}")
        assert (silent.connections, receiver.connections) == (1, 1)
        assert outcome.duration_seconds >= ATTEMPT_DELAY_SECONDS - 0.001
        await until(lambda: silent.open_connections == 0)
        assert out.sender.transport.idle_connections == 1


async def test_an_address_with_a_wrong_certificate_gives_way_to_the_next() -> None:
    """After an invalid certificate at one address the next one is tried, whose certificate is valid."""
    async with (
        serving(saying(OK), ssl_context=server_context(NAME)) as receiver,
        serving(saying(OK), ssl_context=server_context("127.0.0.1"), host="127.0.0.8", port=receiver.port) as wrong,
        sending(resolver=StubResolver(["127.0.0.8", "127.0.0.1"])) as out,
    ):
        outcome = await out.send(f"https://{NAME}:{receiver.port}/")
    assert (outcome.status, outcome.remote_address) == (200, f"127.0.0.1:{receiver.port}")
    assert wrong.connections == 1


@pytest.mark.parametrize("others", [["127.0.0.9"], ["127.0.0.9", "127.0.0.7"]])
async def test_of_several_failures_the_most_telling_is_reported(others: list[str]) -> None:
    """If one address can't be reached and another's certificate is invalid, it is `tls` with the latter's address."""
    async with (
        serving(saying(OK), ssl_context=server_context("127.0.0.1")) as wrong,
        sending(resolver=StubResolver([*others, "127.0.0.1"])) as out,
    ):
        outcome = await out.send(f"https://{NAME}:{wrong.port}/")
    assert (outcome.error, outcome.remote_address) == (DeliveryError.TLS, f"127.0.0.1:{wrong.port}")
    assert "Hostname mismatch" in outcome.detail


async def test_a_wrong_certificate_tells_more_than_the_silence_of_others() -> None:
    """At a deadline while other addresses are silent, the failure of one that was reached is reported."""
    async with serving(saying(OK), ssl_context=server_context("127.0.0.1")) as wrong:
        with swallowing("127.0.0.8", wrong.port):
            async with sending(resolver=StubResolver(["127.0.0.1", "127.0.0.8"]), connect=0.5) as out:
                outcome = await out.send(f"https://{NAME}:{wrong.port}/")
    assert (outcome.error, outcome.remote_address) == (DeliveryError.TLS, f"127.0.0.1:{wrong.port}")


async def test_of_several_silences_the_one_that_came_furthest_is_told() -> None:
    """At either deadline an address that is silent in TLS is reported rather than one that answers no SYN."""
    async with serving(says_nothing, host="127.0.0.8") as silent:
        with swallowing("127.0.0.1", silent.port):
            async with sending(resolver=StubResolver(["127.0.0.1", "127.0.0.8"]), connect=0.6) as out:
                slow = await out.send(f"https://{NAME}:{silent.port}/")
                late = await out.send(f"https://{NAME}:{silent.port}/", seconds=0.5)
        await until(lambda: silent.open_connections == 0)
    assert (slow.error, slow.detail) == (DeliveryError.TIMEOUT, "the TLS handshake took longer than 0.6 s")
    assert (late.error, late.detail) == (DeliveryError.TIMEOUT, "the TLS handshake was not done after 0.5 s")
    assert slow.remote_address == late.remote_address == f"127.0.0.8:{silent.port}"


async def test_a_canceled_attempt_closes_all_that_it_began() -> None:
    """An attempt that is canceled during the race leaves no connection open."""
    async with (
        serving(says_nothing, host="127.0.0.7") as first,
        serving(says_nothing, host="127.0.0.8", port=first.port) as second,
        sending(resolver=StubResolver(["127.0.0.7", "127.0.0.8"])) as out,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.send, f"https://{NAME}:{first.port}/")
            await until(lambda: second.open_connections == 1)
            assert first.open_connections == 1
            nursery.cancel_scope.cancel()
        await until(lambda: first.open_connections == second.open_connections == 0)
        assert (first.connections, second.connections) == (1, 1)


async def test_a_family_without_a_way_out_is_followed_by_the_other() -> None:
    """After one of twenty silent addresses of one family, the single one of the other family is tried second."""
    answers = [*(f"127.0.9.{number}" for number in range(1, 21)), "::1"]
    async with serving(saying(OK), host="::1") as receiver:
        with swallowing("0.0.0.0", receiver.port):
            async with sending(resolver=StubResolver(answers)) as out:
                outcome = await out.send(f"http://{NAME}:{receiver.port}/", seconds=2.0)
    assert (outcome.status, outcome.remote_address) == (200, f"[::1]:{receiver.port}")


async def test_a_session_goes_to_the_address_that_gets_there() -> None:
    """A dead first address doesn't take the session: the one that is reached resumes it."""
    resumed = []

    async def script(stream: Stream, number: int) -> None:
        await saying(OK)(stream, number)
        assert isinstance(stream, trio.SSLStream)
        resumed.append(stream.session_reused)

    async with serving(script, ssl_context=server_context(NAME)) as receiver:
        with swallowing("127.0.0.8", receiver.port):
            async with sending(resolver=StubResolver(["127.0.0.8", "127.0.0.1"])) as out:
                for _ in range(2):
                    assert (await out.send(f"https://{NAME}:{receiver.port}/")).status == 200
    assert resumed == [False, True]


def _through(port: int, scheme: str) -> EgressConfig:
    networks = ("127.0.0.0/8", "::1/128")
    return EgressConfig(
        allow_http=True, ports=(), allow_networks=networks, proxy=f"{scheme}://proxy.example.com:{port}"
    )


async def test_a_proxy_with_a_dead_first_address_is_reached() -> None:
    """The proxy's own addresses are raced too: with a dead first one a delivery succeeds within two seconds."""
    async with proxying() as proxy, serving(saying(OK)) as receiver:
        port = int(proxy.url.rpartition(":")[2])
        with swallowing("::1", port):
            async with sending(_through(port, "http"), resolver=StubResolver(["::1", "127.0.0.1"])) as out:
                assert (await out.send(receiver.url, seconds=2.0)).status == 200


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_silent_in_tls_at_one_address_is_reached_at_the_next(scheme: str) -> None:
    """A proxy with TLS is connected after its handshake, for tunnels and for plain text."""
    context = server_context("127.0.0.1") if scheme == "https" else None
    async with (
        proxying(ssl_context=server_context("proxy.example.com")) as proxy,
        serving(saying(OK), ssl_context=context) as receiver,
    ):
        port = int(proxy.url.rpartition(":")[2])
        async with (
            serving(says_nothing, host="127.0.0.8", port=port) as silent,
            sending(_through(port, "https"), resolver=StubResolver(["127.0.0.8", "127.0.0.1"])) as out,
        ):
            assert (await out.send(receiver.url, seconds=3.0)).status == 200
            await until(lambda: silent.open_connections == 0)
            assert silent.connections == 1


async def test_a_proxy_whose_certificate_is_wrong_is_connect() -> None:
    """A proxy with an invalid certificate is `connect`, with OpenSSL's reason, and gets no request."""
    async with proxying(ssl_context=receivers.of_another_host()) as proxy:
        port = int(proxy.url.rpartition(":")[2])
        async with sending(_through(port, "https"), resolver=StubResolver(["127.0.0.1"])) as out:
            outcome = await out.send("https://127.0.0.1:9443/")
        await until(lambda: proxy.open_connections == 0)
    assert outcome.error is DeliveryError.CONNECT
    assert "Hostname mismatch" in outcome.detail
    assert not proxy.asked

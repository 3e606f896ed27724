"""Outgoing connections: kept, bounded, replaced, secured, and never to a forbidden address."""

import os
import select
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock

from tests.delivery.hostile import (
    Stream,
    delivered,
    read_request,
    saying,
    serving,
)
from tests.delivery.out import HEADERS, OK, StubResolver, sending, server_context
from tests.delivery.receivers import FORGED
from tests.patience import PATIENCE_SECONDS, until
from tests.ports import held_port
from tests.receiver import Receiver, Reply, always, steps
from webhookd.base.models import DeliveryError, Outcome
from webhookd.config import EgressConfig
from webhookd.delivery.egress.resolver import SystemResolver
from webhookd.delivery.http.transport import MAX_IDLE_AN_ENDPOINT, DirectTransport
from webhookd.delivery.request import Request


async def test_a_connection_is_kept_for_its_endpoint() -> None:
    """Requests of one endpoint share a connection, another endpoint has its own, and `forget` closes it."""
    async with sending() as out, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(always(Reply(body=b"x" * 9000))).run)
        outcomes = [await out.send(receiver.url) for _ in range(5)]
        outcomes.append(await out.send(receiver.url, endpoint_id="wh_2"))
        assert receiver.connections == 2
        assert [outcome.is_reused for outcome in outcomes] == [False, True, True, True, True, False]
        assert out.sender.transport.idle_connections == 2
        await out.sender.forget("wh_1")
        assert out.sender.transport.idle_connections == 1
        await out.send(receiver.url)
        assert receiver.connections == out.sender.transport.opened == 3
        assert out.sender.transport.reused == 4
        nursery.cancel_scope.cancel()


async def test_one_endpoint_keeps_a_bounded_number_of_connections() -> None:
    """Many requests at once use many connections, of which a bounded number is kept."""
    async with sending() as out, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(always(Reply(delay_seconds=0.3))).run)
        async with trio.open_nursery() as flights:
            for _ in range(MAX_IDLE_AN_ENDPOINT + 10):
                flights.start_soon(out.send, receiver.url)
        assert receiver.connections == MAX_IDLE_AN_ENDPOINT + 10
        assert out.sender.transport.idle_connections == MAX_IDLE_AN_ENDPOINT
        nursery.cancel_scope.cancel()


async def test_a_connection_closed_while_idle_costs_nothing() -> None:
    """A receiver that closes idle connections sees each request once."""
    seen = []

    async def script(stream: Stream, number: int) -> None:
        seen.append(number)
        await read_request(stream)
        await stream.send_all(OK)

    async with sending() as out, serving(script) as receiver:
        for _ in range(3):
            assert (await out.send(receiver.url)).status == 200
            await out.noticed()
    assert seen == [1, 2, 3]


async def test_a_reused_connection_that_ends_before_an_answer_is_replaced_once(mock_clock: MockClock) -> None:
    """A request lost at once on a reused connection is sent again on a new one; if lost there too, it fails."""

    async def script(stream: Stream, number: int) -> None:
        await read_request(stream)
        if number < 3:
            await stream.send_all(OK)
            await read_request(stream)

    async with sending() as out, serving(script) as receiver:
        assert (await out.send(receiver.url)).status == 200
        assert (await out.send(receiver.url)).status == 200
        assert receiver.connections == 2
        outcome = await out.send(receiver.url)
        assert receiver.connections == 3
    assert outcome.error is DeliveryError.PROTOCOL
    assert outcome.detail == "the receiver closed the connection without a byte of an answer"


async def test_a_receiver_that_thought_about_it_is_not_asked_twice(mock_clock: MockClock) -> None:
    """If a reused connection ends after a while, its request was read, so it isn't sent again in the same attempt."""

    async def script(stream: Stream, number: int) -> None:
        await read_request(stream)
        await stream.send_all(OK)
        await read_request(stream)
        mock_clock.jump(1.01)

    async with sending() as out, serving(script) as receiver:
        assert (await out.send(receiver.url)).status == 200
        outcome = await out.send(receiver.url)
        assert receiver.connections == 1
    assert outcome.error is DeliveryError.PROTOCOL


async def test_an_answer_that_has_begun_is_never_asked_for_again() -> None:
    """Once a byte of an answer has come, nothing is resent."""

    async def script(stream: Stream, number: int) -> None:
        await read_request(stream)
        await stream.send_all(OK)
        await read_request(stream)
        await stream.send_all(b"HTTP/1.1 2")

    async with sending() as out, serving(script) as receiver:
        await out.send(receiver.url)
        assert (await out.send(receiver.url)).error is DeliveryError.PROTOCOL
        assert receiver.connections == 1


async def test_bytes_behind_an_answer_end_the_connection() -> None:
    """Bytes after a response never become the response to the next request."""
    script = saying(OK + b"HTTP/1.1 500 Forged\r\ncontent-length: 0\r\n\r\n", then_close=False)
    async with sending() as out, serving(script) as receiver:
        for _ in range(3):
            assert (await out.send(receiver.url)).status == 200
        assert receiver.connections == 3


async def test_bytes_that_come_at_the_last_moment_never_become_an_answer() -> None:
    """Unasked bytes end a connection though its next request begins before the reactor has noticed them."""
    results: list[Outcome | Exception] = []
    connections: list[socket.socket] = []
    are_over = trio.Event()

    def serve() -> None:
        with suppress(OSError):  # the end of the test
            while True:
                connections.append(listener.accept()[0])
                connections[-1].recv(65_536)
                connections[-1].sendall(OK)

    async with sending() as out, trio.open_nursery() as nursery:
        transport = out.sender.transport
        assert isinstance(transport, DirectTransport)

        def first(result: Outcome | Exception) -> None:
            results.append(result)
            connections[0].sendall(FORGED)
            [idle] = transport._idle
            select.select([idle.stream.socket], [], [])
            transport.start(request, second)

        def second(result: Outcome | Exception) -> None:
            results.append(result)
            are_over.set()

        with socket.create_server(("127.0.0.1", 0)) as listener:
            nursery.start_soon(trio.to_thread.run_sync, serve)
            request = Request("wh_1", f"http://127.0.0.1:{listener.getsockname()[1]}/", HEADERS, b"{}", 10.0)
            transport.start(request, first)
            await are_over.wait()
            listener.shutdown(socket.SHUT_RDWR)
    for connection in connections:
        connection.close()
    assert [isinstance(result, Outcome) and result.status for result in results] == [200, 200]


@pytest.mark.parametrize("tls", [None, server_context("127.0.0.1")], ids=["plain", "tls"])
async def test_a_large_body_reaches_a_slow_reader_whole(tls: ssl.SSLContext | None) -> None:
    """What the socket's buffer doesn't take at once is sent later, byte for byte, and the connection is kept."""
    body = os.urandom(4_000_000)
    read: list[bytes] = []

    async def script(stream: Stream, number: int) -> None:
        for _ in range(2):
            await trio.testing.wait_all_tasks_blocked(0.01)  # until the buffers are full
            read.append((await read_request(stream)).partition(b"\r\n\r\n")[2])
            await stream.send_all(OK)

    async with sending() as out, serving(script, ssl_context=tls) as receiver:
        for _ in range(2):
            assert (await out.send(receiver.url, body=body)).status == 200
        assert receiver.connections == 1
    assert read == [body, body]


async def test_an_answer_before_the_request_is_read_counts() -> None:
    """A 413 is read although the receiver closes while the body is being sent."""

    async def script(stream: Stream, number: int) -> None:
        await stream.receive_some(10)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
        await delivered(stream)

    async with sending() as out, serving(script) as receiver:
        assert (await out.send(receiver.url, body=b"x" * 8_000_000)).status == 413


@pytest.mark.parametrize("tls", [None, server_context("127.0.0.1")], ids=["plain", "tls"])
async def test_an_answer_ends_a_request_that_is_read_no_further(tls: ssl.SSLContext | None) -> None:
    """A receiver that answers early, reads no more and keeps the connection open has answered, however much is left."""

    async def script(stream: Stream, number: int) -> None:
        await stream.receive_some(10)
        await stream.send_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n")
        await trio.sleep_forever()

    async with sending() as out, serving(script, ssl_context=tls) as receiver:
        with trio.fail_after(PATIENCE_SECONDS):
            outcome = await out.send(receiver.url, body=bytes(32_000_000), seconds=2 * PATIENCE_SECONDS)
        assert (outcome.status, outcome.error) == (413, None)
        assert out.sender.transport.idle_connections == 0  # the rest of the body would be taken for the next request


async def test_refused_and_reset_connections_are_told_apart() -> None:
    """A closed port is `connect`, a reset during the response is `protocol`, each with the kernel's reason."""
    async with sending() as out, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(steps("reset")).run)
        outcome = await out.send(receiver.url)
        assert (outcome.error, outcome.detail) == (
            DeliveryError.PROTOCOL,
            "the connection broke: Connection reset by peer",
        )
        nursery.cancel_scope.cancel()
    with held_port() as port:
        async with sending() as out:
            outcome = await out.send(f"http://127.0.0.1:{port}/")
    assert outcome.error is DeliveryError.CONNECT
    assert outcome.detail == f"can't connect to {outcome.remote_address}: Connection refused"


async def test_tls_is_verified_and_its_failure_told() -> None:
    """A valid certificate is accepted; a wrong name, an unknown authority and plain text are `tls` with the reason."""
    async with sending() as out:
        async with serving(saying(OK), ssl_context=server_context("127.0.0.1")) as receiver:
            assert (await out.send(receiver.url)).status == 200
        for context, reason in (
            (server_context("127.0.0.2"), "IP address mismatch"),
            (server_context("127.0.0.1", authority=trustme.CA()), "unable to get local issuer certificate"),
        ):
            async with serving(saying(OK), ssl_context=context) as receiver:
                outcome = await out.send(receiver.url)
            assert outcome.error is DeliveryError.TLS
            assert reason in outcome.detail
        async with serving(saying(OK)) as plain:
            outcome = await out.send(plain.url.replace("http:", "https:"), seconds=1.0)
        assert outcome.error in {DeliveryError.TLS, DeliveryError.TIMEOUT}


async def test_a_name_keeps_its_certificate_and_host() -> None:
    """A name is dialled by its checked address, but SNI, certificate check and Host use the name."""
    seen = []

    async def script(stream: Stream, number: int) -> None:
        seen.append((await read_request(stream)).split(b"\r\n")[1])
        await stream.send_all(OK)

    resolver = StubResolver(["127.0.0.1"])
    async with (
        sending(resolver=resolver) as out,
        serving(script, ssl_context=server_context("receiver.example.com")) as receiver,
    ):
        port = receiver.url.split(":")[2].split("/")[0]
        outcome = await out.send(f"https://receiver.example.com:{port}/hook")
    assert outcome.status == 200
    assert seen == [f"host: receiver.example.com:{port}".encode()]


async def test_a_name_that_turns_internal_is_never_dialled() -> None:
    """DNS rebinding fails: a name that was public when it was saved is checked at each connect."""
    resolver = StubResolver(["93.184.216.34"], ["127.0.0.1"])
    policy = EgressConfig(allow_http=True, ports=())
    async with sending(policy, resolver=resolver) as out, serving(saying(OK)) as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        url = f"http://rebind.example.com:{port}/hook"
        await out.sender.check_url(url)
        outcome = await out.send(url)
        literal = await out.send(receiver.url)
        assert receiver.connections == 0
    assert (outcome.error, outcome.detail) == (DeliveryError.BLOCKED, "127.0.0.1 is not a public address")
    assert literal.error is DeliveryError.BLOCKED


async def test_a_name_that_does_not_resolve_is_dns() -> None:
    """A name without an address is `dns`, and so is one that the system's resolver refuses."""
    async with sending(resolver=StubResolver([])) as out:
        assert (await out.send("https://nowhere.example.com/")).error is DeliveryError.DNS
    with pytest.raises(OSError, match="no name that DNS could have"):
        await SystemResolver().resolve("a" * 64 + ".example", 443)
    assert "127.0.0.1" in await SystemResolver().resolve("localhost", 80)


async def test_resolving_has_a_deadline() -> None:
    """A name server that never answers is a timeout that says what was being done."""

    class Never:
        async def resolve(self, host: str, port: int) -> Sequence[str]:
            await trio.sleep_forever()
            raise AssertionError

    async with sending(resolver=Never(), connect=0.2) as out:
        outcome = await out.send("https://slow.example.com/")
    assert (outcome.error, outcome.detail) == (DeliveryError.TIMEOUT, "resolving the name took longer than 0.2 s")


async def test_one_dead_address_leaves_time_for_the_next() -> None:
    """Of several addresses the first that answers is used."""
    async with (
        sending(resolver=StubResolver(["127.0.0.2", "127.0.0.1"])) as out,
        serving(saying(OK)) as receiver,
    ):
        port = receiver.url.split(":")[2].split("/")[0]
        outcome = await out.send(f"http://receiver.example.com:{port}/")
    assert outcome.remote_address == f"127.0.0.1:{port}"


async def test_canceling_leaves_no_connection() -> None:
    """A canceled request closes its connection."""
    async with sending() as out, trio.open_nursery() as nursery:
        receiver = await nursery.start(Receiver(steps("200,hang")).run)
        await out.send(receiver.url)
        async with trio.open_nursery() as flight:
            flight.start_soon(out.send, receiver.url)
            await receiver.wait_for(2)
            flight.cancel_scope.cancel()
        assert out.sender.transport.idle_connections == 0
        await until(lambda: not receiver.open_connections)
        nursery.cancel_scope.cancel()

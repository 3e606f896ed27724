"""The bytes of a request, and what a sender does about its own faults and restarts."""

from collections.abc import Sequence
from functools import partial

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.delivery.hostile import Stream, proxying, read_request, saying, serving
from tests.delivery.out import HEADERS, LOOPBACK, OK, client_context, sending, through
from tests.patience import PATIENCE_SECONDS, until
from tests.turns import counting
from webhookd.base.models import DeliveryError, Outcome
from webhookd.config import DeliveryConfig, EgressConfig
from webhookd.delivery.egress.addresses import Address
from webhookd.delivery.egress.resolver import SystemResolver
from webhookd.delivery.egress.rules import EgressPolicy
from webhookd.delivery.http.connection import Connection
from webhookd.delivery.http.connector import Connector
from webhookd.delivery.http.reactor import CALLS_A_TURN
from webhookd.delivery.http.sender import OWN_ADDRESSES_SECONDS, TICK_SECONDS, Sender
from webhookd.delivery.http.transport import DirectTransport
from webhookd.delivery.request import Request, send

URL = "https://receiver.example/"
PROXIED = EgressConfig(proxy="http://proxy.example:3128")
BAD_HEADERS = [("x", "\N{BULLET}")]  # which is refused when a webhook is saved


class Silent:
    """A resolver that never answers."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        await trio.sleep_forever()
        raise AssertionError


async def test_the_request_is_as_the_contract_says() -> None:
    """One POST with host, the given headers in order, a length and the body's bytes: nothing else."""
    seen = []

    async def script(stream: Stream, number: int) -> None:
        seen.append(await read_request(stream))
        await stream.send_all(OK)

    async with sending() as out, serving(script) as receiver:
        outcome = await out.send(receiver.url + "?a=b", body='{"é":1}'.encode())
        authority = receiver.url.split("/")[2]
    assert outcome.remote_address == authority
    assert seen == [
        (
            f"POST /hook?a=b HTTP/1.1\r\nhost: {authority}\r\ncontent-type: application/json\r\n"
            'webhook-id: evt_1\r\ncontent-length: 8\r\n\r\n{"é":1}'
        ).encode()
    ]


@pytest.mark.parametrize("is_connected", [False, True])
async def test_a_request_that_cannot_be_written_harms_no_other(is_connected: bool) -> None:
    """A bug in one request is raised to its sender; the other requests go on, and its connection is closed."""

    async def script(stream: Stream, number: int) -> None:
        while True:
            if (await read_request(stream)).endswith(b"hold"):
                is_held.set()
                await is_freed.wait()
            await stream.send_all(OK)

    is_held, is_freed = trio.Event(), trio.Event()
    outcomes = []

    async with sending() as out, serving(script) as receiver:

        async def hold() -> None:
            outcomes.append(await out.send(receiver.url, body=b"hold", endpoint_id="wh_2"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hold)
            await is_held.wait()
            if is_connected:
                await out.send(receiver.url)
            with pytest.raises(UnicodeEncodeError):
                await send(out.sender, Request("wh_1", receiver.url, BAD_HEADERS, b"{}", 10.0))
            await until(lambda: receiver.open_connections == 1)
            is_freed.set()
    assert [outcome.status for outcome in outcomes] == [200]


async def test_a_bug_in_keeping_a_connection_leaves_none_open() -> None:
    """If an exception prevents that a connection is kept after an answer, it is raised, and the connection closed."""

    class Faulty(Connector):
        def keep_session(self, connection: Connection) -> None:
            raise ZeroDivisionError

    async with serving(saying(OK, then_close=False)) as receiver, trio.open_nursery() as nursery:
        connector = Faulty(
            EgressPolicy(LOOPBACK, ()),
            SystemResolver(),
            client_context(),
            connect_timeout_seconds=5.0,
            connection_max_age_seconds=60.0,
        )
        transport = DirectTransport(connector)
        nursery.start_soon(transport.run)
        with pytest.raises(ZeroDivisionError):
            await send(transport, Request("wh_1", receiver.url, HEADERS, b"{}", 10.0))
        await until(lambda: not receiver.open_connections)
        assert transport.idle_connections == 0
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "proxied"])
async def test_a_sender_that_is_restarted_goes_on(is_proxied: bool) -> None:
    """What is under way is interrupted when a sender ends; what is begun because of that is sent by its next run."""

    async def script(stream: Stream, number: int) -> None:
        if (await read_request(stream)).endswith(b"second"):
            await stream.send_all(OK)
        is_asked.set()
        await trio.sleep_forever()

    is_asked, are_over = trio.Event(), trio.Event()
    results: list[Outcome | Exception] = []

    async with proxying() as proxy, serving(script) as receiver:
        sender = Sender(DeliveryConfig(), through(proxy) if is_proxied else LOOPBACK, own=frozenset)

        def first(result: Outcome | Exception) -> None:
            results.append(result)
            sender.start(Request("wh_1", receiver.url, HEADERS, b"second", 10.0), second)

        def second(result: Outcome | Exception) -> None:
            results.append(result)
            are_over.set()

        async with trio.open_nursery() as run:
            await run.start(sender.run)
            sender.start(Request("wh_1", receiver.url, HEADERS, b"first", 10.0), first)
            await is_asked.wait()
            run.cancel_scope.cancel()
        async with trio.open_nursery() as run:
            await run.start(sender.run)
            with trio.fail_after(PATIENCE_SECONDS):
                await are_over.wait()
            run.cancel_scope.cancel()
    interrupted, answered = results
    assert isinstance(interrupted, Outcome)
    assert interrupted.error is DeliveryError.INTERRUPTED
    assert isinstance(answered, Outcome)
    assert answered.status == 200


@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "proxied"])
async def test_many_requests_that_a_stop_interrupts_leave_turns_to_others(is_proxied: bool) -> None:
    """However many requests are under way when a sender ends, other tasks get a turn after some of their results."""
    sender = Sender(DeliveryConfig(), PROXIED if is_proxied else LOOPBACK, resolver=Silent(), own=frozenset)
    with counting() as steps:
        async with trio.open_nursery() as run:
            await run.start(sender.run)
            for number in range(8 * CALLS_A_TURN):
                sender.start(Request(f"wh_{number}", URL, HEADERS, b"{}", 10.0), lambda _: steps.note())
            await wait_all_tasks_blocked()
            assert not steps.counts
            run.cancel_scope.cancel()
    assert sum(steps.counts) == 8 * CALLS_A_TURN
    assert max(steps.counts) <= CALLS_A_TURN


@pytest.mark.parametrize("is_proxied", [False, True], ids=["direct", "proxied"])
async def test_what_waits_for_a_halted_sender_is_interrupted_in_time(
    autojump_clock: MockClock, is_proxied: bool
) -> None:
    """A request that is started while a sender has crashed and isn't running again ends at its deadline.

    It counts against no one, since no receiver has been asked.
    """
    sender = Sender(DeliveryConfig(), PROXIED if is_proxied else LOOPBACK, resolver=Silent(), own=frozenset)
    began_at = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sender.keep_time)
        with trio.fail_after(60):
            outcome = await send(sender, Request("wh_1", URL, HEADERS, b"{}", 10.0))
        nursery.cancel_scope.cancel()
    assert outcome.error is DeliveryError.INTERRUPTED
    assert trio.current_time() - began_at == pytest.approx(10.0, abs=2 * TICK_SECONDS)


async def test_addresses_that_cannot_be_read_interrupt_nothing(mock_clock: MockClock) -> None:
    """If the machine's own addresses can't be read again, those read last stay, and requests under way go on."""
    reads: list[float] = []

    def own() -> Sequence[Address]:
        reads.append(trio.current_time() if reads else 0.0)
        if len(reads) == 2:
            raise OSError("too many open files")
        return ()

    def has_read(count: int) -> bool:
        return len(reads) == count

    async def script(stream: Stream, number: int) -> None:
        await read_request(stream)
        for count in (2, 3):
            mock_clock.jump(OWN_ADDRESSES_SECONDS)
            await until(partial(has_read, count))
        await stream.send_all(OK)

    async with sending(own=own) as out, serving(script) as receiver:
        assert (await out.send(receiver.url, seconds=1000.0)).status == 200


@pytest.mark.parametrize("ends", ["answered", "late"])
async def test_many_requests_that_end_at_once_leave_turns_to_others(mock_clock: MockClock, ends: str) -> None:
    """However many answers have come or deadlines have passed, other tasks get their turn after some of them."""
    asked, most = 0, 0
    results: list[Outcome | Exception] = []
    are_ended = trio.Event()

    async def script(stream: Stream, number: int) -> None:
        nonlocal asked
        await read_request(stream)
        asked += 1
        await are_ended.wait()
        if ends == "answered":
            await stream.send_all(OK)
        await trio.sleep_forever()

    async def watch(*, task_status: trio.TaskStatus[None]) -> None:
        nonlocal most
        task_status.started()
        while True:
            before = len(results)
            await trio.lowlevel.checkpoint()
            most = max(most, len(results) - before)

    async with sending() as out, serving(script) as receiver, trio.open_nursery() as nursery:
        for number in range(8 * CALLS_A_TURN):
            out.sender.start(Request(f"wh_{number}", receiver.url, HEADERS, b"{}", 10.0), results.append)
        await until(lambda: asked == 8 * CALLS_A_TURN)
        await nursery.start(watch)
        are_ended.set()
        if ends == "late":
            mock_clock.jump(10.0)
        await until(lambda: len(results) == 8 * CALLS_A_TURN)
        nursery.cancel_scope.cancel()
    assert most <= 2 * CALLS_A_TURN  # two of the sender's turns may lie between two of this task

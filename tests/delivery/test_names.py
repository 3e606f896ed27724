"""Names that don't resolve, resolve to too much or too late, and addresses that refuse a connection or don't answer."""

import threading
from collections.abc import Sequence

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.delivery.hostile import saying, serving, swallowing
from tests.delivery.out import OK, StubResolver, sending
from tests.patience import PATIENCE_SECONDS, until
from tests.ports import held_port
from webhookd.base.models import DeliveryError
from webhookd.config import EgressConfig
from webhookd.delivery.egress.resolver import SLOW_SECONDS, SystemResolver
from webhookd.delivery.egress.rules import MAX_ANSWERS, MAX_DIALED

# All of it is this machine, and none of it is written out anywhere else.
MANY = [f"127.{number >> 8}.{number & 255}.9" for number in range(1, MAX_ANSWERS + 1)]


async def test_a_name_without_addresses_is_dns() -> None:
    """A name that doesn't resolve, or resolves to nothing, is `dns`, with the reason."""

    class Empty:
        async def resolve(self, host: str, port: int) -> Sequence[str]:
            await trio.lowlevel.checkpoint()
            return []

    for resolver in (StubResolver([]), Empty()):
        async with sending(resolver=resolver) as out:
            outcome = await out.send("https://nowhere.example.com/")
        assert outcome.error is DeliveryError.DNS
        assert "nowhere.example.com doesn't resolve" in outcome.detail


async def test_many_addresses_that_refuse_are_connect() -> None:
    """A name with 256 addresses costs a bounded number of dials, and delays only its own endpoint."""
    with held_port() as port:
        async with sending(resolver=StubResolver(MANY), connect=PATIENCE_SECONDS) as out:
            outcome = await out.send(f"http://many.example.com:{port}/")
    assert outcome.error is DeliveryError.CONNECT
    others = f"; {MAX_DIALED - 1} more of its addresses failed"
    assert outcome.detail == f"can't connect to {MANY[0]}:{port}: Connection refused{others}"


async def test_many_addresses_that_swallow_are_a_timeout(autojump_clock: MockClock) -> None:
    """However many addresses don't answer, connecting takes no longer than its deadline."""
    with swallowing() as port:
        async with sending(resolver=StubResolver(MANY), connect=0.5) as out:
            began = trio.current_time()
            outcome = await out.send(f"http://many.example.com:{port}/")
            assert trio.current_time() - began == pytest.approx(0.5)
    assert outcome.error in {DeliveryError.CONNECT, DeliveryError.TIMEOUT}


async def test_one_bad_answer_among_many_refuses_the_name() -> None:
    """The last of 256 answers is checked too: if it is refused, none is dialled."""
    async with (
        serving(saying(OK)) as receiver,
        sending(resolver=StubResolver(["127.0.0.1", *MANY[2:], "10.0.0.1"])) as out,
    ):
        outcome = await out.send(f"http://many.example.com:{receiver.url.split(':')[2]}")
        assert receiver.connections == 0
    assert (outcome.error, outcome.detail) == (DeliveryError.BLOCKED, "10.0.0.1 is not a public address")


async def test_an_address_that_swallows_is_a_timeout(autojump_clock: MockClock) -> None:
    """A listener with a full backlog never answers: that is a timeout, and its detail says of what."""
    with swallowing() as port:
        async with sending(connect=0.4) as out:
            outcome = await out.send(f"http://127.0.0.1:{port}/")
    assert (outcome.error, outcome.detail) == (DeliveryError.TIMEOUT, "connecting took longer than 0.4 s")


async def test_behind_an_address_that_swallows_the_next_has_its_turn(mock_clock: MockClock) -> None:
    """The second of two addresses is dialled in time, though the first doesn't answer."""
    outcomes = []
    async with serving(saying(OK)) as receiver:
        port = int(receiver.url.split(":")[2].split("/")[0])
        with swallowing("127.0.0.8", port):
            async with (
                sending(resolver=StubResolver(["127.0.0.8", "127.0.0.1"]), connect=0.6) as out,
                trio.open_nursery() as flight,
            ):

                async def send() -> None:
                    outcomes.append(await out.send(f"http://two.example.com:{port}/"))

                flight.start_soon(send)
                await wait_all_tasks_blocked()
                assert receiver.connections == 0
                mock_clock.jump(0.3)  # half of the time for connecting
    assert [(one.status, one.remote_address) for one in outcomes] == [(200, f"127.0.0.1:{port}")]


@pytest.mark.parametrize(
    "host",
    [
        "xn--a.example.com",
        "good。example.com",
        "ex\u00adample.com",
        "ⓛocalhost.example.com",
        "a..example.com",
        "\ud800.com",
    ],
)
async def test_an_odd_name_is_blocked_and_never_looked_up(host: str) -> None:
    """A name that is invalid in IDNA 2008 or DNS is `blocked` before a lookup."""

    class Nobody:
        async def resolve(self, host: str, port: int) -> Sequence[str]:
            raise AssertionError(host)

    async with sending(EgressConfig(), resolver=Nobody()) as out:
        assert (await out.send(f"https://{host}/")).error is DeliveryError.BLOCKED


async def test_slow_names_leave_the_others_their_threads() -> None:
    """Names with slow lookups share a few threads, and others are looked up at once meanwhile."""
    is_over = threading.Event()
    patience = SLOW_SECONDS + 0.1

    def look_up(host: str, port: int) -> Sequence[str]:
        if host.startswith("dead"):
            is_over.wait(patience)
            raise OSError("no answer")
        return ["93.184.216.34"]

    resolver = SystemResolver(look_up, threads=8, slow_threads=2)

    async def ask(host: str) -> None:
        with pytest.raises(OSError, match="no answer"):
            await resolver.resolve(host, 443)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(ask, f"dead{number}.example")
    patience = PATIENCE_SECONDS
    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(ask, f"dead{number}.example")
        await wait_all_tasks_blocked()
        with trio.fail_after(PATIENCE_SECONDS / 2):
            assert await resolver.resolve("good.example", 443) == ["93.184.216.34"]
        is_over.set()


async def test_a_name_that_recovers_is_slow_no_more() -> None:
    """After a fast lookup a name is no longer one of the slow ones."""
    delays = [SLOW_SECONDS + 0.05, 0.0, 0.0]

    def look_up(host: str, port: int) -> Sequence[str]:
        threading.Event().wait(delays.pop(0))
        return ["93.184.216.34"]

    resolver = SystemResolver(look_up, threads=1, slow_threads=1)
    await resolver.resolve("a.example", 443)
    assert list(resolver._slow) == ["a.example"]
    await resolver.resolve("a.example", 443)
    assert not resolver._slow


async def test_a_name_is_looked_up_once_for_all_who_ask() -> None:
    """Callers during a lookup wait for that one, even if the first caller gives up."""
    asked = []
    is_time = threading.Event()

    def look_up(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        is_time.wait()
        return ["93.184.216.34"]

    resolver = SystemResolver(look_up)
    async with trio.open_nursery() as first:
        first.start_soon(resolver.resolve, "a.example", 443)
        await until(lambda: asked)
        first.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        for _ in range(10):
            nursery.start_soon(resolver.resolve, "a.example", 443)
        await wait_all_tasks_blocked()
        is_time.set()
    assert asked == ["a.example"]

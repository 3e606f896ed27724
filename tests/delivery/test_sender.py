"""The way out against receivers that misbehave, directly and through a proxy: every outcome is a value, in time."""

from collections.abc import AsyncIterator

import pytest
import trio

from tests.delivery.hostile import (
    Hostile,
    Proxy,
    Script,
    Stream,
    forever,
    read_request,
    saying,
    serving,
)
from tests.delivery.out import OK, Out, sending
from webhookd.config import EgressConfig
from webhookd.models import DeliveryError


@pytest.fixture(params=["direct", "proxy"])
async def out(request: pytest.FixtureRequest) -> AsyncIterator[Out]:
    if request.param == "direct":
        async with sending() as direct:
            yield direct
        return
    async with trio.open_nursery() as nursery:
        proxy = await nursery.start(Proxy().run)
        config = EgressConfig(allow_http=True, ports=(), allow_networks=("127.0.0.0/8",), proxy=proxy.url)
        async with sending(config) as through:
            yield through
        nursery.cancel_scope.cancel()


ANSWERED: list[tuple[str, Script, int, bytes, bool]] = [
    ("plain", saying(OK), 200, b"ok", False),
    ("in small pieces", saying(*[OK[at : at + 1] for at in range(len(OK))]), 200, b"ok", False),
    ("until it closes", saying(b"HTTP/1.1 200 OK\r\n\r\nall of it"), 200, b"all of it", False),
    ("HTTP/1.0", saying(b"HTTP/1.0 200 OK\r\n\r\nold"), 200, b"old", False),
    (
        "chunked",
        saying(b"HTTP/1.1 202 Accepted\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n1;x=y\r\nc\r\n0\r\n\r\n"),
        202,
        b"abc",
        False,
    ),
    ("interim answers", saying(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK), 200, b"ok", False),
    ("no content", saying(b"HTTP/1.1 204 No Content\r\n\r\n"), 204, b"", False),
    ("not modified", saying(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n"), 304, b"", False),
    (
        "a redirect isn't followed",
        saying(b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.1:1/\r\ncontent-length: 0\r\n\r\n"),
        302,
        b"",
        False,
    ),
    (
        "more than is kept",
        saying(b"HTTP/1.1 500 Oops\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000),
        500,
        b"x" * 4096,
        True,
    ),
    (
        "a body without end",
        forever(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", b"1000\r\n" + b"x" * 4096 + b"\r\n"),
        200,
        b"x" * 4096,
        True,
    ),
    (
        "a compressed body stays as it is",
        saying(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00"),
        200,
        b"\x1f\x8b\x08\x00",
        False,
    ),
]


@pytest.mark.parametrize(
    ("script", "status", "body", "truncated"), [case[1:] for case in ANSWERED], ids=[case[0] for case in ANSWERED]
)
async def test_an_answer_in_any_form_is_read(
    out: Out, script: Script, status: int, body: bytes, truncated: bool
) -> None:
    """Whatever HTTP/1.1 allows is an answer; of its body 4 KiB are kept, and no more than 64 KiB read."""
    async with serving(script) as receiver:
        outcome = await out.send(receiver.url)
    assert (outcome.error, outcome.status, outcome.body, outcome.truncated) == (None, status, body, truncated)


FAILED: list[tuple[str, Script, DeliveryError]] = [
    ("silence", forever(b"", b"", pause=0.05), DeliveryError.TIMEOUT),
    ("a byte now and then", forever(b"HTTP/1.1 200 OK\r\nx: ", b"y", pause=0.05), DeliveryError.TIMEOUT),
    (
        "a body that drips",
        forever(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n", b"y", pause=0.05),
        DeliveryError.TIMEOUT,
    ),
    ("no byte at all", saying(b""), DeliveryError.PROTOCOL),
    ("no HTTP", saying(b"\x00\xff SSH-2.0\r\n\r\n"), DeliveryError.PROTOCOL),
    ("a torn head", saying(b"HTTP/1.1 200 OK\r\ncontent-le"), DeliveryError.PROTOCOL),
    ("a torn body", saying(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc"), DeliveryError.PROTOCOL),
    (
        "a torn chunk",
        saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nff\r\nabc"),
        DeliveryError.PROTOCOL,
    ),
    (
        "a bad chunk",
        saying(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nabc\r\n"),
        DeliveryError.PROTOCOL,
    ),
    (
        "two lengths",
        saying(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab"),
        DeliveryError.PROTOCOL,
    ),
    ("headers without end", forever(b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 1000 + b"\r\n"), DeliveryError.PROTOCOL),
]


@pytest.mark.parametrize(("script", "error"), [case[1:] for case in FAILED], ids=[case[0] for case in FAILED])
async def test_whatever_goes_wrong_is_a_value(out: Out, script: Script, error: DeliveryError) -> None:
    """A receiver that drips, lies or hangs up is an outcome with its code and a sentence, within the deadline."""
    async with serving(script) as receiver:
        with trio.fail_after(8):
            outcome = await out.send(receiver.url, seconds=0.5 if error is DeliveryError.TIMEOUT else 5.0)
    assert (outcome.error, outcome.status) == (error, None)
    assert outcome.detail


async def test_interim_answers_without_end_are_ended() -> None:
    """A receiver that says 100 Continue for ever is a protocol error once 64 KiB have come."""
    async with sending() as out, serving(forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n")) as receiver:
        outcome = await out.send(receiver.url)
    assert outcome.error is DeliveryError.PROTOCOL


async def test_an_upgrade_is_refused() -> None:
    """101 is no answer to a POST that asked for no upgrade."""
    script = saying(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")
    async with sending() as out, serving(script) as receiver:
        outcome = await out.send(receiver.url)
    assert outcome.error is DeliveryError.PROTOCOL
    assert "change the protocol" in outcome.detail


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


def test_the_suite_has_a_receiver_to_fail_on() -> None:
    """The scripts are what the tests take them for: one that answers, one that never does."""
    assert isinstance(Hostile(saying(OK)), Hostile)
    assert {case[0] for case in ANSWERED}.isdisjoint({case[0] for case in FAILED})

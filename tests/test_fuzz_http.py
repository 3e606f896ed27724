"""The fuzzer finds what it is for, finds nothing where nothing is, and the server stands a short run of it."""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests import fuzz_cases
from tests.fuzz_cases import Cases, Door, Names, numbered
from tests.fuzz_http import Report, attack, fuzz

CASES = 250  # `python -m tests.fuzz_http` makes as many as are wanted
FIRST_RUN, RUNS = 80, 60  # of which one meets what is planted
Fault = Callable[[bytes], bytes | None]
FINE = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok"


class DiedError(Exception):
    """The stub's process would have ended here."""


@asynccontextmanager
async def stub(answer: Fault) -> AsyncIterator[tuple[tuple[str, int], Callable[[], bool]]]:
    """Serve whatever `answer` makes of all that a connection sent; None hangs, DiedError ends the stub."""
    is_alive = True
    accepting = trio.CancelScope()
    [listener] = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:

        async def serve(stream: trio.SocketStream) -> None:
            nonlocal is_alive
            received = b""
            async with stream:
                try:
                    while chunk := await stream.receive_some():
                        received += chunk
                    reply = answer(received)
                    if reply is None:
                        await trio.sleep_forever()
                    else:
                        await stream.send_all(reply)
                except DiedError:
                    is_alive = False
                    accepting.cancel()
                except trio.BrokenResourceError:
                    return

        async def accept() -> None:
            async with listener:
                with accepting:
                    await trio.serve_listeners(serve, [listener], handler_nursery=nursery)

        nursery.start_soon(accept)
        yield listener.socket.getsockname(), lambda: is_alive
        nursery.cancel_scope.cancel()


def fails_at_percent(received: bytes) -> bytes:
    target = received.partition(b"\r\n")[0]
    return FINE if b"%00" not in target else FINE.replace(b"200 OK", b"500 Internal Server Error")


def dies_at_a_byte(received: bytes) -> bytes:
    if b"\x81" in received:
        raise DiedError
    return FINE


def hangs_at_expect(received: bytes) -> bytes | None:
    return None if b"expect:" in received else FINE


def stops_in_the_middle(received: bytes) -> bytes:
    return FINE[:-1] if b"range:" in received else FINE


async def attacked(answer: Fault) -> Report:
    async with stub(answer) as (address, is_alive):
        cases = numbered(Cases(3, Names()), 0, 600)
        return await attack(address, cases, is_alive=is_alive, hang_seconds=1, workers=8)


@pytest.mark.parametrize(
    ("planted", "says"),
    [
        (fails_at_percent, "answered 500"),
        (dies_at_a_byte, "the server is gone"),
        (hangs_at_expect, "hangs"),
        (stops_in_the_middle, "half an answer"),
    ],
)
async def test_a_planted_fault_is_found(planted: Fault, says: str) -> None:
    """A server that fails, dies, hangs or stops in the middle at one kind of input is caught, with the case."""
    report = await attacked(planted)
    assert any(says in finding.what and finding.case is not None for finding in report.findings)


async def test_nothing_is_found_where_nothing_is() -> None:
    """A server that always answers is not accused."""
    report = await attacked(lambda _: FINE)
    assert report.findings == []
    assert report.cases == 600


def test_a_case_can_be_made_again() -> None:
    """The same seed and number give the same bytes, whatever was made before; another seed gives others."""
    once, again, other = Cases(1, Names()), Cases(1, Names()), Cases(2, Names())
    assert [once.case(number) for number in range(50)] == [again.case(number) for number in range(49, -1, -1)][::-1]
    assert once.case(1) != other.case(1)


def test_no_case_is_in_the_next_one() -> None:
    """A value that one mutation takes and another one changes is this case's own, and never holds itself."""
    cases = Cases(918_273, Names(), runs=0.0)
    last = [cases.case(number) for number in range(3000)][-1]
    assert last == Cases(918_273, Names(), runs=0.0).case(2999)
    assert [value for value in fuzz_cases._ODD_VALUES if isinstance(value, dict)] == [{}, {"": ""}]


def test_runs_come_to_every_door() -> None:
    """Requests, their heads, queries, bodies and forms, and the lines of the socket have long runs in them."""
    cases = [Cases(1, Names(), runs=1.0).case(number) for number in range(600)]
    long = [b"".join(case.pieces) for case in cases if case.door is Door.PORT]
    starts = Counter(text[:20].split(b" ")[0] for text in long if len(text) > 3000)
    assert {b"GET", b"POST", b"PATCH", b"PUT"} <= starts.keys()
    heads = [text.partition(b"\r\n\r\n")[0] for text in long]
    for part in (b"bearer", b"cookie", b"cursor=", b"content-length", b"application/x-www-form", b"ndjson", b"chunked"):
        assert any(part in head.lower() for head in heads), part
    assert sum(case.door is Door.SOCKET for case in cases) > 20


async def test_the_server_stands_mutated_requests_while_it_delivers(tmp_path: Path) -> None:
    """No 5xx, no hang, no traceback, no end of the process, and every event of the traffic is delivered in time."""
    report = await fuzz(tmp_path, seed=6, first=0, count=CASES)
    assert [str(finding) for finding in report.findings] == []
    assert report.cases == CASES
    assert report.delivered >= 10
    assert report.probes >= 10
    assert {200, 201, 202, 400, 401, 404, 405} <= report.statuses.keys()


async def test_a_loop_that_stands_still_is_found(tmp_path: Path) -> None:
    """A server that searches heads in quadratic time answers everything, and is caught by the steps of its loop."""
    report = await fuzz(tmp_path, seed=2, first=FIRST_RUN, count=RUNS, plant="searches heads slowly", runs=1.0)
    assert any("kept the loop" in finding.what for finding in report.findings)

"""The bytes of a request, and how long a sender works before others get a turn."""

import pytest
import trio
from trio.testing import MockClock

from tests.delivery.hostile import Stream, read_request, serving
from tests.delivery.out import HEADERS, OK, sending
from tests.patience import until
from webhookd.base.models import Outcome
from webhookd.delivery.http.reactor import CALLS_A_TURN
from webhookd.delivery.request import Request


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

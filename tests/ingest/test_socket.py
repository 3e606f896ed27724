"""The protocol of the ingest socket, over real Unix sockets: order, invalid lines, limits, misbehaving clients."""

import itertools
from collections.abc import Hashable
from pathlib import Path

import pytest
import trio
import trio.testing
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tests.ingest.fakes import FakePublisher, FakeTicket
from tests.ingest.producer import LIMIT, code, connected, eventually, ids, line, serving
from tests.patience import PATIENCE_SECONDS
from webhookd.base.errors import ErrorCode, JournalError, Rejected
from webhookd.base.models import NewEvent, PublishResult


async def test_results_come_in_the_order_of_the_lines(path: Path) -> None:
    """Whatever order the commits finish in, the results are in the order of the lines."""
    publisher = FakePublisher(holds=True)
    async with serving(path, publisher), connected(path) as producer:
        await producer.send(b"".join(line(n) for n in range(4)))
        await eventually(lambda: len(publisher.tickets) == 4)
        publisher.complete(3)
        publisher.complete(1)
        assert await producer.is_silent()
        publisher.complete(0)
        assert ids(await producer.results(2)) == ["evt_0", "evt_1"]
        assert await producer.is_silent()
        publisher.complete(2)
        assert ids(await producer.results(2)) == ["evt_2", "evt_3"]


async def test_result_has_the_contracts_shape(path: Path) -> None:
    """A result has ok, id, deliveries and duplicate, and nothing else."""
    publisher = FakePublisher(holds=True)
    async with serving(path, publisher), connected(path) as producer:
        await producer.send(line(1) + line(1))
        await eventually(lambda: len(publisher.tickets) == 2)
        publisher.tickets[0].complete(PublishResult(id="evt_1", deliveries=3, duplicate=False))
        publisher.tickets[1].complete(PublishResult(id="evt_1", deliveries=3, duplicate=True))
        assert await producer.results(2) == [
            {"ok": True, "id": "evt_1", "deliveries": 3, "duplicate": False},
            {"ok": True, "id": "evt_1", "deliveries": 3, "duplicate": True},
        ]


BAD_LINES = [
    (b"garbage\n", ErrorCode.MALFORMED_JSON),
    (b'{"type":"user.created","data":{\n', ErrorCode.MALFORMED_JSON),
    (b'{"type":"user.created","data":{"a":"\xff"}}\n', ErrorCode.MALFORMED_JSON),
    (b"\x00\x01\x02\n", ErrorCode.MALFORMED_JSON),
    (b"[]\n", ErrorCode.VALIDATION_ERROR),
    (b'{"type":"user.created","data":[]}\n', ErrorCode.VALIDATION_ERROR),
    (b'{"type":"user.created","data":{},"typo":1}\n', ErrorCode.VALIDATION_ERROR),
    (b'{"type":"user.created","data":{},"id":"a.b"}\n', ErrorCode.VALIDATION_ERROR),
    (line(1, data={"a": "x" * LIMIT}), ErrorCode.PAYLOAD_TOO_LARGE),
    (b"x" * 300_000 + b"\n", ErrorCode.PAYLOAD_TOO_LARGE),
    (b'{"type":"user.created","data":' + b'{"a":' * 150 + b"1" + b"}" * 151 + b"\n", ErrorCode.MALFORMED_JSON),
]


@pytest.mark.parametrize(("bad", "expected"), BAD_LINES)
async def test_bad_line_costs_only_itself(path: Path, bad: bytes, expected: ErrorCode) -> None:
    """An invalid line gets its error in its place, and the lines around it are accepted."""
    publisher = FakePublisher()
    async with serving(path, publisher), connected(path) as producer:
        await producer.send(line(1) + bad + line(2))
        first, second, third = await producer.results(3)
    assert code(second) == expected
    assert ids([first, third]) == ["evt_1", "evt_2"]
    assert len(publisher.events) == 2


async def test_publishers_refusals_are_results(path: Path) -> None:
    """A refusal at publishing, or by the commit, is the result of its line."""
    publisher = FakePublisher(holds=True)
    publisher.refuse = lambda new: Rejected(ErrorCode.UNKNOWN_EVENT_TYPE, "no") if new.id == "evt_1" else None
    async with serving(path, publisher), connected(path) as producer:
        await producer.send(line(1) + line(2) + line(3))
        await eventually(lambda: len(publisher.tickets) == 2)
        publisher.tickets[0].complete(Rejected(ErrorCode.CONFLICT, "held by another"))
        publisher.complete(1)
        first, second, third = await producer.results(3)
    assert [code(first), code(second)] == ["UNKNOWN_EVENT_TYPE", "CONFLICT"]
    assert third["id"] == "evt_3"


async def test_empty_lines_are_skipped(path: Path) -> None:
    """Empty lines, also with white space, get no result."""
    async with serving(path, FakePublisher()), connected(path) as producer:
        await producer.send(b"\n\r\n  \n" + line(1) + b"\n" + line(2).replace(b"\n", b"\r\n"))
        await producer.stream.send_eof()
        assert ids(await producer.rest()) == ["evt_1", "evt_2"]


async def test_data_reaches_the_publisher_byte_for_byte(path: Path) -> None:
    """The bytes of `data` are not changed, white space included."""
    publisher = FakePublisher()
    async with serving(path, publisher), connected(path) as producer:
        await producer.send(b'{"type":"user.created","data": { "a" :\t1.0 ,"b":"\\u00e9"} }\n')
        await producer.result()
    assert bytes(publisher.events[0].data) == b'{ "a" :\t1.0 ,"b":"\\u00e9"}'


@pytest.mark.parametrize("tail", [line(2)[:-1], b'{"type":', b"\xff"])
async def test_unterminated_last_line_is_not_accepted(path: Path, tail: bytes) -> None:
    """A last line without a newline may be incomplete: it is refused, even if it is an event."""
    publisher = FakePublisher()
    async with serving(path, publisher), connected(path) as producer:
        await producer.send(line(1) + tail)
        await producer.stream.send_eof()
        first, second = await producer.rest()
    assert first["id"] == "evt_1"
    assert code(second) == "MALFORMED_JSON"
    assert "newline" in str(second["error"])
    assert len(publisher.events) == 1


async def test_byte_at_a_time(path: Path) -> None:
    """A client that sends single bytes is served like any other."""
    async with serving(path, FakePublisher()), connected(path) as producer:
        for byte in line(1) + b"{}\n" + line(2):
            await producer.send(bytes([byte]))
        first, second, third = await producer.results(3)
    assert ids([first, third]) == ["evt_1", "evt_2"]
    assert code(second) == "VALIDATION_ERROR"


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pieces=st.lists(st.sampled_from([line(7), b"\n", b"bad\n", b"\xff\n", b"y" * (LIMIT + 1) + b"\n", b'{"type"'])),
    cuts=st.lists(st.integers(0, 4000), max_size=6),
)
async def test_any_chunking_gives_the_same_results(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], cuts: list[int]
) -> None:
    """However a stream is divided into writes, its results are the same, byte for byte."""
    path = tmp_path_factory.mktemp("s") / "s"
    stream = b"".join(pieces)
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    async with serving(path, FakePublisher()):
        answers = []
        for writes in ([stream], chunks):
            async with connected(path) as producer:
                for chunk in writes:
                    if chunk:
                        await producer.send(chunk)
                        await trio.lowlevel.checkpoint()
                await producer.stream.send_eof()
                answers.append(await producer.rest())
    assert answers[0] == answers[1]


async def test_a_long_pipeline_is_answered_in_full(path: Path) -> None:
    """Twenty thousand lines sent without waiting get twenty thousand results in order."""
    count = 20_000
    async with serving(path, FakePublisher()), connected(path) as producer, trio.open_nursery() as nursery:
        nursery.start_soon(producer.send, b"".join(line(n) for n in range(count)))
        assert ids(await producer.results(count)) == [f"evt_{n}" for n in range(count)]


async def test_client_that_never_reads_is_cut_off(path: Path) -> None:
    """A client that doesn't read is closed after the write timeout; other clients and its events are not affected."""
    publisher = FakePublisher()
    with capture_logs() as logs:
        async with (
            serving(path, publisher, write_timeout_seconds=0.2) as server,
            connected(path) as deaf,
            connected(path) as other,
        ):
            with pytest.raises(trio.BrokenResourceError), trio.fail_after(PATIENCE_SECONDS):
                await deaf.send(line(1) * 1_000_000)
            await other.send(line(2))
            assert (await other.result())["id"] == "evt_2"
            await eventually(lambda: server.connections == 1)
    assert "ingest.client_does_not_read" in [each["event"] for each in logs]
    # Its reader stopped long before: what may wait for one client is bounded.
    assert len(publisher.events) < 20_000


async def test_unanswered_lines_of_one_client_are_bounded(path: Path) -> None:
    """While commits are slow, the number of unanswered lines of a client is bounded."""
    publisher = FakePublisher(holds=True)
    async with serving(path, publisher), connected(path) as producer, trio.open_nursery() as nursery:
        nursery.start_soon(producer.send, b"".join(line(n) for n in range(10_000)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        taken = len(publisher.events)
        assert 1000 < taken < 5000
        publisher.holds = False
        for position in range(taken):
            publisher.complete(position)
        assert ids(await producer.results(10_000)) == [f"evt_{n}" for n in range(10_000)]


async def test_disconnect_midway_loses_nothing_accepted(path: Path) -> None:
    """A client that closes during a commit, in the middle of a line, ends only its own connection."""
    publisher = FakePublisher(holds=True)
    async with serving(path, publisher) as server:
        async with connected(path) as producer:
            await producer.send(line(1) + line(2)[:10])
            await eventually(lambda: len(publisher.tickets) == 1)
        publisher.complete(0)
        await eventually(lambda: server.connections == 0)
        publisher.holds = False
        async with connected(path) as producer:
            await producer.send(line(3))
            assert (await producer.result())["id"] == "evt_3"


class BrokenPublisher(FakePublisher):
    """Fails like a bug or like a broken journal on events with certain ids."""

    def publish(self, new: NewEvent, flow: Hashable) -> FakeTicket:
        if new.id == "evt_bug":
            raise RuntimeError("a bug")
        if new.id == "evt_journal":
            raise JournalError("the sync failed")
        return super().publish(new, flow)


@pytest.mark.parametrize(
    ("name", "logged"), [("evt_bug", "ingest.connection_crashed"), ("evt_journal", "ingest.connection_failed")]
)
async def test_a_crash_is_contained_and_logged(path: Path, name: str, logged: str) -> None:
    """A bug or a broken journal ends the connection without a result for that line; the server continues."""
    with capture_logs() as logs:
        async with serving(path, BrokenPublisher()):
            async with connected(path) as victim:
                await victim.send(line(1, id=name))
                assert await victim.rest() == []
            async with connected(path) as other:
                await other.send(line(2))
                assert (await other.result())["id"] == "evt_2"
    assert [each["event"] for each in logs if each["log_level"] == "error"] == [logged]


async def test_full_journal_stops_reading_and_then_says_so(path: Path) -> None:
    """Without room no more lines are read; a line that waits too long gets JOURNAL_FULL, and then reading continues."""
    publisher = FakePublisher()
    publisher.has_room = trio.Event()
    async with serving(path, publisher), connected(path) as producer:
        await producer.send(line(1) + line(2))
        assert await producer.is_silent()
        publisher.no_room = Rejected(ErrorCode.JOURNAL_FULL, "the journal is full", retry_after_seconds=5)
        publisher.has_room.set()
        assert [code(result) for result in await producer.results(2)] == ["JOURNAL_FULL"] * 2
        publisher.no_room = None
        await producer.send(line(3))
        assert (await producer.result())["id"] == "evt_3"
        assert [new.id for new in publisher.events] == ["evt_3"]

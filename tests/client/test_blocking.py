"""The blocking client: results and errors, pipelining, and restarts of the server."""

import json
import socket
import threading
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

import pytest
import trio

from tests.client.scripted import Answer, accepted, refused, scripted
from tests.ingest.fakes import FakePublisher
from tests.ingest.producer import serving
from tests.patience import PATIENCE_SECONDS, wait_until
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.ids import Prefix, is_id
from webhookd.base.models import PublishResult
from webhookd.client import Client, Event, ServerUnavailable

SHORT_SECONDS = 1.5  # until it is given up, and plenty for the answers that come


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


def event(number: int) -> Event:
    return Event(type="user.created", data={"n": number}, id=f"evt_{number}")


async def test_client_and_server_understand_each_other(path: Path) -> None:
    """Every field reaches the publisher, and the result is returned."""
    publisher = FakePublisher()
    async with serving(path, publisher):
        with Client(path, timeout=PATIENCE_SECONDS) as client:
            send = partial(
                client.send,
                "user.created",
                {"name": "Zoë"},
                timestamp="2025-01-15T10:30:00Z",
                organization_id="org_1",
                ordering_key="k",
                traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            )
            result = await trio.to_thread.run_sync(send)
    (new,) = publisher.events
    assert is_id(Prefix.EVENT, result.id)
    assert new.id == result.id
    assert bytes(new.data) == '{"name":"Zoë"}'.encode()
    assert (new.organization_id, new.ordering_key, new.timestamp) == ("org_1", "k", "2025-01-15T10:30:00Z")


async def test_many_events_are_pipelined_through_the_server(path: Path) -> None:
    """Thousands of events give as many results in their order."""
    publisher = FakePublisher()
    async with serving(path, publisher):
        with Client(path, timeout=PATIENCE_SECONDS) as client:
            results = await trio.to_thread.run_sync(lambda: list(client.send_many(map(event, range(5000)))))
    assert results == [PublishResult(id=f"evt_{n}", deliveries=1, duplicate=False) for n in range(5000)]


async def test_refusal_is_raised_with_its_code(path: Path) -> None:
    """A refusal is raised with the API's code, and the connection stays usable."""
    async with serving(path, FakePublisher()):
        with Client(path, timeout=PATIENCE_SECONDS) as client:
            with pytest.raises(Rejected, match="type") as caught:
                await trio.to_thread.run_sync(client.send, "Not A Type", {})
            assert caught.value.code is ErrorCode.VALIDATION_ERROR
            assert (await trio.to_thread.run_sync(client.send, "user.created", {}, "evt_2")).id == "evt_2"


async def test_refused_peer_is_told_why(path: Path) -> None:
    """A client that the server doesn't allow gets FORBIDDEN, not a broken pipe."""
    async with serving(path, FakePublisher(), allowed_uids=(61_234,)):
        with Client(path, timeout=PATIENCE_SECONDS) as client, pytest.raises(Rejected) as caught:
            await trio.to_thread.run_sync(client.send, "user.created", {})
    assert caught.value.code is ErrorCode.FORBIDDEN


def test_refusals_among_many_keep_their_place(path: Path) -> None:
    """In a stream a refusal is a value in its place, and the other events are accepted."""
    with (
        scripted(path, lambda line: refused("CONFLICT") if line["id"] == "evt_1" else accepted(line)),
        Client(path) as c,
    ):
        results = list(c.send_many(map(event, range(3))))
    assert [isinstance(result, Rejected) for result in results] == [False, True, False]


def test_window_bounds_what_is_unanswered(path: Path) -> None:
    """With a window of one the next event is taken only after the last one was answered."""
    answered: list[object] = []

    def source() -> Iterator[Event]:
        for number in range(5):
            assert len(answered) == number
            yield event(number)

    def answer(line: dict[str, object]) -> dict[str, object]:
        answered.append(line["id"])
        return accepted(line)

    with scripted(path, answer), Client(path, timeout=PATIENCE_SECONDS) as client:
        assert len(list(client.send_many(source(), window=1))) == 5
        with pytest.raises(ValueError, match="window"):
            list(client.send_many([], window=0))


def test_each_event_leaves_before_the_next_is_asked_for(path: Path) -> None:
    """A slow source doesn't delay the events that it has yielded."""
    with scripted(path) as server, Client(path, timeout=PATIENCE_SECONDS) as client:

        def source() -> Iterator[Event]:
            yield event(1)
            wait_until(lambda: server.lines)
            assert [line["id"] for line in server.lines] == ["evt_1"]
            yield event(2)

        assert len(list(client.send_many(source()))) == 2


def test_lost_answers_are_asked_for_again_with_the_same_ids(path: Path) -> None:
    """After a lost connection, unanswered events are sent again with their ids, and answered ones are not."""
    hangs_up = iter([False, True])

    def answer(line: dict[str, object]) -> dict[str, object] | None:
        return None if next(hangs_up, False) else accepted(line)

    with scripted(path, answer) as server, Client(path, timeout=PATIENCE_SECONDS) as client:
        results = list(client.send_many([Event(type="a", data={"n": n}) for n in range(4)]))
        sent = [str(line["id"]) for line in server.lines]
    ids = [result.id for result in results if isinstance(result, PublishResult)]
    assert len(set(ids)) == 4
    assert server.connections == 2
    assert sent[0] == ids[0]
    assert sent[1:] == [ids[1], *ids[1:]] or sent[1:] == [ids[1], ids[1], ids[2], ids[3]]
    assert sent.count(ids[0]) == 1


def test_server_that_stops_is_waited_for(path: Path) -> None:
    """An event that is refused because the server stops is sent to the next server, unnoticed by the caller."""
    stops = iter([True])
    answer: Answer = lambda line: refused("SHUTTING_DOWN") if next(stops, False) else accepted(line)  # noqa: E731
    with scripted(path, answer) as server, Client(path, timeout=PATIENCE_SECONDS) as client:
        assert client.send("user.created", {}, "evt_1").id == "evt_1"
        assert [line["id"] for line in server.lines] == ["evt_1", "evt_1"]
        assert server.connections == 2


def test_idle_connection_that_was_closed_is_replaced(path: Path) -> None:
    """A restart of the server between two calls is not noticed."""
    with Client(path, timeout=PATIENCE_SECONDS) as client:
        with scripted(path):
            client.send("user.created", {})
        path.unlink()
        with scripted(path) as server:
            assert client.send("user.created", {}, "evt_2").id == "evt_2"
            assert len(server.lines) == 1


def test_nobody_there_is_said_within_the_timeout(path: Path) -> None:
    """Without a server the client gives up after its timeout, and names the server."""
    with Client(path, timeout=0.2) as client, pytest.raises(ServerUnavailable, match=r"s\.sock: can't connect"):
        client.send("user.created", {})


def test_silent_server_is_given_up(path: Path) -> None:
    """A server that never answers is given up after the timeout; the next call uses a new connection."""
    release = threading.Event()

    def answer(line: dict[str, object]) -> dict[str, object]:
        release.wait(PATIENCE_SECONDS)
        return accepted(line)

    with scripted(path, answer), Client(path, timeout=SHORT_SECONDS) as client:
        with pytest.raises(ServerUnavailable, match="timed out"):
            client.send("user.created", {}, "evt_1")
        release.set()
        assert client.send("user.created", {}, "evt_2").id == "evt_2"


def test_results_that_came_are_yielded_before_the_loss_is_raised(path: Path) -> None:
    """The error for a lost connection is raised only after all results that arrived were returned."""
    with (
        scripted(path, lambda line: accepted(line) if line["id"] == "evt_0" else None),
        Client(path, timeout=SHORT_SECONDS) as c,
    ):
        results = c.send_many(map(event, range(3)))
        assert next(results) == PublishResult(id="evt_0", deliveries=1, duplicate=False)
        with pytest.raises(ServerUnavailable):
            next(results)


def test_a_stream_left_early_does_not_confuse_the_next_call(path: Path) -> None:
    """Results of an abandoned stream are never taken for those of another event."""
    all_sent, released = threading.Event(), threading.Event()

    def answer(line: dict[str, object]) -> dict[str, object]:
        (all_sent if line["id"] == "evt_0" else released).wait(PATIENCE_SECONDS)
        return accepted(line)

    def source() -> Iterator[Event]:
        yield from map(event, range(3))
        all_sent.set()

    with scripted(path, answer), Client(path, timeout=PATIENCE_SECONDS) as client:
        stream = client.send_many(source())
        assert next(stream) == PublishResult(id="evt_0", deliveries=1, duplicate=False)
        assert isinstance(stream, Generator)
        stream.close()
        released.set()
        assert client.send("user.created", {}, "evt_x").id == "evt_x"


def test_refusal_is_read_even_if_the_server_has_closed(path: Path) -> None:
    """A refusal that was written before the connection closed is read, though sending fails."""
    with socket.socket(socket.AF_UNIX) as listener, Client(path, timeout=PATIENCE_SECONDS) as client:
        listener.bind(str(path))
        listener.listen()

        def refuse() -> None:
            connection, _ = listener.accept()
            connection.sendall(json.dumps(refused("FORBIDDEN")).encode() + b"\n")
            connection.close()

        turns_away = threading.Thread(target=refuse)
        turns_away.start()
        with pytest.raises(Rejected) as caught:
            client.send("user.created", {"more than a socket holds": "x" * 2_000_000})
        turns_away.join()
    assert caught.value.code is ErrorCode.FORBIDDEN


@pytest.mark.parametrize("data", [{"n": float("nan")}, {"s": "\ud800"}, b'{"a":\n1}'])
def test_what_has_no_json_form_is_not_sent(path: Path, data: dict[str, object] | bytes) -> None:
    """NaN, a lone surrogate or a newline in raw data is an error before anything is sent."""
    with scripted(path) as server, Client(path) as client:
        with pytest.raises(ValueError, match=r"newline|JSON|surrogates"):
            client.send("user.created", data)
        assert server.lines == []


def test_raw_data_keeps_its_bytes(path: Path) -> None:
    """Data given as bytes is sent unchanged."""
    with scripted(path) as server, Client(path) as client:
        client.send("user.created", b'{ "a" : 1.00 }')
        assert server.lines[0]["data"] == {"a": 1.0}


def test_unknown_code_of_a_newer_server_is_still_a_refusal(path: Path) -> None:
    """A code that this client doesn't know is raised as INTERNAL, with the code in its text."""
    with (
        scripted(path, lambda _line: refused("TEAPOT")),
        Client(path) as client,
        pytest.raises(Rejected, match="TEAPOT: because") as caught,
    ):
        client.send("user.created", {})
    assert caught.value.code is ErrorCode.INTERNAL

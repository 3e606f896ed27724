"""What every kind of client does, over the socket and over HTTP, against servers with scripted answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.client.flavours import FLAVOURS, Send
from tests.client.scripted import Reply, accepted, line_of, refused, scripted, scripted_http
from tests.ports import held_port
from webhookd.client import ErrorCode, Event, PublishResult, Rejected, ServerUnavailable


@pytest.fixture(params=FLAVOURS)
def send(request: pytest.FixtureRequest) -> Send:
    return FLAVOURS[request.param]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s.sock"


def event(number: int) -> Event:
    return Event(type="user.created", data={"n": number}, id=f"evt_{number}")


def events(count: int) -> Iterator[Event]:
    return map(event, range(count))


def result(number: int) -> PublishResult:
    return PublishResult(id=f"evt_{number}", deliveries=1, duplicate=False)


def test_events_without_an_id_get_one_that_they_keep(send: Send, path: Path) -> None:
    """The first server closes the connection without an answer; the second gets the same ids in the same order."""
    answers = iter([None])
    with scripted(path, lambda line: next(answers, accepted(line))) as server:
        results = send(str(path), [Event(type="a", data={"n": n}) for n in range(3)])
    ids = [given.id for given in results if isinstance(given, PublishResult)]
    assert len(set(ids)) == 3
    assert all(given.startswith("evt_") and len(given) == 30 for given in ids)
    assert server.connections == 2
    assert [line["id"] for line in server.lines[-3:]] == ids
    assert server.lines[0]["id"] == ids[0]


@pytest.mark.parametrize(
    "code", ["JOURNAL_FULL", "JOURNAL_UNREACHABLE", "KEYS_OUTDATED", "SHUTTING_DOWN", "RATE_LIMITED"]
)
def test_refusals_of_the_moment_are_waited_out_on_the_socket(send: Send, path: Path, code: str) -> None:
    """The caller doesn't notice a full journal, a stopping server or one with too many connections."""
    answers = iter([refused(code), refused(code)])
    with scripted(path, lambda line: next(answers, accepted(line))) as server:
        assert send(str(path), events(1)) == [result(0)]
    assert [line["id"] for line in server.lines] == ["evt_0"] * 3


def test_refusals_keep_their_place(send: Send, path: Path) -> None:
    """An event that is not accepted is refused in its place, over the socket and over HTTP."""
    with scripted(path, lambda line: refused("CONFLICT") if line["id"] == "evt_1" else accepted(line)):
        found = send(str(path), events(3))
    organization = b'{"ok":false,"error":{"code":"FORBIDDEN","message":"another organization"}}\n'

    def one_refused(_nth: int, lines: list[dict[str, object]]) -> Reply:
        results = [organization if line["id"] == "evt_1" else line_of(line) for line in lines]
        return Reply(body=b"".join(results))

    with scripted_http(one_refused) as server:
        over_http = send(server.url, events(3))
    for results, code in ((found, ErrorCode.CONFLICT), (over_http, ErrorCode.FORBIDDEN)):
        assert [results[0], results[2]] == [result(0), result(2)]
        assert isinstance(results[1], Rejected)
        assert results[1].code is code


def test_deadline_names_the_event(send: Send, path: Path) -> None:
    """Without a server the caller gets an error with the id of the event after its timeout, over both transports."""
    with held_port() as port:
        for target in (str(path), f"http://127.0.0.1:{port}"):
            with pytest.raises(ServerUnavailable, match=r"no answer for event evt_0 in 0\.3 s") as caught:
                send(target, events(2), timeout=0.3)
            assert caught.value.event_id == "evt_0"


def test_refused_producer_is_told_at_once(send: Send) -> None:
    """An invalid key is an error for the caller, not a reason to wait."""
    problem = b'{"code":"UNAUTHORIZED","detail":"no such key"}'
    with (
        scripted_http(lambda _nth, _lines: Reply(status=401, body=problem)) as server,
        pytest.raises(Rejected, match="no such key") as caught,
    ):
        send(server.url, events(2), key="whd_wrong")
    assert caught.value.code is ErrorCode.UNAUTHORIZED
    assert len(server.requests) == 1


def test_key_revoked_in_the_middle_ends_the_rest(send: Send) -> None:
    """Events accepted before a key is revoked have results; the others are refused with the key's error."""
    ended = b'{"ok":false,"error":{"code":"UNAUTHORIZED","message":"no longer in force"}}\n'

    def revoked(_nth: int, lines: list[dict[str, object]]) -> Reply:
        return Reply(body=line_of(lines[0]) + ended) if lines[0]["id"] == "evt_0" else Reply(body=ended)

    with (
        scripted_http(revoked) as server,
        pytest.raises(Rejected, match="no longer in force"),
    ):
        send(server.url, events(3))


def test_overload_is_waited_out_as_long_as_the_server_says(send: Send) -> None:
    """After a 503 with Retry-After the same events are sent again, after that time."""
    overload = Reply(status=503, headers=(("retry-after", "1"),), body=b"")
    with scripted_http(lambda nth, _lines: Reply() if nth else overload) as server:
        assert send(server.url, events(2), key="whd_k") == [result(0), result(1)]
    first, second, *_ = server.asked_at
    assert second - first >= 1  # however busy the machine is, it can't be less
    assert [[line["id"] for line in lines] for lines in server.requests][-1][0] == "evt_0"
    assert server.headers[0]["authorization"] == "Bearer whd_k"
    assert server.headers[0]["content-type"] == "application/x-ndjson"
    assert server.headers[0]["path"] == "/api/events"


def test_answer_that_breaks_off_is_continued(send: Send) -> None:
    """After an answer with two results of four, the other two events are sent again."""
    with scripted_http(lambda nth, _lines: Reply(results=None if nth else 1)) as server:
        assert send(server.url, events(4), window=4) == [result(n) for n in range(4)]
    asked = [line["id"] for lines in server.requests for line in lines]
    assert asked.count("evt_0") == 1
    assert len(server.requests) >= 2


def test_requests_too_large_for_a_proxy_are_cut(send: Send) -> None:
    """After a 413 for many events fewer are sent; for one event it is the event's refusal."""
    most = 3

    def proxy(_nth: int, lines: list[dict[str, object]]) -> Reply:
        return Reply(status=413, body=b"<html>") if len(lines) > most else Reply()

    with scripted_http(proxy) as server:
        big = [Event(type="a", data={"x": "x" * 100_000}, id=f"evt_{n}") for n in range(6)]
        assert send(server.url, big, window=6) == [result(n) for n in range(6)]
        most = 0
        with pytest.raises(Rejected, match="too large"):
            send(server.url, events(1))


def test_window_out_of_range_is_the_callers_error(send: Send, path: Path) -> None:
    """The window has limits."""
    for window in (0, 1025):
        with pytest.raises(ValueError, match="window must be 1 to 1024"):
            send(str(path), [], window=window)

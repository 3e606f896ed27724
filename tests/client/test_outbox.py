"""The state machine of the clients: order, limits, back-off, deadlines, and the effect of each answer."""

import json
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linear import MOST_GROWTH, growth
from webhookd.client import ErrorCode, Event, PublishResult, Rejected, ServerUnavailable
from webhookd.client.answers import Lost, read_failure
from webhookd.client.outbox import MOST_UNANSWERED_BYTES, Outbox, Submission

TIMEOUT = 10.0


def outbox(*, sample: float = 1.0) -> Outbox:
    numbers: Iterator[int] = iter(range(1000))
    return Outbox("s.sock", TIMEOUT, lambda: f"own_{next(numbers)}", frozenset({ErrorCode.FORBIDDEN}), lambda: sample)


def filled(box: Outbox, count: int, *, now: float = 0.0, data: bytes = b"{}") -> list[Submission]:
    made = [box.submission(Event(type="a", data=data), now) for _ in range(count)]
    for submission in made:
        box.put(submission)
    return made


def ids(lines: bytes) -> list[str]:
    return [json.loads(line)["id"] for line in lines.splitlines()]


def result(event_id: str) -> bytes:
    return json.dumps({"ok": True, "id": event_id, "deliveries": 1, "duplicate": False}).encode() + b"\n"


def refusal(code: str) -> bytes:
    return json.dumps({"ok": False, "error": {"code": code, "message": "because"}}).encode() + b"\n"


def test_what_is_unanswered_goes_again_first_and_in_order() -> None:
    """After a lost connection the next one starts with the oldest unanswered event, without the answered ones."""
    box = outbox()
    filled(box, 4)
    assert ids(box.take_unsent(10_000, most_events=3)) == ["own_0", "own_1", "own_2"]
    box.receive(result("own_0"), 1.0)
    box.lose(Lost("gone"), 2.0)
    assert ids(box.take_unsent(10_000)) == ["own_1", "own_2", "own_3"]
    assert box.take_unsent(10_000) == b""


def test_half_a_result_is_lost_with_its_connection() -> None:
    """A partial result of a lost connection is never joined with bytes of the next one."""
    box = outbox()
    (only,) = filled(box, 1)
    box.take_unsent(10_000)
    box.receive(result("own_0")[:20], 1.0)
    box.lose(Lost("gone"), 2.0)
    box.take_unsent(10_000)
    box.receive(result("own_0"), 3.0)
    assert only.value() == PublishResult(id="own_0", deliveries=1, duplicate=False)


def test_lines_are_taken_up_to_a_size_but_at_least_one() -> None:
    """A request has whole lines up to its limit; a larger line is sent alone."""
    box = outbox()
    filled(box, 3, data=b'{"a":"' + b"x" * 100 + b'"}')
    size = len(box.submission(Event(type="a", data=b'{"a":"' + b"x" * 100 + b'"}'), 0.0).line)
    assert ids(box.take_unsent(2 * size)) == ["own_0", "own_1"]
    assert ids(box.take_unsent(10)) == ["own_2"]


def test_what_may_be_unanswered_is_bounded_in_events_and_bytes() -> None:
    """Events and their bytes are limited, but there is always room for one event."""
    box = outbox()
    filled(box, 2)
    assert (box.is_over(1), box.is_over(2)) == (True, False)
    box = outbox()
    filled(box, 1, data=b'{"a":"' + b"x" * MOST_UNANSWERED_BYTES + b'"}')
    assert not box.is_over(1024)
    filled(box, 1)
    assert box.is_over(1024)


def test_pauses_grow_and_are_spread_until_something_is_heard() -> None:
    """The pause before a new connection doubles up to a second, less up to half, and is reset by a result."""
    box = outbox(sample=1.0)
    filled(box, 2)
    pauses = []
    for _ in range(7):
        box.lose(Lost("gone"), 100.0)
        pauses.append(round(box.try_at - 100.0, 3))
    assert pauses == [0.05, 0.1, 0.2, 0.4, 0.8, 1.0, 1.0]
    box.take_unsent(10_000)
    box.receive(result("own_0"), 100.0)
    box.lose(Lost("gone"), 100.0)
    assert round(box.try_at - 100.0, 3) == 0.05
    luckier = outbox(sample=0.0)
    luckier.lose(Lost("gone"), 100.0)
    assert round(luckier.try_at - 100.0, 3) == 0.025


def test_retry_after_is_waited_out() -> None:
    """The wait that the server asks for is the minimum of the pause."""
    box = outbox()
    box.lose(Lost("HTTP 503", 7.0), 100.0)
    assert box.try_at == 107.0


def test_progress_puts_the_deadline_off_and_silence_names_the_event() -> None:
    """The timeout runs from the last result; the error names the first unanswered event and the reason."""
    box = outbox()
    first, second = filled(box, 2)
    box.take_unsent(10_000)
    assert box.deadline(first) == TIMEOUT
    box.receive(result("own_0"), 8.0)
    assert box.deadline(second) == 18.0
    box.expire(17.9)
    box.lose(Lost("the server closed the connection"), 17.9)
    with pytest.raises(ServerUnavailable, match=r"s\.sock: the server closed .* event own_1 in 10 s") as caught:
        box.expire(18.0)
    assert caught.value.event_id == "own_1"


def test_time_in_which_nobody_listened_counts_for_nothing() -> None:
    """Time that the caller's source takes doesn't count towards the timeout."""
    box = outbox()
    (only,) = filled(box, 1)
    box.attend(60.0)
    assert box.deadline(only) == 70.0


def test_given_up_before_it_was_sent_it_is_never_sent() -> None:
    """An event whose caller left while it waited for a connection isn't submitted."""
    box = outbox()
    first, second = filled(box, 2)
    box.give_up(first)
    assert ids(box.take_unsent(10_000)) == ["own_1"]
    box.receive(result("own_1"), 1.0)
    assert second.is_done


def test_given_up_after_it_was_sent_it_keeps_its_place() -> None:
    """The result of an abandoned event is not taken for the next one; after a lost connection it is not sent again."""
    box = outbox()
    first, second = filled(box, 2)
    box.take_unsent(10_000)
    box.give_up(first)
    box.receive(result("own_0"), 1.0)
    assert not second.is_done
    box.receive(result("own_1"), 1.0)
    assert second.value() == PublishResult(id="own_1", deliveries=1, duplicate=False)
    third, _ = filled(box, 2)
    box.take_unsent(10_000)
    box.give_up(third)
    box.lose(Lost("gone"), 2.0)
    assert ids(box.take_unsent(10_000)) == ["own_3"]


@pytest.mark.parametrize(
    "code",
    ["SHUTTING_DOWN", "RATE_LIMITED", "JOURNAL_FULL", "JOURNAL_UNREACHABLE", "REQUEST_TIMEOUT", "QUOTA_EXCEEDED"],
)
def test_refusals_of_the_moment_are_no_results(code: str) -> None:
    """After a temporary refusal the events are sent again; results before it count."""
    box = outbox()
    first, second = filled(box, 2)
    box.take_unsent(10_000)
    with pytest.raises(Lost, match="because"):
        box.receive(result("own_0") + refusal(code), 1.0)
    assert (first.is_done, second.is_done) == (True, False)
    box.lose(Lost("because"), 1.0)
    assert ids(box.take_unsent(10_000)) == ["own_1"]


def test_refusal_of_an_event_costs_only_itself() -> None:
    """A permanent refusal is the outcome of its event, and the next result is for the next event."""
    box = outbox()
    first, second = filled(box, 2)
    box.take_unsent(10_000)
    box.receive(refusal("VALIDATION_ERROR") + result("own_1"), 1.0)
    refused = first.value()
    assert isinstance(refused, Rejected)
    assert refused.code is ErrorCode.VALIDATION_ERROR
    assert second.is_done


def test_refusal_of_the_producer_is_that_of_all_its_events() -> None:
    """If the producer itself is refused, each event fails with that error."""
    box = outbox()
    made = filled(box, 3)
    box.take_unsent(10_000, most_events=1)
    with pytest.raises(Lost):
        box.receive(refusal("FORBIDDEN"), 1.0)
    assert len(box) == 0
    for submission in made:
        with pytest.raises(Rejected, match="because"):
            submission.value()


def test_result_that_nobody_waits_for_ends_the_connection() -> None:
    """Results without an event, or that are not results, end the connection."""
    with pytest.raises(Lost, match="a result for no event"):
        outbox().receive(result("own_0"), 1.0)


def test_answer_that_ends_early_is_a_loss() -> None:
    """After an HTTP answer without all results, the other events are sent again."""
    box = outbox()
    filled(box, 2)
    box.take_unsent(10_000)
    box.receive(result("own_0"), 1.0)
    with pytest.raises(Lost, match="before all its results"):
        box.end_answer()
    box.receive(result("own_1"), 1.0)
    box.end_answer()


@given(st.lists(st.sampled_from(["put", "take", "take one", "answer", "lose", "cut"]), max_size=60))
def test_whatever_happens_each_event_is_taken_in_order_and_answered_once(steps: list[str]) -> None:
    """In any order of sending, answers and lost connections, events arrive in order and each has one result."""
    box = outbox()
    made: list[Submission] = []
    seen: list[str] = []
    wire: list[str] = []

    def take(count: int) -> None:
        for event_id in ids(box.take_unsent(10_000, most_events=count)):
            wire.append(event_id)
            if event_id not in seen:
                seen.append(event_id)

    for step in [*steps, "lose", "take", *["answer"] * 60]:
        match step:
            case "put":
                made += filled(box, 1)
            case "take":
                take(100)
            case "take one":
                take(1)
            case "answer" if wire:
                box.receive(result(wire.pop(0)), 1.0)
            case "cut" if wire:
                box.receive(result(wire[0])[:-5], 1.0)
                box.lose(Lost("cut"), 1.0)
                wire.clear()
            case "lose":
                box.lose(Lost("gone"), 1.0)
                wire.clear()
    assert seen == [submission.id for submission in made]
    assert [submission.value() for submission in made] == [
        PublishResult(id=submission.id, deliveries=1, duplicate=False) for submission in made
    ]


PROBLEM = b'{"code":"UNAUTHORIZED","detail":"no such key"}'


@pytest.mark.parametrize(
    ("status", "body", "expected", "said"),
    [
        (401, PROBLEM, ErrorCode.UNAUTHORIZED, "no such key"),
        (413, b"<html>", ErrorCode.PAYLOAD_TOO_LARGE, "a proxy before it"),
        (404, b"<html>", ErrorCode.INTERNAL, "is the URL right"),
        (301, b"", ErrorCode.INTERNAL, "HTTP 301"),
    ],
)
def test_http_refusals_say_what_to_mend(status: int, body: bytes, expected: ErrorCode, said: str) -> None:
    """A permanent status is a refusal with the API's code; for a proxy's answer the error says so."""
    failure = read_failure(status, {}, body, 0.0)
    assert isinstance(failure, Rejected)
    assert (failure.code, said in failure.detail) == (expected, True), failure.detail


@pytest.mark.parametrize(
    ("status", "header", "seconds"),
    [
        (429, "7", 7.0),
        (503, "Thu, 01 Jan 1970 00:00:20 GMT", 10.0),
        (503, "Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
        (503, "99999999", 86_400.0),
        (502, "soon", 0.0),
        (500, "", 0.0),
        (504, "-1", 0.0),
        (503, "Mon, 01 Jan 2020 00:00:00 1111111111111111", 0.0),
        (503, "Thu, 01 Jan 1970 00:00:20 GMT" + " " * 60_000, 10.0),
    ],
)
def test_http_answers_of_the_moment_are_waited_out(status: int, header: str, seconds: float) -> None:
    """Overload, a proxy without its server, and server errors are retried, not before Retry-After."""
    failure = read_failure(status, {"retry-after": header}, b"", 10.0)
    assert isinstance(failure, Lost)
    assert failure.retry_after_seconds == seconds


def test_a_date_to_wait_for_is_held_against_the_answers_own() -> None:
    """A date in Retry-After is relative to the server's clock, also if that is wrong."""
    headers = {"retry-after": "Thu, 01 Jan 1970 00:02:00 GMT", "date": "Thu, 01 Jan 1970 00:01:00 GMT"}
    failure = read_failure(503, headers, b"", 1_000_000.0)
    assert isinstance(failure, Lost)
    assert failure.retry_after_seconds == 60.0


def test_a_result_that_never_ends_is_none() -> None:
    """Bytes without a newline are kept up to a limit, and searched once; then the connection is given up."""

    def pieces(count: int) -> list[bytes]:
        return [b"x" * 1024] * count

    def receive(given: list[bytes]) -> None:
        box = outbox()
        for piece in given:
            assert not box.receive(piece, 1.0)

    assert growth(pieces, receive, 1024) < MOST_GROWTH
    with pytest.raises(Lost, match="more than"):
        receive(pieces(10_000))


def test_results_come_however_they_are_cut() -> None:
    """A result may arrive byte by byte, or together with the next ones."""
    box = outbox()
    submissions = filled(box, 3)
    box.take_unsent(10_000)
    first = result("own_0")
    assert not any(box.receive(first[at : at + 1], 1.0) for at in range(len(first) - 1))
    assert box.receive(b"\n" + result("own_1") + result("own_2")[:10], 1.0)
    assert [submission.is_done for submission in submissions] == [True, True, False]
    assert box.receive(result("own_2")[10:], 1.0)
    assert [submission.outcome for submission in submissions] == [
        PublishResult(id=f"own_{number}", deliveries=1, duplicate=False) for number in range(3)
    ]


@pytest.mark.parametrize("line", [b"[" * 100_000, b'{"ok":' + b"9" * 5000 + b"}", b'{"ok":true}', b"\xff"])
def test_what_is_no_result_ends_the_connection(line: bytes) -> None:
    """Whatever a server sends instead of a result, no unexpected exception is raised."""
    box = outbox()
    filled(box, 1)
    box.take_unsent(10_000)
    with pytest.raises(Lost, match="not a result"):
        box.receive(line + b"\n", 1.0)
    failure = read_failure(503, {"retry-after": "9" * 60_000}, line, 0.0)
    assert isinstance(failure, Lost)
    assert failure.retry_after_seconds == 86_400

"""Posting events over HTTP: how far they run ahead, what a closed connection means, and that an open loop goes on."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from time import sleep

import pytest

from tests.bench.posting import Address, Arrived, Pace, play_posts, post_ahead
from tests.bench.server import BrokenCaseError
from tests.bench.yardsticks import posted_request

REQUEST = posted_request("/", {"content-type": "application/json"}, b"{}")
ANSWER = b"HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}"


class Seen:
    """What a server has got."""

    def __init__(self) -> None:
        self.posts = 0
        self.connections = 0
        self.lock = threading.Lock()


@contextmanager
def serving(answer: Callable[[int], tuple[bytes, bool]]) -> Iterator[tuple[Address, Seen]]:
    """Serve on loopback; `answer` returns for the number of a request the bytes to send, and whether to close then."""
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            with seen.lock:
                seen.connections += 1

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
            """Log nothing."""

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            with seen.lock:
                seen.posts += 1
                number = seen.posts
            data, self.close_connection = answer(number)
            self.wfile.write(data)

    class Listener(ThreadingHTTPServer):
        request_queue_size = 1024
        daemon_threads = True
        block_on_close = False

    with Listener(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield ("127.0.0.1", server.server_port), seen
        finally:
            server.shutdown()
            thread.join()


def pace(*, connections: int = 4, ahead: int = 2000, each: int = 1, patience: float = 60) -> Pace:
    return Pace(connections=connections, ahead=ahead, deliveries_an_event=each, patience_seconds=patience)


def post(address: Address, number: int, how: Pace, count: Callable[[], int]) -> Arrived:
    return post_ahead(address, [REQUEST] * number, how, count, lambda: None)


def test_events_run_ahead_of_their_deliveries_by_so_many() -> None:
    """With two deliveries an event and six ahead, three events are posted, and more only as deliveries arrive."""
    arrived, ahead = [0], []

    def answer(number: int) -> tuple[bytes, bool]:
        ahead.append(2 * number - arrived[0])
        return ANSWER, False

    def count() -> int:
        # Nothing arrives before no further event may be posted.
        if 2 * seen.posts - arrived[0] >= 6:
            arrived[0] = 2 * seen.posts
        return arrived[0]

    with serving(answer) as (address, seen):
        assert post(address, 60, pace(ahead=6, each=2), count).deliveries == 120
    assert max(ahead) == 6
    assert seen.posts == 60


def test_what_does_not_arrive_is_not_waited_for() -> None:
    """When nothing has arrived for so long, no more is posted, and the rest counts as lost."""
    with serving(lambda _: (ANSWER, False)) as (address, seen):
        assert post(address, 5, pace(ahead=2, patience=0.1), lambda: 0).deliveries == 0
    assert seen.posts <= 2


def test_all_are_posted_once_and_waited_for() -> None:
    """Every request is posted once, over as many connections as were asked for; earlier arrivals do not count."""
    with serving(lambda _: (ANSWER, False)) as (address, seen):
        arrived = post(address, 50, pace(), lambda: 1000 + seen.posts)
        assert (arrived.deliveries, seen.posts, seen.connections) == (50, 50, 4)
    assert arrived.seconds > 0


def test_a_connection_that_the_server_closed_is_opened_again() -> None:
    """A server that closes after an answer, silently, gets each request once, each on a new connection."""
    with serving(lambda _: (ANSWER, True)) as (address, seen):
        post(address, 20, pace(connections=1), lambda: seen.posts)
        assert (seen.posts, seen.connections) == (20, 20)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"HTTP/1.1 429 Too Many\r\ncontent-length: 9\r\n\r\nslow down", "an event was answered with 429: slow down"),
        (ANSWER[:-1], "the server closed the connection within an answer"),
        (b"", "the server closed a new connection without an answer"),
    ],
)
def test_an_event_that_is_not_taken_ends_the_case(data: bytes, says: str) -> None:
    """A refusal, half an answer and none are told as they are, in either way of posting."""
    with serving(lambda _: (data, True)) as (address, seen):
        with pytest.raises(BrokenCaseError, match=says):
            post(address, 20, pace(), lambda: seen.posts)
        with pytest.raises(BrokenCaseError, match=says):
            play_posts(address, [REQUEST], 1000)


def test_a_server_that_is_not_there_is_named() -> None:
    """The error about a refused connection names its address."""
    with serving(lambda _: (ANSWER, False)) as (address, _):
        pass
    with pytest.raises(BrokenCaseError, match=f"can't connect to 127.0.0.1:{address[1]}"):
        post(address, 1, pace(), lambda: 0)


def test_an_open_loop_goes_on_while_an_answer_is_late() -> None:
    """Events are sent at their planned times while the first answer is missing, over further connections."""
    released = threading.Event()

    def answer(number: int) -> tuple[bytes, bool]:
        if number == 1:
            released.wait()
        if number == 20:
            released.set()
        return f"HTTP/1.1 202 Accepted\r\ncontent-length: {len(str(number))}\r\n\r\n{number}".encode(), False

    with serving(answer) as (address, seen):
        played, answers = play_posts(address, [REQUEST] * 20, 1000)
    # Without the others the first would have had no answer.
    assert played.answered[0] > max(played.sent)
    assert seen.connections >= 2
    assert [round(at - played.planned[0], 6) for at in played.planned] == [number / 1000 for number in range(20)]
    assert sorted(int(answer) for answer in answers) == list(range(1, 21))


def test_a_pause_of_the_generator_voids_the_run() -> None:
    """An event that found no connection free at its time was sent late."""

    def answer(_: int) -> tuple[bytes, bool]:
        sleep(0.1)
        return ANSWER, False

    with serving(answer) as (address, _):
        played, _ = play_posts(address, [REQUEST] * 600, 100_000)
    assert "more than 5 ms after their time" in played.void()

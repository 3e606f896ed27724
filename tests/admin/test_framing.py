"""The framing check of a connection's bytes, however the network splits them."""

from itertools import pairwise

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linear import MOST_GROWTH, growth
from webhookd.admin.framing import HEAD_BYTES, Fault, Framing

HEADS = (
    b"GET /a HTTP/1.1\r\nhost: x\r\n\r\n",
    b"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
    b"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nab\n\r\x00",
    (
        b"POST /c HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
        b"3;a=b\r\na\r\n\r\nA\r\n0123456789\r\n0\r\nt: 1\r\n\r\n"
    ),
    b"POST /d HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
)


def served(passed: bytes) -> list[tuple[bytes, bytes]]:
    """Return target and body of each request that h11 parses until the first error."""
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=100_000)
    connection.receive_data(passed)
    found: list[tuple[bytes, bytes]] = []
    target, body = b"", b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return found
        match event:
            case h11.Request():
                target, body = event.target, b""
            case h11.Data():
                body += event.data
            case h11.EndOfMessage():
                found.append((target, body))
                connection.send(h11.Response(status_code=200, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE:
                    return found
                connection.start_next_cycle()
            case _:
                return [*found, (target, body)]


def fed(framing: Framing, sent: bytes, cuts: set[int]) -> bytes:
    edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    return b"".join(framing.feed(sent[start:end]) for start, end in pairwise(edges))


@given(st.lists(st.sampled_from(HEADS), min_size=1, max_size=4), st.sets(st.integers(1, 200), max_size=20))
def test_what_is_plain_passes(requests: list[bytes], cuts: set[int]) -> None:
    """Pipelined requests pass unchanged, wherever the network splits them."""
    sent = b"".join(requests)
    framing = Framing()
    passed = fed(framing, sent, cuts)
    framing.end()
    assert framing.fault is None
    assert served(passed) == served(sent)
    if b"Chunked" not in sent:
        assert passed == sent


@given(st.lists(st.sampled_from(HEADS), max_size=2), st.binary(max_size=120), st.sets(st.integers(1, 200), max_size=8))
def test_where_the_network_cuts_makes_no_difference(requests: list[bytes], tail: bytes, cuts: set[int]) -> None:
    """Any bytes give the same requests and the same fault, whole or in pieces."""
    sent = b"".join(requests) + tail
    whole, pieces = Framing(), Framing()
    assert served(fed(pieces, sent, cuts)) == served(whole.feed(sent))
    assert pieces.fault == whole.fault


def test_chunks_leave_gathered() -> None:
    """A body that comes as a chunk a byte leaves as one chunk for all that came at once."""
    framing = Framing()
    head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n"
    assert framing.feed(head + b"1\r\na\r\n" * 5000) == head + b"1388\r\n" + b"a" * 5000 + b"\r\n"
    assert framing.feed(b"1;x=y\r\nb\r\n0\r\n\r\n") == b"1\r\nb\r\n0\r\n\r\n"
    assert framing.fault is None


def refused(head: bytes) -> Fault | None:
    framing = Framing()
    framing.feed(head)
    return framing.fault


@pytest.mark.parametrize("name", [b"Content-Length", b"Transfer-Encoding"])
@pytest.mark.parametrize("space", [b" ", b"\t", b" \t"])
def test_a_head_is_examined_in_time_linear_in_its_length(name: bytes, space: bytes) -> None:
    """A value with a long run of white space inside costs what its length costs."""

    def head(length: int) -> bytes:
        return b"GET / HTTP/1.1\r\nHost: a\r\n" + name + b": x" + (space * length)[:length] + b"x\r\n\r\n"

    longest = HEAD_BYTES - len(head(0))
    assert growth(head, refused, longest // 8) < MOST_GROWTH
    fault = refused(head(longest))
    if name == b"Content-Length":
        assert fault is not None
        assert "digits" in fault.detail
    else:
        assert fault is None  # h11 answers 501 to a coding that it does not know


def test_white_space_around_a_length_is_not_part_of_it() -> None:
    """Spaces and tabs before and after a value are left out (RFC 9112 5), in names in any case."""
    head = b"POST / HTTP/1.1\r\nhost: x\r\nCONTENT-Length: \t 5 \t\r\n\r\n"
    framing = Framing()
    assert framing.feed(head + b"abcdeGET / HTTP/1.1\r\n") == head + b"abcde"
    assert framing.fault is None


class Searched(bytearray):
    """What is held of a request, and how many of its bytes were searched."""

    searched = 0

    def find(self, sub: object, start: int = 0, end: int | None = None) -> int:  # type: ignore[override]  # as called
        found = super().find(sub, start, len(self) if end is None else end)  # type: ignore[arg-type]  # as above
        self.searched += max((found if found >= 0 else min(len(self), end or len(self))) - start, 0)
        return found


LONG_LINE = b"GET /" + b"a" * 8000 + b" HTTP/1.1\r\nhost: x\r\n\r\n"
LONG_HEADER = b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 16_000 + b"\r\n\r\n"
TRAILERS = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: " + b"b" * 4000 + b"\r\n\r\n"


@pytest.mark.parametrize("sent", [LONG_LINE, LONG_HEADER, TRAILERS], ids=["line", "header", "trailers"])
def test_what_has_been_searched_is_not_searched_again(sent: bytes) -> None:
    """A head that comes byte by byte is looked through once: for its line, its end and what is not plain in it."""
    framing = Framing()
    held = framing._held = Searched()
    assert b"".join(framing.feed(sent[at : at + 1]) for at in range(len(sent))) == sent
    assert held.searched < 8 * len(sent)

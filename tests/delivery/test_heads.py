"""Which responses are tolerated and which refused: one table, read in pieces, by another parser, and over both ways.

Tolerated is what RFC 9112 has a user agent read: folds (5.2), a bare LF in the head (2.2), and a length that is said
again (RFC 9110, 8.6). All that two readers could take in two ways is refused.
"""

from contextlib import suppress
from dataclasses import dataclass
from time import thread_time

import h11
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.delivery.hostile import Stream, proxying, read_request, serving
from tests.delivery.out import Out, sending, through
from webhookd.base.models import DeliveryError, Outcome
from webhookd.config import EgressConfig
from webhookd.delivery.http.heads import HeadError, plain_end, rewritten
from webhookd.delivery.http.wire import MAX_PARTS, MAX_RESPONSE_BYTES, ResponseReader, WireError

HEAD = b"HTTP/1.1 200 OK\r\n"
LENGTH = b"content-length: 2\r\n"
CHUNKED = b"transfer-encoding: chunked\r\n"
CHUNKS = b"2\r\nok\r\n0\r\n\r\n"


@dataclass(frozen=True)
class Read:
    """A response as it was read."""

    headers: dict[str, str]
    status: int = 200
    body: bytes = b"ok"


PLAIN = Read({"content-length": "2"})
TOLERATED = {
    # RFC 9110, 8.6: one decimal value, in several lines or as a list.
    "length twice": (HEAD + LENGTH * 2 + b"\r\nok", PLAIN),
    "length three times, apart": (HEAD + LENGTH + b"x: y\r\n" + LENGTH + b"a: b\r\n" + LENGTH + b"\r\nok", None),
    "length in other letters": (HEAD + LENGTH + b"Content-LENGTH: 2\r\n\r\nok", PLAIN),
    "length as a list": (HEAD + b"content-length: 2, 2\r\n\r\nok", PLAIN),
    "length as a dense list": (HEAD + b"content-length:2,2\r\n\r\nok", PLAIN),
    "length as a list with tabs": (HEAD + b"content-length: 2\t,\t2 \r\n\r\nok", PLAIN),
    "length as a list, and alone": (HEAD + b"content-length: 2, 2\r\n" + LENGTH + b"\r\nok", PLAIN),
    "no content, said twice": (
        b"HTTP/1.1 204 No Content\r\ncontent-length: 0\r\ncontent-length: 0\r\n\r\n",
        Read({"content-length": "0"}, status=204, body=b""),
    ),
    # RFC 9112, 5.2: each fold is replaced by spaces.
    "fold": (HEAD + b"x-a: b\r\n c\r\n" + LENGTH + b"\r\nok", Read({"x-a": "b c", "content-length": "2"})),
    "fold with a tab": (HEAD + b"x-a: b\r\n\tc\r\n" + LENGTH + b"\r\nok", None),
    "fold with much white space": (HEAD + b"x-a: b \t \r\n \t  c \r\n" + LENGTH + b"\r\nok", None),
    "fold of several lines": (HEAD + b"x-a: b\r\n c\r\n\td\r\n" + LENGTH + b"\r\nok", None),
    "fold behind nothing": (HEAD + b"x-a:\r\n b\r\n" + LENGTH + b"\r\nok", None),
    "fold that looks like a header": (HEAD + b"x-a: b\r\n content-length: 9\r\n" + LENGTH + b"\r\nok", None),
    "fold in the last header": (HEAD + LENGTH + b"x-a: b\r\n c\r\n\r\nok", None),
    "fold behind an interim answer": (
        b"HTTP/1.1 103 Early Hints\r\nlink: a\r\n b\r\n\r\n" + HEAD + b"x-a: b\r\n c\r\n" + LENGTH + b"\r\nok",
        Read({"x-a": "b c", "content-length": "2"}),
    ),
    # RFC 9112, 2.2: a bare LF ends a line of the head.
    "bare LF": (b"HTTP/1.1 200 OK\ncontent-length: 2\n\nok", PLAIN),
    "bare LF here and there": (b"HTTP/1.1 200 OK\r\nx-a: b\ncontent-length: 2\r\n\nok", None),
    "bare LF at the empty line": (HEAD + LENGTH + b"\nok", PLAIN),
    "bare LF before the empty line": (HEAD + b"content-length: 2\n\r\nok", PLAIN),
    "bare LF in an interim answer": (b"HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK\ncontent-length: 2\n\nok", PLAIN),
    "bare LF before chunks": (b"HTTP/1.1 200 OK\n" + CHUNKED[:-2] + b"\n\n" + CHUNKS, None),
    "bare LF and a body of them": (b"HTTP/1.1 200 OK\ncontent-length: 2\n\n\n\n", Read(PLAIN.headers, body=b"\n\n")),
    "bare LF and fold and length": (
        b"HTTP/1.1 200 OK\nx-a: b\n c\ncontent-length: 2\ncontent-length: 2\n\nok",
        Read({"x-a": "b c", "content-length": "2"}),
    ),
    # What was always read.
    "plain": (HEAD + LENGTH + b"\r\nok", PLAIN),
    "no reason": (b"HTTP/1.1 200\r\n" + LENGTH + b"\r\nok", PLAIN),
    "no reason and a bare LF": (b"HTTP/1.1 200\ncontent-length: 2\n\nok", PLAIN),
    "HTTP/1.0 that is kept": (b"HTTP/1.0 200 OK\r\nconnection: keep-alive\r\n" + LENGTH + b"\r\nok", None),
    "a leading zero": (HEAD + b"content-length: 02\r\n\r\nok", Read({"content-length": "02"})),
    "chunks": (HEAD + CHUNKED + b"\r\n" + CHUNKS, None),
    "another coding in chunks": (HEAD + b"transfer-encoding: gzip, Chunked\r\n\r\n" + CHUNKS, None),
    "interim answers with lengths": (
        b"HTTP/1.1 100 C\r\ncontent-length: 5\r\n\r\n" * 2 + HEAD + LENGTH + b"\r\nok",
        PLAIN,
    ),
    "no length": (HEAD + b"x-a: b\r\n\r\nok", Read({"x-a": "b"})),
    "letters beyond ASCII": (HEAD + b"x-a: \xe9\r\n" + LENGTH + b"\r\nok", Read({"x-a": "?", "content-length": "2"})),
    "a trailer is no header": (
        HEAD + CHUNKED + b"\r\n2\r\nok\r\n0\r\nretry-after: 9\r\n\r\n",
        Read({"transfer-encoding": "chunked"}),
    ),
}
REFUSED = {
    "lengths that differ": HEAD + LENGTH + b"content-length: 3\r\n\r\nok",
    "lengths that differ, in a list": HEAD + b"content-length: 2, 3\r\n\r\nok",
    "lengths that differ in a digit": HEAD + LENGTH + b"content-length: 02\r\n\r\nok",
    "the third differs": HEAD + LENGTH * 2 + b"content-length: 1\r\n\r\nok",
    "a length and none": HEAD + LENGTH + b"content-length:\r\n\r\nok",
    "a list with an empty place": HEAD + b"content-length: 2,\r\n\r\nok",
    "a list that begins empty": HEAD + b"content-length: ,2\r\n\r\nok",
    "two numbers in a length": HEAD + b"content-length: 2 2\r\n\r\nok",
    "a list with semicolons": HEAD + b"content-length: 2;2\r\n\r\nok",
    "a plus": HEAD + b"content-length: +2\r\n\r\nok",
    "a plus, twice": HEAD + b"content-length: +2\r\ncontent-length: +2\r\n\r\nok",
    "a minus": HEAD + b"content-length: -2\r\n\r\nok",
    "hexadecimal": HEAD + b"content-length: 0x2\r\n\r\nok",
    "hexadecimal, twice": HEAD + b"content-length: 0x2, 0x2\r\n\r\nok",
    "a fraction": HEAD + b"content-length: 2.0\r\n\r\nok",
    "digits that are not ASCII": HEAD + b"content-length: \xb2\r\n\r\nok",
    "twenty-eight digits": HEAD + b"content-length: " + b"2".zfill(28) + b"\r\n\r\nok",
    "white space before the colon": HEAD + b"content-length : 2\r\n\r\nok",
    "white space before the colon, twice": HEAD + LENGTH + b"content-length : 2\r\n\r\nok",
    "a length and chunks": HEAD + LENGTH + CHUNKED + b"\r\n" + CHUNKS,
    "chunks and a length": HEAD + CHUNKED + LENGTH + b"\r\n" + CHUNKS,
    "a length, twice, and chunks": HEAD + LENGTH + CHUNKED + LENGTH + b"\r\n" + CHUNKS,
    "a length and chunks with bare LF": b"HTTP/1.1 200 OK\ncontent-length: 2\n" + CHUNKED + b"\n" + CHUNKS,
    "a length and folded chunks": HEAD + LENGTH + b"transfer-encoding:\r\n chunked\r\n\r\n" + CHUNKS,
    "chunked twice": HEAD + CHUNKED * 2 + b"\r\n" + CHUNKS,
    "chunked twice, as a list": HEAD + b"transfer-encoding: chunked, chunked\r\n\r\n" + CHUNKS,
    "chunked first": HEAD + b"transfer-encoding: chunked, gzip\r\n\r\n" + CHUNKS,
    "chunked and nothing": HEAD + b"transfer-encoding: chunked,\r\n\r\n" + CHUNKS,
    "folded length": HEAD + b"content-length:\r\n 2\r\n\r\nok",
    "folded length, in a list": HEAD + b"content-length: 2,\r\n 2\r\n\r\nok",
    "length with a digit in its fold": HEAD + b"content-length: 2\r\n 0\r\n\r\nok",
    "folded chunks": HEAD + b"transfer-encoding:\r\n\tchunked\r\n\r\n" + CHUNKS,
    "white space before the first header": HEAD + b" x-a: b\r\n" + LENGTH + b"\r\nok",
    "a tab before the first header": HEAD + b"\tx-a: b\r\n" + LENGTH + b"\r\nok",
    "a line of white space": HEAD + b"x-a: b\r\n \r\n" + LENGTH + b"\r\nok",
    "a line of tabs before the body": HEAD + LENGTH + b"\t\t\r\n\r\nok",
    "a fold within a name": HEAD + b"x\r\n -a: b\r\n" + LENGTH + b"\r\nok",
    "a bare CR for a line end": HEAD + b"x-a: b\r" + LENGTH + b"\r\nok",
    "a bare CR in a value": HEAD + b"x-a: b\rc\r\n" + LENGTH + b"\r\nok",
    "a bare CR before CRLF": HEAD + b"x-a: b\r\r\n" + LENGTH + b"\r\nok",
    "a bare CR before a fold": HEAD + b"x-a: b\r\r\n c\r\n" + LENGTH + b"\r\nok",
    "a bare CR in a fold": HEAD + b"x-a: b\r\n c\rd\r\n" + LENGTH + b"\r\nok",
    "a bare CR in the status line": b"HTTP/1.1 200 O\rK\r\n" + LENGTH + b"\r\nok",
    "a bare CR at the empty line": HEAD + LENGTH + b"\rok",
    "bare CR throughout": b"HTTP/1.1 200 OK\rcontent-length: 2\r\rok",
    "a NUL in a value": HEAD + b"x-a: b\0c\r\n" + LENGTH + b"\r\nok",
    "a NUL in a name": HEAD + b"x\0a: b\r\n" + LENGTH + b"\r\nok",
    "a NUL in the status line": b"HTTP/1.1 200 O\0K\r\n" + LENGTH + b"\r\nok",
    "a NUL in a fold": HEAD + b"x-a: b\r\n \0c\r\n" + LENGTH + b"\r\nok",
    "a vertical tab in a value": HEAD + b"x-a: b\x0bc\r\n" + LENGTH + b"\r\nok",
    "a vertical tab for a fold": HEAD + b"x-a: b\r\n\x0bc\r\n" + LENGTH + b"\r\nok",
    "a line without a colon": HEAD + b"x-a\n" + LENGTH + b"\r\nok",
    "an empty name": HEAD + b": b\n" + LENGTH + b"\r\nok",
    "an empty line before the answer": b"\r\n" + HEAD + LENGTH + b"\r\nok",
    "a bare LF before the answer": b"\n" + HEAD + LENGTH + b"\r\nok",
    "an empty line behind an interim answer": b"HTTP/1.1 100 C\r\n\r\n\r\n" + HEAD + LENGTH + b"\r\nok",
    "white space before the answer": b" " + HEAD + LENGTH + b"\r\nok",
    "a bare LF behind a chunk's size": HEAD + CHUNKED + b"\r\n2\nok\r\n0\r\n\r\n",
    "a bare LF behind a chunk": HEAD + CHUNKED + b"\r\n2\r\nok\n0\r\n\r\n",
    "a bare LF behind the last chunk": HEAD + CHUNKED + b"\r\n2\r\nok\r\n0\n\r\n",
    "a bare LF at the end of chunks": HEAD + CHUNKED + b"\r\n2\r\nok\r\n0\r\n\n",
    "a bare LF in an extension": HEAD + CHUNKED + b"\r\n2;a\nb\r\nok\r\n0\r\n\r\n",
    "bare LF throughout chunks": b"HTTP/1.1 200 OK\ntransfer-encoding: chunked\n\n2\nok\n0\n\n",
    "a bare LF in a trailer": HEAD + CHUNKED + b"\r\n2\r\nok\r\n0\r\nx: y\n\r\n",
    "a fold in a trailer": HEAD + CHUNKED + b"\r\n2\r\nok\r\n0\r\nx: y\r\n z\r\n\r\n",
    "a length in a trailer": HEAD + CHUNKED + b"\r\n2\r\nok\r\n0\r\n" + LENGTH + b"\r\n",
    "another version": b"HTTP/2.0 200 OK\n" + LENGTH + b"\nok",
    "another protocol": b"RTSP/1.0 200 OK\r\n" + LENGTH + b"\r\nok",
    "no version": b"HTTP 200 OK\n" + LENGTH + b"\nok",
    "no status": b"HTTP/1.1\n" + LENGTH + b"\nok",
    "an interim answer alone": b"HTTP/1.1 100 Continue\n\n",
    "an interim status of three words": b"HTTP/1.1 1 00\r\n\r\n" + HEAD + LENGTH + b"\r\nok",
}


def read(*pieces: bytes) -> Read:
    """Read a response in pieces, to its end; WireError if it is refused."""
    reader = ResponseReader()
    for piece in pieces:
        reader.feed(piece)
    reader.end()
    return Read(dict(reader.headers), status=reader.status, body=bytes(reader.body))


def pieces(data: bytes, size: int) -> list[bytes]:
    return [data[at : at + size] for at in range(0, len(data), size)]


@pytest.mark.parametrize("name", TOLERATED)
def test_an_answer_is_read_however_it_comes_in(name: str) -> None:
    """A tolerated response is read in the same way in one piece, split at every place, and byte by byte."""
    answer, expected = TOLERATED[name]
    found = read(answer)
    assert (found.status // 100, len(found.body)) in {(2, 2), (2, 0)}
    assert expected is None or found == expected
    for at in range(1, len(answer)):
        assert read(answer[:at], answer[at:]) == found
    assert read(*pieces(answer, 1)) == found


@pytest.mark.parametrize("name", REFUSED)
def test_what_two_readers_could_take_in_two_ways_is_refused(name: str) -> None:
    """A refused response is refused in one piece, split at every place, and byte by byte."""
    answer = REFUSED[name]
    for parts in ([answer], pieces(answer, 1), *([answer[:at], answer[at:]] for at in range(1, len(answer)))):
        with pytest.raises(WireError):
            read(*parts)


def read_by_another(answer: bytes) -> Read:
    """Let h11, which is less tolerant, read the passed on form of a response; h11.RemoteProtocolError if it refuses."""
    reader = ResponseReader()
    other = h11.Connection(h11.CLIENT)
    other.send(h11.Request(method="POST", target="/", headers=[("host", "x"), ("content-length", "0")]))
    other.send(h11.EndOfMessage())
    for piece in pieces(answer, 3):
        if readable := reader.feed(piece):
            other.receive_data(readable)
    if not reader.is_complete:
        reader.end()
        other.receive_data(b"")
    status, body, headers = 0, b"", {}
    while not isinstance(event := other.next_event(), h11.EndOfMessage):
        match event:
            case h11.Response():
                status = event.status_code
                headers = {key.decode(): value.decode("latin-1") for key, value in event.headers}
            case h11.Data():
                body += bytes(event.data)
            case _:
                assert isinstance(event, h11.InformationalResponse)
    return Read(headers, status=status, body=body)


def in_h11s_words(found: Read) -> Read:
    headers = {key.lower(): value.strip().lower() for key, value in found.headers.items()}
    return Read(headers, status=found.status, body=found.body)


@pytest.mark.parametrize("name", [name for name in TOLERATED if name != "letters beyond ASCII"])
def test_another_reader_takes_it_in_the_same_way(name: str) -> None:
    """h11, which is less tolerant, reads the passed on form of a response as the same response."""
    answer, _ = TOLERATED[name]
    assert in_h11s_words(read_by_another(answer)) == in_h11s_words(read(answer))


_LINE_ENDS = st.sampled_from([b"\r\n"] * 6 + [b"\n"] * 3 + [b"\r", b"\r\r\n", b"\n\r\n"])
_NAMES = st.sampled_from([b"content-length", b"Transfer-Encoding", b"x-a", b"connection", b"x a", b""])
_VALUES = st.sampled_from(
    [b"2", b"2, 2", b"3", b" 2", b"chunked", b"gzip", b"close", b"", b"a b", b",", b"\t2\t", b"a\0b"]
)
_COLONS = st.sampled_from([b": "] * 4 + [b":", b" : ", b""])
_FIELDS = st.builds(lambda *parts: b"".join(parts), _NAMES, _COLONS, _VALUES, _LINE_ENDS)
_FOLDS = st.builds(lambda *parts: b"".join(parts), st.sampled_from([b" ", b"\t", b"  "]), _VALUES, _LINE_ENDS)
_STATUS_LINES = st.builds(
    lambda line, end: line + end,
    st.sampled_from([b"HTTP/1.1 200 OK"] * 4 + [b"HTTP/1.1 204 No Content", b"HTTP/1.0 200", b"HTTP/1.1 100 C"]),
    _LINE_ENDS,
)
_HEADS = st.builds(
    lambda status, fields, end: status + b"".join(fields) + end,
    _STATUS_LINES,
    st.lists(_FIELDS | _FIELDS | _FOLDS, max_size=5),
    _LINE_ENDS,
)


@given(_HEADS, st.sampled_from([b"ok", b"", CHUNKS, HEAD + LENGTH + b"\r\nok"]))
def test_what_is_taken_at_all_is_taken_alike(head: bytes, rest: bytes) -> None:
    """If any head is accepted, h11 accepts it too, and finds the same status, length and body."""
    try:
        found = read(head + rest)
    except WireError:
        return
    other = read_by_another(head + rest)
    assert (other.status, other.body, other.headers.keys()) == (
        found.status,
        found.body,
        in_h11s_words(found).headers.keys(),
    )


@given(_HEADS)
def test_a_head_in_the_one_form_stays_as_it_is(head: bytes) -> None:
    """A rewritten head isn't changed by a second rewrite, and `plain_end` agrees with `rewritten`."""
    head += b"\r\n\r\n"
    head = head[: min(head.find(end) + len(end) for end in (b"\n\n", b"\n\r\n") if end in head)]
    try:
        once = rewritten(head)
    except HeadError:
        assert not plain_end(head)
        return
    assert rewritten(once) == once
    assert plain_end(head) in {0, len(head)}
    assert not plain_end(head) or once == head


async def ask_all(egress: EgressConfig | None) -> dict[str, Outcome]:
    """Send to a receiver for each response, which sends it and closes, and return the outcomes."""
    outcomes: dict[str, Outcome] = {}
    answers = {name: answer for name, (answer, _) in TOLERATED.items()} | REFUSED

    async def ask(out: Out, name: str) -> None:
        async def script(stream: Stream, number: int) -> None:
            await read_request(stream)
            await stream.send_all(answers[name])

        async with serving(script) as receiver:
            outcomes[name] = await out.send(receiver.url, endpoint_id=name)

    async with sending(*([egress] if egress else [])) as out, trio.open_nursery() as nursery:
        for name in answers:
            nursery.start_soon(ask, out, name)
    return outcomes


async def ask_all_through_a_proxy() -> dict[str, Outcome]:
    async with proxying() as proxy:
        return await ask_all(through(proxy))


@pytest.fixture(scope="module")
def direct() -> dict[str, Outcome]:
    return trio.run(ask_all, None)


@pytest.fixture(scope="module")
def proxied() -> dict[str, Outcome]:
    return trio.run(ask_all_through_a_proxy)


@pytest.mark.parametrize("name", [*TOLERATED, *REFUSED])
def test_both_ways_out_agree(name: str, direct: dict[str, Outcome], proxied: dict[str, Outcome]) -> None:
    """Directly and through a proxy each response of the table has the same outcome."""
    for outcome in (direct[name], proxied[name]):
        if name in REFUSED:
            assert outcome.error is DeliveryError.PROTOCOL, outcome
        else:
            found = read(TOLERATED[name][0])
            assert outcome.error is None, outcome
            assert Read(dict(outcome.headers), status=outcome.status or 0, body=outcome.body) == found


def seconds_for(parts: list[bytes]) -> float:
    """Return the CPU time of reading these, whatever the result: the least of several samples."""
    samples = []
    for _ in range(3):
        began = thread_time()
        with suppress(WireError):
            read(*parts)
        samples.append(thread_time() - began)
    return min(samples)


@pytest.mark.parametrize("unit", [b" ", b"\r", b"\n ", b"\n\t x", b"x", b"2,", b"\nx: y", b"\nhttp/1.1 1\n"])
@pytest.mark.parametrize("before", [b"HTTP/1.1 200 OK", HEAD + b"content-length: 2", HEAD + b"x: y"])
@pytest.mark.parametrize("size", [16, MAX_RESPONSE_BYTES])
def test_reading_is_linear(unit: bytes, before: bytes, size: int) -> None:
    """Eight times as much of anything takes eight times as long, not sixty-four, in one piece and in small ones."""
    most = MAX_RESPONSE_BYTES - len(before) - 4
    short, long = (before + (unit * most)[: most // share] + b"\r\n\r\n" for share in (8, 1))
    ratio = seconds_for(pieces(long, size)) / max(seconds_for(pieces(short, size)), 1e-4)
    assert ratio < 32


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1  200 OK\r\n\r\n", "its first line is 'HTTP/1.1  200 OK'"),
        (b"HTTP/2 200\r\n\r\n", "its first line is 'HTTP/2 200'"),
        (b"HTTP/1.1 103 E\r\n\r\nHTTP/1.1 2OO OK\r\n\r\n", "its first line is 'HTTP/1.1 2OO OK'"),
        (HEAD + b"set cookie: secret\r\n\r\n", "a line of its head, 'set cookie', is no header"),
        (HEAD + b"nonsense\r\n\r\nbody", "a line of its head, 'nonsense', is no header"),
        (HEAD + LENGTH + CHUNKED + b"\r\nok", "it has a content-length and a transfer-encoding"),
        (HEAD + b"x: \x01\r\n\r\nbody", "its head can't be read"),
        (HEAD + CHUNKED + b"\r\nx\r\n", "where a chunk or its trailers end can't be told"),
    ],
)
def test_a_broken_answer_is_told_in_our_words(answer: bytes, says: str) -> None:
    """The error for a response shows the invalid line, neither a header's value nor the parser's text."""
    with pytest.raises(WireError) as refused:
        read(answer)
    assert str(refused.value) == f"the receiver's answer is no HTTP/1.1: {says}"


def test_the_lines_of_a_head_are_bounded() -> None:
    """Folded and repeated lines and those of interim responses count like others."""
    for many in (
        HEAD + b"x: a\r\n" + b" b\r\n" * 2 * MAX_PARTS,
        HEAD + LENGTH * 2 * MAX_PARTS,
        b"HTTP/1.1 100 C\n\n" * (MAX_PARTS + 1) + HEAD + LENGTH,
        b"HTTP/1.1 103 E\r\nx: a\r\n b\r\n\r\n" * (MAX_PARTS // 2) + HEAD + LENGTH,
    ):
        with pytest.raises(WireError, match=r"too many lines|512 parts"):
            read(many + b"\r\nok")

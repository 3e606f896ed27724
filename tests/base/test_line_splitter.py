"""Splitting a stream into lines: the chunks don't matter, and an oversized line is never held in memory."""

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from webhookd.base.line_splitter import Line, LineSplitter, Oversized

LIMIT = 8
pieces = st.sampled_from([b"a", b"bc", b"\n", b" ", b"\r", b"12345678", b"123456789", b"\xff"])
streams = st.lists(pieces, max_size=12).map(b"".join)


def cut(chunks: list[bytes]) -> tuple[list[Line], Line | None]:
    splitter = LineSplitter(LIMIT)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    return lines, splitter.finish()


def expected(stream: bytes) -> tuple[list[Line], Line | None]:
    """Return the lines, computed in a slow and simple way."""
    seen: list[Line | None] = []
    for line in stream.split(b"\n"):
        if len(line) > LIMIT:
            seen.append(Oversized.LINE)
        else:
            seen.append(line if line.strip(b" \t\r") else None)
    return [line for line in seen[:-1] if line is not None], seen[-1]


@settings(max_examples=500)
@given(stream=streams, cuts=st.lists(st.integers(0, 60)))
def test_chunks_make_no_difference(stream: bytes, cuts: list[int]) -> None:
    """However a stream is divided into chunks, the lines are those of the whole stream."""
    edges = [0, *sorted(min(cut, len(stream)) for cut in cuts), len(stream)]
    chunks = [stream[start:end] for start, end in itertools.pairwise(edges)]
    assert cut(chunks) == expected(stream)


def test_an_oversized_line_is_not_held() -> None:
    """A line that never ends takes no more memory than the limit, and the next line is read."""
    splitter = LineSplitter(LIMIT)
    for _ in range(10_000):
        assert splitter.feed(b"x" * 1000) == []
        assert len(splitter._partial) <= LIMIT
    assert splitter.feed(b"\nok\n") == [Oversized.LINE, b"ok"]


def test_the_limit_itself_is_allowed() -> None:
    """A line of exactly the limit is accepted; one byte more is oversized."""
    assert cut([b"12345678\n123456789\n"]) == ([b"12345678", Oversized.LINE], None)

"""The pass over a connection's bytes before they are parsed, however they were cut on the way."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from webhookd.admin.framing import Framing

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


@given(st.lists(st.sampled_from(HEADS), min_size=1, max_size=4), st.sets(st.integers(1, 200), max_size=20))
def test_what_is_plain_passes_unchanged(requests: list[bytes], cuts: set[int]) -> None:
    """Requests that follow each other come out byte for byte, wherever the network cut them."""
    sent = b"".join(requests)
    framing = Framing()
    edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    passed = b"".join(framing.feed(sent[start:end]) for start, end in pairwise(edges))
    framing.end()
    assert framing.fault is None
    assert passed == sent


@given(st.lists(st.sampled_from(HEADS), max_size=2), st.binary(max_size=120), st.sets(st.integers(1, 200), max_size=8))
def test_where_the_network_cuts_makes_no_difference(requests: list[bytes], tail: bytes, cuts: set[int]) -> None:
    """Any bytes are let through to the same point and refused for the same reason, whole or in pieces."""
    sent = b"".join(requests) + tail
    whole, pieces = Framing(), Framing()
    passed = whole.feed(sent)
    edges = [0, *sorted(cut for cut in cuts if cut < len(sent)), len(sent)]
    assert b"".join(pieces.feed(sent[start:end]) for start, end in pairwise(edges)) == passed
    assert pieces.fault == whole.fault

"""Ambiguous requests (request smuggling): each is refused, and nothing after it is served as a request."""

import json
import socket

import pytest

from tests.admin.conftest import Api
from tests.admin.raw import Reply, exchange, split_replies
from tests.patience import PATIENCE_SECONDS
from webhookd.base.errors import ErrorCode

BEHIND = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
GET = b"GET /healthz HTTP/1.1\r\n"
POST = b"POST /api/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"

REFUSED = {
    "length and coding": (POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "coding and length": (POST + b"transfer-encoding: chunked\r\ncontent-length: 5\r\n\r\n0\r\n\r\n", 400),
    "two lengths": (POST + b"content-length: 2\r\ncontent-length: 3\r\n\r\n{}", 400),
    "the same length twice": (POST + b"content-length: 2\r\ncontent-length: 2\r\n\r\n{}", 400),
    "a list of lengths": (POST + b"content-length: 2, 2\r\n\r\n{}", 400),
    "a signed length": (POST + b"content-length: +2\r\n\r\n{}", 400),
    "a negative length": (POST + b"content-length: -1\r\n\r\n{}", 400),
    "a hexadecimal length": (POST + b"content-length: 0x2\r\n\r\n{}", 400),
    "an endless length": (POST + b"content-length: 99999999999999999999\r\n\r\n{}", 400),
    "an empty length": (POST + b"content-length:\r\n\r\n{}", 400),
    "a length with a space": (POST + b"content-length: 1 2\r\n\r\n{}", 400),
    "two codings": (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a coding and identity": (POST + b"transfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n0\r\n\r\n", 400),
    "a list of codings": (POST + b"transfer-encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 501),
    "identity": (POST + b"transfer-encoding: identity\r\n\r\n", 501),
    "nearly chunked": (POST + b"transfer-encoding: xchunked\r\n\r\n0\r\n\r\n", 501),
    "chunked in quotes": (POST + b'transfer-encoding: "chunked"\r\n\r\n0\r\n\r\n', 501),
    "chunked with a comma": (POST + b"transfer-encoding: chunked,\r\n\r\n0\r\n\r\n", 501),
    "chunked with a parameter": (POST + b"transfer-encoding: chunked;q=1\r\n\r\n0\r\n\r\n", 501),
    "chunked behind a vertical tab": (POST + b"transfer-encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    "coding in HTTP/1.0": (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n", 400),
    "a space before the colon": (POST + b"transfer-encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    "a tab before the colon": (POST + b"content-length\t: 2\r\n\r\n{}", 400),
    "a name without a colon": (POST + b"content-length 2\r\n\r\n{}", 400),
    "no name": (GET + b"host: x\r\n: y\r\n\r\n", 400),
    "a name in Latin-1": (GET + b"host: x\r\n\xe4: y\r\n\r\n", 400),
    "a folded header": (POST + b"transfer-encoding:\r\n chunked\r\n\r\n0\r\n\r\n", 400),
    "a header folded by a tab": (GET + b"host: x\r\na: b\r\n\tc\r\n\r\n", 400),
    "a fold before any header": (GET + b" host: x\r\n\r\n", 400),
    "bare LF": (b"GET /healthz HTTP/1.1\nhost: x\n\n", 400),
    "bare LF in one line": (GET + b"host: x\na: b\r\n\r\n", 400),
    "bare LF at the end": (GET + b"host: x\r\n\n", 400),
    "bare CR in a value": (GET + b"host: x\r\na: b\rc: d\r\n\r\n", 400),
    "bare CR before CRLF": (GET + b"host: x\r\na: b\r\r\n\r\n", 400),
    "NUL in a value": (GET + b"host: x\r\na: b\x00\r\n\r\n", 400),
    "NUL in the target": (b"GET /healthz\x00 HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a control character": (GET + b"host: x\r\na: \x01\r\n\r\n", 400),
    "no host": (GET + b"\r\n", 400),
    "two hosts": (GET + b"host: x\r\nhost: x\r\n\r\n", 400),
    "a host that is none": (GET + b"host: x/y\r\n\r\n", 400),
    "a host with a user": (GET + b"host: a@x\r\n\r\n", 400),
    "a host with a space": (GET + b"host: x y\r\n\r\n", 400),
    "two hosts in one": (GET + b"host: x, y\r\n\r\n", 400),
    "a host with an empty label": (GET + b"host: .x\r\n\r\n", 400),
    "a host with two dots": (GET + b"host: x..y\r\n\r\n", 400),
    "a host with a long label": (GET + b"host: " + b"x" * 64 + b"\r\n\r\n", 400),
    "a host in brackets that is none": (GET + b"host: [::1..2]\r\n\r\n", 400),
    "an empty host": (GET + b"host:\r\n\r\n", 400),
    "another host in the target": (b"GET http://y/healthz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "another port in the target": (b"GET http://x:81/healthz HTTP/1.1\r\nhost: x:80\r\n\r\n", 400),
    "another scheme": (b"GET gopher://x/healthz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a target without a slash": (b"GET healthz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a target with a fragment": (b"GET /healthz#a HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "two spaces": (b"GET  /healthz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a tab in the request line": (b"GET\t/healthz HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "a space in the target": (b"GET /health z HTTP/1.1\r\nhost: x\r\n\r\n", 400),
    "lower-case HTTP": (b"GET /healthz http/1.1\r\nhost: x\r\n\r\n", 400),
    "HTTP/0.9": (b"GET /healthz\r\n\r\n", 400),
    "HTTP/1.10": (b"GET /healthz HTTP/1.10\r\nhost: x\r\n\r\n", 400),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a line before the request": (b"\r\n" + GET + b"host: x\r\n\r\n", 400),
    "a space before the request": (b" " + GET + b"host: x\r\n\r\n", 400),
    "a proxy's method": (b"CONNECT x:80 HTTP/1.1\r\nhost: x:80\r\n\r\n", 405),
    "a line that never ends": (b"GET /" + b"a" * 9000, 414),
    "a long target": (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\nhost: x\r\n\r\n", 414),
    "a long header": (GET + b"host: x\r\na: " + b"b" * 17_000 + b"\r\n\r\n", 431),
    "a long name": (GET + b"host: x\r\n" + b"b" * 17_000 + b": a\r\n\r\n", 431),
    "many headers": (GET + b"host: x\r\n" + b"a: b\r\n" * 100 + b"\r\n", 431),
    "half a head": (GET + b"host: x\r\n", 400),
}
# What is wrong is found while the body is read, so the request itself may have been answered already.
BROKEN_BODIES = {
    "a chunk size over 2**64": b"ffffffffffffffffff\r\n",
    "a chunk size that wraps": b"10000000000000002\r\n{}\r\n0\r\n\r\n",
    "a negative chunk size": b"-1\r\n{}\r\n0\r\n\r\n",
    "a chunk size with 0x": b"0x2\r\n{}\r\n0\r\n\r\n",
    "a chunk size with a sign": b"+2\r\n{}\r\n0\r\n\r\n",
    "a chunk size with an underscore": b"0_2\r\n{}\r\n0\r\n\r\n",
    "no chunk size": b"\r\n{}\r\n0\r\n\r\n",
    "a space before the size": b" 2\r\n{}\r\n0\r\n\r\n",
    "a space after the size": b"2 \r\n{}\r\n0\r\n\r\n",
    "a space before an extension": b"2 ;a\r\n{}\r\n0\r\n\r\n",
    "a size ended by LF": b"2\n{}\r\n0\r\n\r\n",
    "a size ended by CR": b"2\r{}\r\n0\r\n\r\n",
    "a chunk ended by LF": b"2\r\n{}\n0\r\n\r\n",
    "a chunk longer than its size": b"2\r\n{}}\r\n0\r\n\r\n",
    "a chunk shorter than its size": b"3\r\n{}\r\n0\r\n\r\n",
    "bare LF in an extension": b"2;a\nb\r\n{}\r\n0\r\n\r\n",
    "bare CR in an extension": b"2;a\rb\r\n{}\r\n0\r\n\r\n",
    "a long extension": b"2;" + b"a" * 300 + b"\r\n{}\r\n0\r\n\r\n",
    "many extensions": b"".join(b"1;" + b"a" * 250 + b"\r\n \r\n" for _ in range(20)) + b"0\r\n\r\n",
    "trailers ended by LF": b"2\r\n{}\r\n0\r\na: b\n\n",
    "a folded trailer": b"2\r\n{}\r\n0\r\na: b\r\n c\r\n\r\n",
    "a trailer that starts folded": b"2\r\n{}\r\n0\r\n a: b\r\n\r\n",
    "NUL in a trailer": b"2\r\n{}\r\n0\r\na: \x00\r\n\r\n",
    "long trailers": b"2\r\n{}\r\n0\r\n" + b"a: b\r\n" * 1000 + b"\r\n",
}


def address(api: Api) -> tuple[str, int]:
    host, port = api.url.removeprefix("http://").split(":")
    return host, int(port)


def only(replies: list[Reply], rest: bytes) -> Reply:
    assert rest == b""
    assert len(replies) == 1, replies
    return replies[0]


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])
def test_what_could_be_read_in_two_ways_is_refused(api: Api, case: str, *, in_pieces: bool) -> None:
    """Such a request gets its error and the connection ends; input after it is never served."""
    payload, status = REFUSED[case]
    sent = payload + (BEHIND if case not in {"half a head", "a line that never ends"} else b"")
    parts = [sent[at : at + 7] for at in range(0, len(sent), 7)] if in_pieces and len(sent) < 1000 else [sent]
    reply = only(*exchange(address(api), parts))
    assert (reply.status, reply.headers["content-type"]) == (status, "application/problem+json")
    assert ErrorCode[json.loads(reply.body)["code"]].status == status
    assert reply.headers["connection"] == "close"


@pytest.mark.parametrize("case", BROKEN_BODIES)
@pytest.mark.parametrize("credentials", ["right", "none"])
def test_a_body_that_breaks_its_framing_ends_the_connection(api: Api, case: str, credentials: str) -> None:
    """With and without a key there is one answer, no event, and nothing after the body is served."""
    key = api.admin.headers["authorization"].encode()
    head = CHUNKED if credentials == "none" else CHUNKED.replace(b"host: x", b"host: x\r\nauthorization: " + key)
    before = api.admin.get("/api/events?limit=1").json()
    replies, rest = exchange(address(api), [head, BROKEN_BODIES[case], BEHIND])
    assert only(replies, rest).status in ({400, 431} if credentials == "right" else {400, 401, 431})
    assert api.admin.get("/api/events?limit=1").json() == before


@pytest.mark.parametrize(
    "body",
    [
        b"0\r\n\r\n",
        b"2\r\n{}\r\n0\r\n\r\n",
        b"2;name=value\r\n{}\r\n0\r\n\r\n",
        b"1;a\r\n{\r\n01\r\n}\r\n000\r\n\r\n",
        b"2\r\n{}\r\n0\r\nx-trailer: 1\r\nother: 2\r\n\r\n",
    ],
)
def test_plain_chunks_are_served_and_what_follows_too(api: Api, body: bytes) -> None:
    """Valid chunks (RFC 9112), with extensions and trailers, are one request, and the next request is served."""
    key = api.admin.headers["authorization"].encode()
    head = CHUNKED.replace(b"host: x", b"host: x\r\nauthorization: " + key)
    replies, rest = exchange(address(api), [head + body + BEHIND])
    assert [reply.status for reply in replies] == [400, 200]
    assert rest == b""


@pytest.mark.parametrize(
    "host", ["x", "x.", "a.b-c.d:99999", "x:", "[::1]", "[::1]:80", "[::ffff:1.2.3.4]", "127.0.0.1:8080", "%41", "x_y"]
)
def test_hosts_that_are_hosts_are_served(api: Api, host: str) -> None:
    """Any name or address is accepted in Host, with or without a port."""
    replies, rest = exchange(address(api), [GET + f"host: {host}\r\n\r\n".encode()])
    assert ([reply.status for reply in replies], rest) == ([200], b"")


def test_what_follows_a_request_is_answered_in_its_turn(api: Api) -> None:
    """Pipelined requests are answered in order, and garbage after them is refused after their answers."""
    post = POST + b"content-length: 2\r\n\r\n{}"
    replies, rest = exchange(address(api), [BEHIND + post.replace(b"POST", b"GET") + BEHIND + b"\x00\x01garbage"])
    assert ([reply.status for reply in replies], rest) == ([200, 401, 200, 400], b"")
    assert b"control character" in replies[-1].body
    head = BEHIND.replace(b"GET", b"HEAD")
    replies, rest = exchange(address(api), [head + b"garbage\r\n\r\n"])
    assert ([reply.status for reply in replies], rest) == ([200, 400], b"")
    replies, rest = exchange(address(api), [CHUNKED.replace(b"POST", b"HEAD") + b"garbage\r\n"])
    assert ([reply.status for reply in replies][:1] in ([400], [401], [405]), rest) == (True, b"")
    absolute = b"GET http://X:80/healthz HTTP/1.1\r\nhost: x:80\r\n\r\n"
    replies, rest = exchange(address(api), [absolute + GET + b"host: x\r\n" + b"a: b\r\n" * 99 + b"\r\n"])
    assert ([reply.status for reply in replies], rest) == ([200, 200], b"")


def test_what_is_no_request_behind_a_head_is_refused_with_a_body(api: Api) -> None:
    """The answer to HEAD has no body; the error for garbage after it has one."""
    head = b"HEAD /healthz HTTP/1.1\r\nhost: x\r\n\r\n"
    with socket.create_connection(address(api), timeout=PATIENCE_SECONDS) as client:
        client.sendall(head)
        answered = client.recv(65_536)
        assert answered.endswith(b"\r\n\r\n")
        client.sendall(b"\x00\r\n\r\n")
        received = bytearray()
        while chunk := client.recv(65_536):
            received += chunk
    reply = only(*split_replies(bytes(received)))
    assert reply.status == 400
    assert b"urn:webhookd:error:" in reply.body

"""The hostile receivers, each with the status or error that it must come to."""

import gzip
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from tests.delivery.hostile import Script, forever, saying
from tests.delivery.out import OK
from tests.delivery.receivers import (
    CHUNKED,
    HEAD,
    answers_with_its_handshake,
    closing,
    early,
    ends_tls_in_the_open,
    expired,
    good,
    keeping,
    never_shakes_hands,
    not_yet_valid,
    of_another_authority,
    of_another_host,
    raw,
    resetting,
    self_signed,
    smuggles_in_a_second_record,
    tls_1_0,
    vanishes_from_tls,
    wanting_a_certificate,
    wants_a_certificate,
    with_tickets_without_end,
)
from webhookd.base.models import DeliveryError

CONNECT, PROTOCOL, TIMEOUT, TLS = (
    DeliveryError.CONNECT,
    DeliveryError.PROTOCOL,
    DeliveryError.TIMEOUT,
    DeliveryError.TLS,
)


class Proxied(Enum):
    """What becomes of a case behind a proxy, where it isn't a code of its own."""

    SAME = "the same"
    NOT_ASKED = "not asked: what it does can't be seen through a proxy"


@dataclass(frozen=True)
class Case:
    """One receiver: `comes_to` is what the last of `sends` requests must come to, over `connections` in all.

    `shows` where it does something to the idle connection, which the sender can see before its next request.
    """

    name: str
    script: Script
    comes_to: int | DeliveryError
    proxied: int | DeliveryError | Proxied = Proxied.SAME
    tls: Callable[[], ssl.SSLContext] | None = None
    asked_by: str | None = None  # another scheme than the receiver's own
    sends: int = 1
    shows: bool = False
    connections: int | None = None
    body: bytes = b"{}"
    kept: bytes | None = None


BOMB = gzip.compress(bytes(8_000_000))
DRIP = 0.05

FORMS = [
    Case("plain", saying(OK), 200, kept=b"ok"),
    Case("a byte at a time", saying(*[OK[at : at + 1] for at in range(len(OK))]), 200, kept=b"ok"),
    Case("until it closes", closing(HEAD + b"\r\nall of it"), 200, kept=b"all of it"),
    Case("HTTP/1.0", closing(b"HTTP/1.0 200 OK\r\n\r\nold"), 200, kept=b"old"),
    Case("no reason phrase", saying(b"HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n"), 200),
    Case("chunks with extensions", saying(CHUNKED + b"2\r\nab\r\n1;x=y;z\r\nc\r\n0\r\n\r\n"), 200, kept=b"abc"),
    Case("trailers", saying(CHUNKED + b"2\r\nab\r\n0\r\nwebhook-delivery: disable\r\nx: y\r\n\r\n"), 200, kept=b"ab"),
    Case("interim answers", saying(b"HTTP/1.1 100 Continue\r\n\r\n" * 3 + OK), 200, kept=b"ok"),
    Case("early hints", saying(b"HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n" + OK), 200, kept=b"ok"),
    Case("no content", saying(b"HTTP/1.1 204 No Content\r\n\r\n", then_close=False), 204, sends=2, connections=1),
    Case("not modified", saying(b"HTTP/1.1 304 Not Modified\r\ncontent-length: 10\r\n\r\n", then_close=False), 304),
    Case("a redirect to itself", saying(b"HTTP/1.1 302 Found\r\nlocation: /hook\r\ncontent-length: 0\r\n\r\n"), 302),
    Case(
        "more than is kept",
        saying(b"HTTP/1.1 500 Oops\r\ncontent-length: 5000\r\n\r\n" + b"x" * 5000, then_close=False),
        500,
        kept=b"x" * 4096,
        sends=2,
        connections=1,
    ),
    Case("bytes behind no content", saying(b"HTTP/1.1 204 No\r\n\r\nsurprise", then_close=False), 204, sends=2),
    *(
        Case(name, saying(answer, then_close=False), 200, kept=b"ab", sends=2, connections=1)
        for name, answer in (
            ("the same length twice", HEAD + b"content-length: 2\r\ncontent-length: 2\r\n\r\nab"),
            ("a folded header", HEAD + b"x: a\r\n folded\r\ncontent-length: 2\r\n\r\nab"),
            ("bare line feeds", b"HTTP/1.1 200 OK\ncontent-length: 2\n\nab"),
            ("another coding in chunks", HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n"),
        )
    ),
]
WITHOUT_END = [
    Case("a body of chunks without end", forever(CHUNKED, b"1000\r\n" + b"x" * 4096 + b"\r\n"), 200, kept=b"x" * 4096),
    Case("a body without end", forever(HEAD + b"\r\n", b"x" * 4096), 200, kept=b"x" * 4096),
    Case("a terabyte", forever(HEAD + b"content-length: 1000000000000\r\n\r\n", b"x" * 4096), 200, kept=b"x" * 4096),
    Case("chunks of a byte without end", forever(CHUNKED, b"1\r\nx\r\n" * 500), 200),
    Case(
        "a gzip bomb",
        saying(HEAD + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n" % len(BOMB) + BOMB),
        200,
        kept=BOMB[:4096],
    ),
    Case("a gzip bomb without end", forever(HEAD + b"content-encoding: gzip\r\n\r\n", BOMB), 200, kept=BOMB[:4096]),
    Case("a chunk extension without end", forever(CHUNKED + b"1;", b"x" * 4096), 200),
    Case("trailers without end", forever(CHUNKED + b"1\r\nx\r\n0\r\n", b"x: " + b"y" * 1000 + b"\r\n"), 200),
    Case("headers without end", forever(HEAD, b"x: " + b"y" * 1000 + b"\r\n"), PROTOCOL),
    Case("a header without end", forever(HEAD + b"x: ", b"y" * 4096), PROTOCOL),
    Case("a reason without end", forever(b"HTTP/1.1 200 ", b"y" * 4096), PROTOCOL),
    Case("a version without end", forever(b"HTTP/1.", b"1" * 4096), PROTOCOL),
    Case("one header of 200 KB", saying(HEAD + b"x: " + b"y" * 200_000 + b"\r\ncontent-length: 0\r\n\r\n"), PROTOCOL),
    Case("small headers without end", forever(HEAD, b"a: b\r\n" * 1000), PROTOCOL),
    Case("blank lines without end", forever(b"", b"\r\n" * 2000), PROTOCOL),
    Case("interim answers without end", forever(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100), PROTOCOL),
    Case("interim answers now and then", forever(b"", b"HTTP/1.1 102 Processing\r\n\r\n", pause=DRIP), TIMEOUT),
    Case("a head that drips", forever(HEAD + b"x: ", b"y", pause=DRIP), TIMEOUT),
    Case("headers that drip", forever(HEAD, b"x: y\r\n", pause=DRIP), TIMEOUT),
    Case("a body that drips", forever(HEAD + b"content-length: 1000\r\n\r\n", b"y", pause=DRIP), TIMEOUT),
    Case("chunks that drip", forever(CHUNKED, b"1\r\ny\r\n", pause=DRIP), TIMEOUT),
    Case("a body until the end that drips", forever(HEAD + b"\r\n", b"y", pause=DRIP), TIMEOUT),
    Case("session tickets without end", saying(OK), PROTOCOL, proxied=200, tls=with_tickets_without_end),
    Case("silence", forever(b"", b"", pause=DRIP), TIMEOUT),
    Case("silence behind the head", forever(HEAD + b"content-length: 1\r\n\r\n", b"", pause=DRIP), TIMEOUT),
]
ENDS = [
    Case("closed without a byte", closing(), PROTOCOL),
    Case("closed in the status line", closing(b"HTTP/1.1 20"), PROTOCOL),
    Case("closed in the head", closing(HEAD + b"content-le"), PROTOCOL),
    Case("closed behind an interim answer", closing(b"HTTP/1.1 100 Continue\r\n\r\n"), PROTOCOL),
    Case("closed in the body", closing(HEAD + b"content-length: 10\r\n\r\nabc"), PROTOCOL),
    Case("closed in a chunk", closing(CHUNKED + b"ff\r\nabc"), PROTOCOL),
    Case("closed between chunks", closing(CHUNKED + b"3\r\nabc\r\n"), PROTOCOL),
    Case("closed before the last line", closing(CHUNKED + b"3\r\nabc\r\n0\r\n"), PROTOCOL),
    Case("reset at once", resetting(b"", asks=False), PROTOCOL),
    Case("reset without a byte", resetting(b""), PROTOCOL),
    Case("reset in the status line", resetting(b"HTTP/1.1 20"), PROTOCOL),
    Case("reset in the head", resetting(HEAD + b"content-le"), PROTOCOL),
    Case("reset in the body", resetting(HEAD + b"content-length: 10\r\n\r\nabc"), PROTOCOL),
    Case("reset in a chunk", resetting(CHUNKED + b"ff\r\nabc"), PROTOCOL),
    Case("reset in a body until the end", resetting(HEAD + b"\r\nabc"), PROTOCOL, Proxied.NOT_ASKED),
    Case("reset behind the answer", resetting(OK), 200, sends=2, shows=True, connections=2),
    Case(
        "an answer before the body is read",
        early(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", then_reset=False),
        413,
        body=b"x" * 8_000_000,
    ),
    Case(
        "an answer before the body is read, and a reset",
        early(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n", then_reset=True),
        413,
        Proxied.NOT_ASKED,
        body=b"x" * 8_000_000,
    ),
]
NO_HTTP = [
    Case("HTTP/0.9", closing(b"<html>hello</html>"), PROTOCOL),
    Case("SSH", closing(b"SSH-2.0-OpenSSH_9.2p1\r\n"), PROTOCOL),
    Case("SMTP", raw(b"220 mail.example.com ESMTP\r\n"), PROTOCOL),
    Case("noise", closing(bytes(range(256)) * 8), PROTOCOL),
    Case("nothing but NUL", closing(bytes(4096)), PROTOCOL),
    Case("HTTP/2 frames", closing(b"\x00\x00\x12\x04\x00\x00\x00\x00\x00" + bytes(18)), PROTOCOL),
    Case("a request", closing(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"), PROTOCOL),
    Case("the request as it came", raw(b"POST /hook HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"), PROTOCOL),
    *(
        Case(f"status line {line!r}", closing(line + b"\r\ncontent-length: 0\r\n\r\n"), PROTOCOL)
        for line in (
            *(b"HTTP/2.0 200 OK", b"HTTP/1.2 200 OK", b"HTTP/3 200 OK", b"HTTP/11 200 OK", b"HTTP/1.1 2OO OK"),
            *(b"ICY 200 OK", b"http/1.1 200 OK", b"HTTP/1.1  200 OK", b"HTTP/1.1\t200 OK", b"HTTP/1.1 20 OK"),
            *(b"HTTP/1.1 000 Zero", b"HTTP/1.1 099 Low", b"HTTP/1.1 600 High", b"HTTP/1.1 999 Higher"),
            *(b"HTTP/1.1 1000 Long", b"HTTP/1.1 -200 Less", b"HTTP/1.1 0200 Octal", b" HTTP/1.1 200 OK", b"HTTP/1.1"),
        )
    ),
    *(
        Case(f"header {header!r}", closing(HEAD + header + b"\r\ncontent-length: 0\r\n\r\n"), PROTOCOL)
        for header in (
            *(b"x\0y: z", b"x: a\0b", b"x y: z", b"x : y", b": y", b"no colon", b"x: a\rb", b"x\x7f: y"),
            *(b" x: y", b"x: a\r\n \t", b"\xff: y", b"x: \x01"),
        )
    ),
    *(
        Case(f"length {length!r}", closing(HEAD + b"content-length: " + length + b"\r\n\r\nabcde"), PROTOCOL)
        for length in (b"-1", b"+5", b"0x5", b"5 5", b"5, 6", b"5;", b"", b"9" * 20, b"9" * 40, b"5.0", b"\xb2")
    ),
    Case("two lengths", closing(HEAD + b"content-length: 1\r\ncontent-length: 2\r\n\r\nab"), PROTOCOL),
    Case("a length and chunks", closing(HEAD + b"content-length: 5\r\n" + CHUNKED[17:] + b"0\r\n\r\n"), PROTOCOL),
    Case("chunks and a length", closing(CHUNKED[:-2] + b"content-length: 5\r\n\r\n0\r\n\r\n"), PROTOCOL),
    *(
        Case(f"chunk {chunk!r}", closing(CHUNKED + chunk), PROTOCOL)
        for chunk in (
            *(b"zz\r\nabc\r\n", b"-1\r\nabc\r\n", b"0x3\r\nabc\r\n", b"+3\r\nabc\r\n", b"f" * 17 + b"\r\nabc\r\n"),
            *(b"3\r\nabcd\r\n0\r\n\r\n", b" 3\r\nabc\r\n0\r\n\r\n", b"\r\nabc\r\n", b"3\nabc\r\n0\r\n\r\n"),
        )
    ),
    *(
        Case(f"coding {coding!r}", closing(HEAD + b"transfer-encoding: " + coding + b"\r\n\r\n0\r\n\r\n"), PROTOCOL)
        for coding in (b"gzip", b"identity", b"xchunked", b"chunked, gzip", b"chunked, chunked")
    ),
    Case("bare carriage returns", closing(OK.replace(b"\r\n", b"\r")), PROTOCOL),
    Case(
        "another protocol",
        saying(b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
        PROTOCOL,
    ),
    Case("another protocol, unnamed", saying(b"HTTP/1.1 101 Switching Protocols\r\n\r\n"), PROTOCOL),
]
RACES = [
    Case(
        f"kept alive, then {then}",
        keeping(then=then),
        200,
        sends=3,
        shows=not then.endswith("when asked"),
        connections=3,
        kept=b"ok",
    )
    for then in (
        *("close", "reset", "send bytes", "send an answer", "smuggle", "smuggle in a second piece"),
        *("close when asked", "reset when asked"),
    )
] + [
    Case(
        "kept alive, then an answer in part",
        keeping(then="answer in part when asked"),
        PROTOCOL,
        sends=2,
        connections=1,
    ),
    Case("kept alive over TLS, then close", keeping(then="close"), 200, tls=good, sends=3, shows=True, connections=3),
    Case(
        "kept alive over TLS, then smuggle", keeping(then="smuggle"), 200, tls=good, sends=3, shows=True, connections=3
    ),
    Case(
        "kept alive over TLS, then smuggle in a second piece",
        keeping(then="smuggle in a second piece"),
        200,
        tls=good,
        sends=3,
        shows=True,
        connections=3,
    ),
    Case(
        "kept alive over TLS, then smuggle in a second record",
        smuggles_in_a_second_record,
        200,
        tls=good,
        sends=3,
        shows=True,
        connections=3,
    ),
    Case(
        "kept alive over TLS, then send bytes",
        keeping(then="send bytes"),
        200,
        tls=good,
        sends=3,
        shows=True,
        connections=3,
    ),
]
ALERT = b"\x15\x03\x03\x00\x02\x02\x28"  # fatal, handshake_failure
HANDSHAKES = [
    Case("TLS", saying(OK), 200, tls=good, kept=b"ok"),
    Case("a certificate of another host", saying(OK), TLS, tls=of_another_host),
    Case("a certificate of another authority", saying(OK), TLS, tls=of_another_authority),
    Case("an expired certificate", saying(OK), TLS, tls=expired),
    Case("a certificate of the future", saying(OK), TLS, tls=not_yet_valid),
    Case("a self-signed certificate", saying(OK), TLS, tls=self_signed),
    Case("TLS 1.0 alone", saying(OK), TLS, tls=tls_1_0),
    Case(
        "TLS 1.2 that wants a certificate",
        wants_a_certificate,
        TLS,
        tls=lambda: wanting_a_certificate(ssl.TLSVersion.TLSv1_2),
    ),
    Case(
        "TLS 1.3 that wants a certificate",
        wants_a_certificate,
        TLS,
        tls=lambda: wanting_a_certificate(ssl.TLSVersion.TLSv1_3),
    ),
    Case("clear text where TLS is expected", raw(b"HTTP/1.1 400 Bad Request\r\n\r\n"), TLS, asked_by="https"),
    Case("TLS where clear text is expected", wants_a_certificate, PROTOCOL, tls=good, asked_by="http"),
    Case("noise for a handshake", raw(bytes(range(256)) * 8), TLS, asked_by="https"),
    Case("a record without end", raw(b"\x16\x03\x03\x40\x00", holds=True), TIMEOUT, asked_by="https"),
    Case("an alert for a handshake", raw(ALERT), TLS, asked_by="https"),
    Case("no handshake", never_shakes_hands, TIMEOUT, asked_by="https"),
    Case("closed in the handshake", raw(b"\x16\x03\x03"), TLS, asked_by="https"),
    Case("reset in the handshake", resetting(b"", asks=False), TLS, asked_by="https"),
    Case("a handshake that drips", raw(*[b"\x16\x03\x03"] * 100, pause=DRIP), TIMEOUT, asked_by="https"),
    Case("clear bytes in the middle of TLS", ends_tls_in_the_open, TLS, tls=good),
    Case("an answer with the handshake", answers_with_its_handshake, 200, asked_by="https"),
    Case("TLS that ends without a goodbye", vanishes_from_tls, PROTOCOL, tls=good),
]
CASES = FORMS + WITHOUT_END + ENDS + NO_HTTP + RACES + HANDSHAKES

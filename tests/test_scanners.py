"""Code that reads outside input takes time linear in its length, with a regular expression or without.

Each reader gets runs of one and of two of the characters that have a meaning for it, after a beginning that it accepts,
at one length and at 8 times that: as a whole and, if it reads pieces, in pieces. It accepts input of these lengths.
"""

import base64
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

import msgspec
import pytest
from werkzeug.datastructures import Headers

from tests.linear import FACTOR, MOST_GROWTH, calls, growth
from webhookd.admin.auth import KeyRing, authenticate
from webhookd.admin.bodies import check_path, decode_query
from webhookd.admin.framing import Framing
from webhookd.admin.preconditions import IF_MATCH, IF_NONE_MATCH, read_preconditions
from webhookd.admin.protocol import _split_target
from webhookd.admin.schemas import NoQuery
from webhookd.admin.tokens import TokenKeys
from webhookd.admin.webhook_schemas import NewWebhook
from webhookd.base.clock import parse_iso
from webhookd.base.errors import MasterKeyError, Rejected
from webhookd.base.event_format import decode_body, decode_event
from webhookd.base.line_splitter import LineSplitter
from webhookd.base.models import Outcome
from webhookd.cli.terminal import plain
from webhookd.client.answers import Lost, read_failure, read_line
from webhookd.client.outbox import Outbox
from webhookd.config import EgressConfig, JwtConfig
from webhookd.crypto.key_file import parse_master_key
from webhookd.dashboard.form_times import read_moment
from webhookd.dashboard.forms import parse_form
from webhookd.dashboard.live import event
from webhookd.dashboard.payloads import indented
from webhookd.delivery import custom_headers
from webhookd.delivery.egress.rules import BlockedError, EgressPolicy
from webhookd.delivery.http.wire import MAX_RESPONSE_BYTES, ResponseReader, WireError
from webhookd.delivery.policy.retry import classify, retry_after_seconds
from webhookd.journal import cursors
from webhookd.observe.logs import redact
from webhookd.verify import VerificationError, verify

LONGEST = 65_536
HEAD = 16_000
QUERY = 8000
REFUSALS = (Rejected, BlockedError, WireError, VerificationError, Lost, MasterKeyError, ValueError)

Reader = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Door:
    """Code that reads outside input, at most `longest` bytes; `starts` begin a text, `marks` have a meaning in it."""

    name: str
    read: Reader
    longest: int
    marks: bytes
    starts: tuple[bytes, ...] = (b"",)
    end: bytes = b""

    def units(self) -> list[bytes]:
        """Return each mark, and each pair of marks."""
        singles = [bytes([mark]) for mark in self.marks]
        return singles + [first + second for first in singles for second in singles if first != second]


def _conditional(value: str) -> Headers:
    return Headers({IF_MATCH: value, IF_NONE_MATCH: value})


def in_pieces(make: Callable[[], Reader], size: int = 1) -> Reader:
    """Return a function that passes a text in pieces to what `make` returns."""

    def feed(text: bytes) -> None:
        take = make()
        for at in range(0, len(text), size):
            take(text[at : at + size])

    return feed


def result_reader() -> Callable[[bytes], object]:
    box = Outbox("s", 1.0, lambda: "e", frozenset())
    return lambda piece: box.receive(piece, 0.0)


def answered(value: bytes) -> Outcome:
    headers = tuple((name, value.decode("latin-1")) for name in ("retry-after", "webhook-delivery", "date"))
    return Outcome(duration_seconds=0.1, status=429, headers=headers)


def decide_by(value: bytes) -> None:
    classify(answered(value))
    retry_after_seconds(answered(value), 0.0)


def sign_in(tokens: TokenKeys | None, text: bytes) -> None:
    authenticate([text.decode("latin-1")], KeyRing(), tokens, 0.0)


def verified(name: str, value: bytes, body: bytes) -> None:
    headers = {"webhook-id": "evt_1", "webhook-timestamp": "1", name: value.decode("latin-1")}
    verify("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", headers, body, now=1)


def cursor(text: bytes) -> None:
    cursors.decode(text.decode("latin-1"), "events", tuple[cursors.Number])


def encoded_cursor(text: bytes) -> None:
    cursor(cursors.PREFIX.encode() + base64.urlsafe_b64encode(text))


def custom_header(text: bytes) -> None:
    custom_headers.check({text.decode("latin-1"): "", "X-A": text.decode("latin-1")})


def doors() -> Iterator[Door]:
    """Yield the code of each way in."""
    policy = EgressPolicy(EgressConfig())
    new_webhook = msgspec.json.Decoder(NewWebhook)
    plain_object = msgspec.json.Decoder(dict[str, object])
    line = b"GET / HTTP/1.1\r\n"
    chunked = line + b"host: x\r\ntransfer-encoding: chunked\r\n\r\n"
    answer = b"HTTP/1.1 200 OK\r\n"
    json_marks = b'[]{},:"\\1 '
    json_starts = (b"", b'{"a":"', b'{"a":[', b'{"type":"a","data":{},"x":', b"[" * 129 + b'"')
    yield Door(
        "a head",
        lambda sent: Framing().feed(sent),
        HEAD,
        b" \t:\r\na;\x00",
        (b"", line, line + b"a:", line + b"content-length:", line + b"transfer-encoding: x", chunked, chunked + b"1;"),
        b"\r\n\r\n",
    )
    yield Door(
        "a head in pieces",
        in_pieces(lambda: Framing().feed),
        HEAD,
        b" a\r\n",
        (b"", line + b"a:", chunked, chunked + b"0\r\n"),
    )
    yield Door("chunks", lambda sent: Framing().feed(sent), 65_536, b"1\r\na;", (chunked, chunked + b"1\r\na\r\n"))
    yield Door("a request target", _split_target, HEAD, b"/:?#h%", (b"", b"http://", b"http://h"))
    yield Door("a path", check_path, QUERY, b"/%2a.;", (b"/",))
    yield Door("a query", lambda text: decode_query(text, NoQuery), QUERY, b"&=+%2a;", (b"", b"a="))
    yield Door("a cursor", cursor, QUERY, b"A=-_.c", (b"", b"c."))
    yield Door("what is in a cursor", encoded_cursor, QUERY, b'[]",1\\', (b"", b'["events",'))
    yield Door("credentials", partial(sign_in, None), HEAD, b" ._a\xff\t", (b"", b"Bearer ", b"Bearer whd_"))
    yield Door("entity tags", lambda text: read_preconditions(_conditional(text.decode("latin-1"))), HEAD, b'",W/ *a')
    yield Door("an event", partial(decode_event, max_bytes=LONGEST), LONGEST, json_marks, json_starts)
    yield Door("a body", lambda text: decode_body(text, new_webhook), LONGEST, json_marks, json_starts)
    yield Door("a patch", lambda text: decode_body(text, plain_object), LONGEST, json_marks, json_starts)
    yield Door("lines", lambda text: LineSplitter(LONGEST).feed(text), LONGEST, b"\n \r\ta", (b"", b"{"))
    yield Door("lines in pieces", in_pieces(lambda: LineSplitter(LONGEST).feed), 65_536, b"\na")
    yield Door(
        "an answer",
        lambda sent: ResponseReader().feed(sent),
        MAX_RESPONSE_BYTES,
        b" \t:\r\na;,",
        (b"", answer, answer + b"a:", answer + b"content-length: 1", answer + b"transfer-encoding: chunked\r\n\r\n1;"),
        b"\r\n\r\n",
    )
    yield Door(
        "an answer in pieces",
        in_pieces(lambda: ResponseReader().feed),
        LONGEST // 8,
        b" a\r\n:",
        (b"", answer, answer + b"a:", answer + b"transfer-encoding: chunked\r\n\r\n1;"),
    )
    yield Door(
        "an answer's headers", decide_by, MAX_RESPONSE_BYTES, b" ,1:GaM-", (b"", b"Mon, ", b"Mon, 01 Jan 2020 00:")
    )
    yield Door(
        "a webhook's URL",
        lambda text: policy.parse(text.decode("latin-1")),
        2000,
        b"/:@.#?[]%a\xe9-1",
        (b"", b"https://", b"https://a", b"https://[", b"https://a/"),
    )
    yield Door("a custom header", custom_header, LONGEST, b" a-:_\xe9")
    yield Door(
        "a time", lambda text: parse_iso(text.decode("latin-1")), QUERY, b"T:-0Z+. ", (b"", b"2025-01-31T12:00:00")
    )
    yield Door("a moment", lambda text: read_moment(text.decode("latin-1")), QUERY, b"T:-0Z+. ")
    yield Door("a form", parse_form, LONGEST // 4, b"&=+%2a\n", (b"", b"url="))
    yield Door(
        "a line of the log", lambda text: redact(text.decode("latin-1")), LONGEST, b"whsec_d/ ", (b"", b"whsec_")
    )
    yield Door("what a terminal shows", lambda text: plain(text.decode("latin-1")), LONGEST, b"\x1b[a\x9b")
    yield Door("a part of a page", lambda text: event("a", text.decode("latin-1")), LONGEST, b"\r\na")
    yield Door("a payload", indented, 65_536, b"1,", (b"[" * 100, b"["), b"1]")
    yield Door("a result", read_line, LONGEST, json_marks, (b"", b'{"ok":', b'{"ok":true,"id":"'))
    yield Door(
        "results in pieces",
        in_pieces(result_reader),
        65_536,
        b"a ",
    )
    yield Door("a problem", lambda text: read_failure(400, {"retry-after": "a"}, text, 0.0), LONGEST, json_marks)
    yield Door(
        "a time to come back",
        lambda text: read_failure(503, {"retry-after": text.decode("latin-1")}, b"", 0.0),
        MAX_RESPONSE_BYTES,
        b" ,1:GaM-+(",
        (b"", b"Mon, ", b"Mon, 01 Jan 2020 00:00:00 "),
    )
    yield Door(
        "a signature", lambda text: verified("webhook-signature", text, b"{}"), HEAD, b"v1,= A", (b"", b"v1,", b"v1a,")
    )
    yield Door(
        "another signature",
        lambda text: verified("x-webhook-signature", text, b"{}"),
        HEAD,
        b"tv1,=0 ",
        (b"", b"t=1,v1="),
    )
    yield Door(
        "a signed body", lambda text: verified("webhook-signature", b"v1," + b"A" * 43 + b"=", text), 65_536, json_marks
    )
    yield Door("a master key", lambda text: parse_master_key(text, "it"), LONGEST, b"A= \n-")


DOORS = {door.name: door for door in doors()}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> TokenKeys:
    """Return the keys of a secret with which no token here was signed."""
    secret = tmp_path_factory.mktemp("keys") / "secret"
    secret.write_bytes(b"s" * 64)
    secret.chmod(0o600)
    return TokenKeys(JwtConfig(issuer="i", audience="a", secret_file=secret), ("jwt.secret_file", secret))


def grown(door: Door, start: bytes, unit: bytes) -> float:
    """Return the factor by which a reader takes longer for 8 times the length."""

    def make(length: int) -> bytes:
        return start + unit * (length // len(unit)) + door.end

    def read(given: bytes) -> None:
        with suppress(*REFUSALS):
            door.read(given)

    return growth(make, read, door.longest // FACTOR)


@pytest.mark.parametrize("door", DOORS.values(), ids=list(DOORS))
def test_a_door_costs_what_comes_through_it(door: Door) -> None:
    """No run of characters with a meaning takes more than linear time."""
    for start in door.starts:
        for unit in door.units():
            assert grown(door, start, unit) < MOST_GROWTH, (start, unit)


@pytest.mark.parametrize("start", [b"Bearer ", b"Bearer eyJhbGciOiJIUzI1NiJ9.", b"Bearer A."])
def test_a_token_costs_its_length(tokens: TokenKeys, start: bytes) -> None:
    """No run of characters of a token takes more than linear time, up to the maximum length."""
    door = Door("a token", partial(sign_in, tokens), 8000, b" .=_A-")
    for unit in door.units():
        assert grown(door, start, unit) < MOST_GROWTH, unit


class Forgetful:
    """Joins the pieces so far, and searches all of it again for each one."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> None:
        self._held = self._held + piece
        self._held.count(b"\n")


def stripped(text: bytes) -> bytes:
    while text.endswith(b" "):
        text = text[:-1]
    return text


def without_leading(text: bytes) -> list[int]:
    values = list(text)
    while values and values[0] == ord(" "):
        values.pop(0)
    return values


PLANTED = (
    Door("pieces", in_pieces(lambda: Forgetful().feed, 1), LONGEST, b"a"),
    Door("from the end", stripped, 2 * LONGEST, b" "),
    Door("from the front", without_leading, 2 * LONGEST, b" "),
)


@pytest.mark.parametrize("door", PLANTED, ids=lambda door: door.name)
def test_a_planted_door_is_found(door: Door) -> None:
    """Code that joins, shortens or searches its input again for each byte is found at these lengths."""
    assert grown(door, b"", door.units()[0]) >= MOST_GROWTH


def test_an_empty_line_costs_no_call() -> None:
    """A chunk of newlines is skipped without a step for each of them."""
    assert calls(lambda: LineSplitter(LONGEST).feed(b"\n" * 10_000)) < 50

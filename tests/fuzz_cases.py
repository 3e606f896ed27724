"""Mutated HTTP requests for the API port, each made from a seed and a number, so that any of them can be sent again."""

import copy
import itertools
import random
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum

import msgspec

from tests import fuzz_runs

ULID = "01JJJJJJJJJJJJJJJJJJJJJJJJ"
# What a case may give as a webhook's URL beside the receiver's own: refused before any name is looked up.
SAFE_URLS = (
    "",
    "nonsense",
    "http://10.0.0.1/",
    "http://[::1]:1/",
    "https://127.0.0.1:1/",
    "ftp://127.0.0.1/",
    "http://",
)

# And what it may begin with: an internal address, with anything behind it that can't be a part of a name.
_SAFE_STARTS = (b"http://10.0.0.1:", b"http://[")

RUNS = 0.2  # of all cases
_LINES = 0.15  # of these
_URL = re.compile(rb"url(?:\\.)*\"?\s*:\s*\"([^\"]*)\"?", re.IGNORECASE)
_ODD_TEXT = (
    "", "\x00", "\ud800", "é" * 50, "x" * 5000, "../../etc/passwd", "%00", "' OR 1=1 --", "whd_admin_x", "*", "user.*",
    "2025-01-31T12:00:00Z", "9999-12-31T23:59:59.999999+23:59", "0001-01-01T00:00:00Z", "wh_" + ULID, "evt_" + ULID,
)  # fmt: skip
_ODD_VALUES: tuple[object, ...] = (
    *_ODD_TEXT, None, True, -1, 0, 1, 2**31, 2**63, 2**64, 10**400, 1e308, -0.0, 0.1, [], {}, [None] * 200, {"": ""},
)  # fmt: skip
_ODD_HEADERS = (
    b"content-length: 0", b"content-length: 7", b"content-length: 99999", b"content-length: x",
    b"transfer-encoding: chunked", b"transfer-encoding: gzip", b"expect: 100-continue", b"expect: 200-ok",
    b"connection: close", b"connection: upgrade", b"connection: keep-alive, host", b"upgrade: h2c",
    b"upgrade: websocket",
    b"http2-settings: AAMAAABkAARAAAAAAAIAAAAA", b"sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==", b"host: y", b"host:",
    b"range: bytes=0-1", b"if-none-match: *", b"accept: application/xml", b"accept-encoding: gzip, br", b"te: trailers",
    b"content-encoding: gzip", b"content-type: text/plain", b"content-type: application/json; charset=utf-16",
    b"content-type: application/x-ndjson", b"content-type: multipart/form-data; boundary=x", b'content-type: ;;="',
    b"content-type: application/x-www-form-urlencoded", b"cookie: a=b; session=\xff", b"x-forwarded-for: 127.0.0.1",
    b"x-http-method-override: DELETE", b"idempotency-key: a", b'idempotency-key: "a', b"idempotency-key: \xff",
    b"idempotency-key: " + b"k" * 300, b"authorization: Bearer x", b"authorization: Basic YTpi", b"authorization: \xff",
    b"authorization:", b"x: " + b"y" * 9000, b"\xff: y", b": y", b"a b: c", b"x:\ty\t", b" x: folded",
)  # fmt: skip
_METHODS = (
    b"GET", b"POST", b"PUT", b"PATCH", b"DELETE", b"HEAD", b"OPTIONS", b"TRACE", b"CONNECT", b"get", b"PROPFIND", b"X",
)  # fmt: skip
_QUERIES = (
    b"limit=1", b"limit=0", b"limit=-1", b"limit=1e3", b"limit=99999999999999999999", b"cursor=", b"cursor=AAAA",
    b"cursor=%ff", b"after=MQ", b"after=W10", b"after=bnVsbA", b"status=pending", b"status=%00", b"event=user.created",
    b"eventId=evt_" + ULID.encode(), b"since=2025-01-31T12:00:00Z", b"until=0001-01-01T00:00:00Z", b"since=2025",
    b"since=9999-12-31T23:59:59-23:59", b"x", b"=", b"&&", b"limit=1&limit=2", b"%", b"+", b"a=" + b"b" * 9000,
)  # fmt: skip
_KNOWN_KILLERS = (
    (
        b"GET /healthz HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n"
        b"sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n\x81"
    ),
    b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
    b"GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: !\r\n\r\n",
    b"CONNECT 127.0.0.1:22 HTTP/1.1\r\nhost: 127.0.0.1:22\r\n\r\n",
    b"GET /healthz?x HTTP/1.1\r\nhost: x\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nhost: x\r\n\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64),
    b"\x00" * 300,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Names:
    """The objects of requests: a key, a webhook that may be damaged, its deliveries, and a receiver's URL."""

    key: str = "x"
    webhook_id: str = "wh_" + ULID
    delivery_id: str = "dlv_" + ULID
    event_id: str = "evt_" + ULID
    receiver_url: str = "http://127.0.0.1:9"
    cookie: str = "webhookd=x"
    csrf: str = "x"


@dataclass(slots=True)
class Draft:
    """A request that is being mutated."""

    method: bytes
    path: bytes
    body: object = None
    lines: list[object] = field(default_factory=list)
    query: list[bytes] = field(default_factory=list)
    headers: list[bytes] = field(default_factory=list)
    version: bytes = b"HTTP/1.1"


class Door(Enum):
    """Where a case is sent."""

    PORT = "the API port"
    SOCKET = "the ingest socket"


@dataclass(frozen=True, slots=True)
class Case:
    """The bytes to send, in pieces; `ends` says whether our side of the connection is closed after them."""

    number: int
    pieces: tuple[bytes, ...]
    ends: bool
    door: Door = Door.PORT


class Cases:
    """All the cases of a seed; `runs` is the share of those that are long runs."""

    def __init__(self, seed: int, names: Names, *, runs: float = RUNS) -> None:
        self._seed = seed
        self._names = names
        self._runs = runs
        self._objects = fuzz_runs.Objects(
            key=names.key,
            cookie=names.cookie,
            csrf=names.csrf,
            webhook_id=names.webhook_id,
            delivery_id=names.delivery_id,
            receiver_url=names.receiver_url,
        )
        self._mutations: tuple[Callable[[random.Random, Draft], None], ...] = (
            _mutate_method, _mutate_path, _mutate_query, _mutate_header, _mutate_header, _mutate_body, _mutate_body,
            _mutate_version, _mutate_lines,
        )  # fmt: skip

    def case(self, number: int) -> Case:
        """Return one case; the same seed, number and names give the same bytes."""
        chance = random.Random(f"{self._seed}:{number}")  # noqa: S311 - a test's dice
        door = Door.PORT
        while True:
            if chance.random() >= self._runs:
                sent = self._bytes(chance)
            elif chance.random() < _LINES:
                door, sent = Door.SOCKET, fuzz_runs.lines(chance)
            else:
                sent = fuzz_runs.request(chance, self._objects)
            if self._is_safe(sent):
                break
            door = Door.PORT
        cuts = sorted({chance.randrange(len(sent) + 1) for _ in range(chance.choice((0, 0, 0, 1, 3)))})
        edges = [0, *cuts, len(sent)]
        pieces = tuple(sent[start:end] for start, end in itertools.pairwise(edges) if end > start)
        return Case(number, pieces, ends=door is Door.SOCKET or chance.random() < 0.9, door=door)

    def _bytes(self, chance: random.Random) -> bytes:
        if chance.random() < 0.08:
            return _scramble(chance, chance.choice(_KNOWN_KILLERS))
        sent = b""
        for _ in range(chance.choice((1, 1, 1, 1, 2, 3))):
            draft = chance.choice(drafts(self._names))
            if chance.random() < 0.85:
                draft.headers.append(f"authorization: Bearer {self._names.key}".encode())
            for _ in range(chance.choice((0, 1, 1, 2, 4))):
                chance.choice(self._mutations)(chance, draft)
            sent += _encode(chance, draft)
        return _scramble(chance, sent) if chance.random() < 0.35 else sent

    def _is_safe(self, sent: bytes) -> bool:
        """Whether the case names no URL that would make the server look up a name or dial another port."""
        allowed = tuple(url.encode() for url in SAFE_URLS)
        starts = (self._names.receiver_url.encode() + b"/", *_SAFE_STARTS)
        return all(url in allowed or url.startswith(starts) for url in _URL.findall(sent))


def drafts(names: Names) -> list[Draft]:
    """Return one valid request for each operation of the API, and some for unknown objects."""
    hook, delivery = f"/api/webhooks/{names.webhook_id}".encode(), names.delivery_id.encode()
    url = f"{names.receiver_url}/fuzzed"
    webhook: dict[str, object] = {
        "url": url, "events": ["fuzz.never.*"], "description": "x", "isActive": False, "metadata": {"a": "b"},
        "ordering": "strict", "concurrency": 2, "rateLimit": {"perSecond": 1, "burst": 1}, "timeoutSeconds": 1,
        "retry": {"delays": [600], "jitter": 0.1}, "breakerThreshold": 3, "whenInactive": "drop",
        "headers": {"x-a": "b"}, "signature": {"form": "hex", "ed25519": True}, "organizationId": "org_1",
    }  # fmt: skip
    event: dict[str, object] = {
        "type": "fuzz.event", "data": {"a": [1, {"b": None}]}, "id": "fuzz_1", "timestamp": "2025-01-31T12:00:00Z",
        "organizationId": "org_1", "orderingKey": "k",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }  # fmt: skip
    span: dict[str, object] = {"since": "2025-01-31T12:00:00Z", "until": None, "events": ["fuzz.*"], "dryRun": True}
    return [
        Draft(b"GET", b"/healthz"),
        Draft(b"GET", b"/readyz"),
        Draft(b"GET", b"/metrics"),
        Draft(b"GET", b"/api/openapi.json"),
        Draft(b"GET", b"/api/webhooks", query=[b"limit=2"]),
        Draft(b"POST", b"/api/webhooks", dict(webhook)),
        Draft(b"GET", hook),
        Draft(b"PATCH", hook, {"description": "y", "isActive": False}),
        Draft(b"PUT", hook, {"metadata": None, "retry": {"delays": [1]}}),
        Draft(b"DELETE", b"/api/webhooks/wh_" + ULID.encode()),
        Draft(b"POST", hook + b"/rotate-secret", {"overlapSeconds": 1}),
        Draft(b"POST", hook + b"/test"),
        Draft(b"POST", hook + b"/recover", dict(span)),
        Draft(b"POST", hook + b"/replay", dict(span)),
        Draft(b"GET", hook + b"/replays/rpl_" + ULID.encode()),
        Draft(b"DELETE", hook + b"/replays/rpl_" + ULID.encode()),
        Draft(b"GET", hook + b"/deliveries", query=[b"status=pending", b"limit=1"]),
        Draft(b"GET", b"/api/webhooks/deliveries/" + delivery),
        Draft(b"POST", b"/api/webhooks/deliveries/" + delivery + b"/retry", {"force": True}),
        Draft(b"POST", b"/api/events", dict(event)),
        Draft(b"POST", b"/api/events", lines=[dict(event), {"type": "fuzz.event", "data": {}}, "x"]),
        Draft(b"GET", b"/api/events", query=[b"limit=2"]),
        Draft(b"GET", b"/api/events/" + names.event_id.encode()),
        Draft(b"GET", b"/api/event-types"),
        Draft(b"PUT", b"/api/event-types/fuzz.type", {"description": "x", "schema": {"type": "object"}}),
        Draft(b"DELETE", b"/api/event-types/fuzz.type"),
        Draft(b"GET", b"/api/keys"),
        Draft(b"POST", b"/api/keys", {"role": "viewer", "name": "fuzz", "organizationId": None}),
        Draft(b"DELETE", b"/api/keys/key_" + ULID.encode()),
        Draft(b"GET", b"/"),
        Draft(b"GET", b"/api/nothing"),
    ]


def _mutate_method(chance: random.Random, draft: Draft) -> None:
    draft.method = chance.choice(_METHODS)


def _mutate_version(chance: random.Random, draft: Draft) -> None:
    draft.version = chance.choice((b"HTTP/1.0", b"HTTP/1.1", b"HTTP/2.0", b"HTTP/9.9", b"http/1.1", b""))


def _mutate_path(chance: random.Random, draft: Draft) -> None:
    parts = draft.path.split(b"/")
    at = chance.randrange(len(parts))
    parts[at] = chance.choice(
        (b"", b".", b"..", b"%00", b"%ff%fe", b"%2e%2e", b"%2f", b"%", b"%zz", b"\\", b"*", b"~", b"{x}", b"a" * 3000,
         b"+", b";a=b", b"%F0%9F%92%A9", b"wh_" + b"0" * 26, parts[at].upper(), parts[at] + b"/", parts[at] * 2)
    )  # fmt: skip
    draft.path = b"/".join(parts)
    if chance.random() < 0.1:
        draft.path = chance.choice((b"*", b"", b"http://x", b"http://x/", b"//x", b"http://y/healthz", b"x:80")) + (
            draft.path if chance.random() < 0.5 else b""
        )


def _mutate_query(chance: random.Random, draft: Draft) -> None:
    draft.query += chance.choices(_QUERIES, k=chance.randint(1, 3))


def _mutate_header(chance: random.Random, draft: Draft) -> None:
    if draft.headers and chance.random() < 0.3:
        draft.headers.insert(chance.randrange(len(draft.headers) + 1), chance.choice(draft.headers))
    else:
        draft.headers.insert(chance.randrange(len(draft.headers) + 1), chance.choice(_ODD_HEADERS))
    if chance.random() < 0.02:
        draft.headers += [b"a%d: b" % number for number in range(chance.choice((50, 99, 101, 400)))]


def _mutate_body(chance: random.Random, draft: Draft) -> None:
    if not isinstance(draft.body, dict) or not draft.body:
        draft.body = _odd(chance, (*_ODD_VALUES, {"a": 1}, {"force": True}))
        return
    holder: dict[str, object] = draft.body
    name = chance.choice(list(holder))
    inner = holder[name]
    if isinstance(inner, dict) and inner and chance.random() < 0.6:
        holder = inner = dict(inner)
        draft.body[name] = inner
        name = chance.choice(list(holder))
    match chance.randrange(4):
        case 0:
            del holder[name]
        case 1:
            holder[str(chance.choice(_ODD_TEXT))] = _odd(chance, _ODD_VALUES)
        case 2 if isinstance(holder[name], list):
            holder[name] = [*chance.choices(_ODD_VALUES, k=2), *chance.choices(_ODD_TEXT, k=1)]
        case _:
            holder[name] = _odd(chance, SAFE_URLS if name == "url" else _ODD_VALUES)


def _odd(chance: random.Random, values: Sequence[object]) -> object:
    """Return a copy of one of the values, so that a mutation of it doesn't reach the next case."""
    return copy.deepcopy(chance.choice(values))


def _mutate_lines(chance: random.Random, draft: Draft) -> None:
    if draft.lines:
        draft.lines += chance.choices((*_ODD_VALUES, {"type": "fuzz.event", "data": {"deep": [[[[]]]]}}), k=3)


def _encode(chance: random.Random, draft: Draft) -> bytes:
    target = draft.path + (b"?" + b"&".join(draft.query) if draft.query else b"")
    head = [b" ".join(filter(None, (draft.method, target, draft.version))), b"host: x"]
    body = b""
    if draft.lines:
        head.append(b"content-type: application/x-ndjson")
        body = b"\n".join(_json(line) for line in draft.lines)
    elif draft.body is not None:
        head.append(b"content-type: " + chance.choice((b"application/json",) * 8 + (b"application/merge-patch+json",)))
        body = _json(draft.body)
    if chance.random() < 0.03:
        body = chance.choice((b"{", b"\xff", b"[" * 3000, b'{"a":' * 300, b"nul", b"\xef\xbb\xbf{}", b'{"a": NaN}'))
    if body and chance.random() < 0.3:
        head.append(b"transfer-encoding: chunked")
        body = _chunked(chance, body)
    elif body or chance.random() < 0.1:
        off_by = chance.choice((0,) * 12 + (-1, 1, 5))
        head.append(b"content-length: %d" % (len(body) + off_by))
    return b"\r\n".join([*head, *draft.headers]) + b"\r\n\r\n" + body


def _json(value: object) -> bytes:
    try:
        return msgspec.json.encode(value)
    except (OverflowError, UnicodeEncodeError, msgspec.MsgspecError):
        # Numbers and surrogates that only another encoder writes.
        import json  # noqa: PLC0415 - seldom needed, and slow to be asked each time

        return json.dumps(value).encode()


def _chunked(chance: random.Random, body: bytes) -> bytes:
    size = chance.choice((1, 7, 1000))
    chunks = [body[at : at + size] for at in range(0, len(body), size)]
    extension = chance.choice((b"", b"", b";a=b"))
    end = chance.choice((b"0\r\n\r\n",) * 6 + (b"0\r\nt: 1\r\n\r\n", b"0\r\n", b"0\n\n", b""))
    return b"".join(b"%x%b\r\n%b\r\n" % (len(chunk), extension, chunk) for chunk in chunks) + end


def _scramble(chance: random.Random, sent: bytes) -> bytes:
    payload = bytearray(sent)
    for _ in range(chance.randint(1, 6)):
        at = chance.randrange(len(payload) + 1)
        match chance.randrange(5):
            case 0:
                payload[at:at] = bytes([chance.randrange(256)])
            case 1:
                del payload[at : at + chance.randrange(8)]
            case 2:
                payload[at:at] = payload[: chance.randrange(200)]
            case 3:
                payload[at:at] = chance.choice((b"\r\n", b"\n", b"\r", b"\x00", b"\r\n\r\n", b" ", b":", b"%", b"\xff"))
            case _:
                payload[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(payload)


def numbered(cases: Cases, first: int, count: int) -> Iterator[Case]:
    """Yield `count` cases from `first` on."""
    for number in range(first, first + count):
        yield cases.case(number)

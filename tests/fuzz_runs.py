"""Long runs of one character or two alternating ones, for every input of the server, to find superlinear costs.

A run stands behind what leads a reader on and before what makes it fail, in a request's line, in a header, a query, a
cursor, credentials, a body, the lines of a stream, a form of the dashboard, or on the socket.
"""

import base64
import json
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import quote

LONGEST_LINE = 7000
LONGEST_HEAD = 15_000
LONGEST_EVENT = 262_000
LONGEST_BODY = 1_048_000

_CHARACTERS = b" \t:;,=\"'\\/[]{}()<>@%&+-_.*#?!~`$|^09aAzxT\x00\x7f\x80\xff\r\n"
_USUAL = b' \t"\\[a,=.'  # half of all runs are of these
_UNITS = (
    b'\\"', b"\\u0000", b"\\\\", b"[]", b"{}", b'[""],', b'{"a":', b"[1,", b'"a":1,', b'"*",', b'"","', b"],[", b"a.",
    b"a,", b"%00", b"%zz", b"&a=", b"a=b;", b"a=b; ", b"\r\n ", b"\r\na:b", b"1\r\na\r\n", b"\n{}", b'"x",',
    b'W/"a",', b"..",
    b"://", b"xn--", b"a-", b"- at `$[", b"\xc3\xa4", b"\xef\xbb\xbf", b"0x", b"1e", b"::", b"q=0.1,", b"v1,",
    b"bytes=0-,",
)  # fmt: skip
_ENDS = (b"", b"", b"x", b"!", b'"', b"]", b"\x00", b" ", b"\xff", b"\r\n")
_HEADERS: Mapping[bytes, tuple[bytes, ...]] = {
    b"host": (b"", b"a", b"[", b"a:"),
    b"content-length": (b"", b"1", b"x"),
    b"transfer-encoding": (b"", b"chunked", b"x"),
    b"content-type": (b"", b"application/json; charset", b"application/json; charset=", b'application/json; a="'),
    b"content-encoding": (b"",),
    b"authorization": (b"", b"Bearer", b"Bearer ", b"Bearer whd_", b"Bearer eyJhbGciOiJIUzI1NiJ9.", b"Bearer A.A."),
    b"cookie": (b"", b"webhookd=", b'a="', b"a=b; "),
    b"idempotency-key": (b"", b'"'),
    b"if-match": (b"", b'"', b'W/"'),
    b"if-none-match": (b"", b'"a", '),
    b"if-modified-since": (b"", b"Mon, "),
    b"traceparent": (b"", b"00-"),
    b"accept": (b"", b"text/html", b"text/html;q="),
    b"accept-encoding": (b"", b"gzip;q="),
    b"accept-language": (b"",),
    b"origin": (b"", b"http://", b"http://["),
    b"range": (b"", b"bytes="),
    b"expect": (b"",),
    b"connection": (b"", b"close, "),
    b"x-forwarded-proto": (b"", b"https"),
    b"x-csrf-token": (b"",),
    b"sec-fetch-site": (b"",),
    b"hx-request": (b"",),
    b"x": (b"",),
}
_PARAMETERS = (
    b"limit", b"cursor", b"after", b"status", b"event", b"eventId", b"since", b"until", b"webhookId", b"outcome",
    b"error", b"span", b"actor", b"action", b"object", b"q", b"type", b"organization", b"x", b"next",
)  # fmt: skip
_LISTS = (
    b"/api/webhooks", b"/api/events", b"/api/attempts", b"/api/keys", b"/api/audit", b"/api/event-types",
    b"/api/stats",
    b"/events", b"/webhooks", b"/audit", b"/event-types", b"/keys", b"/sign-in", b"/healthz",
)  # fmt: skip
_JSON_STARTS = (
    b"", b"[" * 129 + b'"', b'{"a":"', b'{"', b'{"url":"', b'{"events":[', b'{"metadata":{', b'{"schema":{"a":[',
    b'{"type":"fuzz.event","data":{},"x` - at `$', b'{"type":"fuzz.event","data":{"a":"',
    b'{"type":"fuzz.event","data":{"a":[', b'{"type":"fuzz.event","data":{"a":', b'{"headers":{"x-a":"',
    b'{"retry":{"delays":[',
)  # fmt: skip
_CHUNKED = b"transfer-encoding: chunked"


@dataclass(frozen=True, slots=True, kw_only=True)
class Objects:
    """The objects of requests: a key, a cookie with its CSRF token, and existing objects."""

    key: str
    cookie: str
    csrf: str
    webhook_id: str
    delivery_id: str
    receiver_url: str


def run(chance: random.Random, most: int) -> bytes:
    """Return a run of at most `most` bytes, with or without text after it."""
    characters = [bytes([character]) for character in chance.choice((_USUAL, _CHARACTERS))]
    unit = chance.choice(
        (
            chance.choice(characters),
            chance.choice(characters),
            b"".join(chance.sample(characters, 2)),
            chance.choice(_UNITS),
        )
    )
    length = min(chance.choice((100, 3000, most, most)), most)
    end = chance.choice(_ENDS)
    return (unit * (length // len(unit) + 1))[: max(length - len(end), 0)] + end


def request(chance: random.Random, objects: Objects) -> bytes:
    """Return a request with a run in it."""
    return chance.choice(_PLACES)(chance, objects)


def lines(chance: random.Random) -> bytes:
    """Return the input of a producer on the socket: lines with runs, a valid one, and perhaps half a line."""
    sent = [
        chance.choice((_json(chance, LONGEST_EVENT), run(chance, LONGEST_EVENT), run(chance, 3_000) * 20))
        for _ in range(chance.choice((1, 1, 2)))
    ]
    return b"\n".join([*sent, b'{"type":"fuzz.event","data":{}}', chance.choice((b"", b"", b'{"type":'))])


# The places. Each returns a whole request.


def _sent(
    objects: Objects, line: bytes, headers: tuple[bytes, ...] = (), body: bytes = b"", *, key: bool = True
) -> bytes:
    head = [line, *headers]
    if not any(header.lower().startswith(b"host:") for header in headers):
        head.append(b"host: x")
    if key:
        head.append(b"authorization: Bearer " + objects.key.encode())
    if body and _CHUNKED not in headers:
        head.append(b"content-length: %d" % len(body))
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def _in_line(chance: random.Random, objects: Objects) -> bytes:
    long = run(chance, LONGEST_LINE)
    line = chance.choice(
        (b"GET /" + long + b" HTTP/1.1", long + b" / HTTP/1.1", b"GET / " + long,
         b"GET http://" + long + b"/ HTTP/1.1",
         b"GET /api/webhooks/" + long + b" HTTP/1.1", b"GET /static/" + long + b" HTTP/1.1", long)
    )  # fmt: skip
    return _sent(objects, line)


def _in_header(chance: random.Random, objects: Objects) -> bytes:
    name = chance.choice(list(_HEADERS))
    value = chance.choice(_HEADERS[name]) + run(chance, LONGEST_HEAD)
    header = chance.choice((name + b": " + value, name + b": " + value, value + b": x", name + value))
    line = chance.choice((b"GET /api/webhooks", b"POST /api/events", b"GET /", b"POST /sign-in", b"POST /api/webhooks"))
    return _sent(objects, line + b" HTTP/1.1", (header,), key=name != b"authorization")


def _in_headers(chance: random.Random, objects: Objects) -> bytes:
    unit = chance.choice((b"a:b", b"a:", b"cookie:a=b", b"content-length: 1", b"x-forwarded-for: 1", b"accept:*/*"))
    count = chance.choice((50, 90, 101, 3000))
    return _sent(objects, b"GET / HTTP/1.1", (unit,) * count)


def _in_query(chance: random.Random, objects: Objects) -> bytes:
    value = run(chance, LONGEST_LINE)
    if chance.random() < 0.5:
        value = quote(value).encode()[:LONGEST_LINE]
    value = value.replace(b" ", b"+").replace(b"\r", b"").replace(b"\n", b"")
    target = chance.choice(_LISTS) + b"?" + chance.choice((chance.choice(_PARAMETERS) + b"=", b"")) + value
    return _sent(objects, b"GET " + target + b" HTTP/1.1", (b"cookie: " + objects.cookie.encode(),))


def _in_cursor(chance: random.Random, objects: Objects) -> bytes:
    name = chance.choice((b"events", b"webhooks", b"attempts", b"search", b"event-types"))
    inner = chance.choice((b"", b'["' + name + b'",', b'["', b"[")) + run(chance, LONGEST_LINE * 3 // 4)
    cursor = b"c." + base64.urlsafe_b64encode(inner).rstrip(b"=")
    target = chance.choice(_LISTS) + b"?" + chance.choice((b"cursor=", b"after=")) + cursor[:LONGEST_LINE]
    return _sent(objects, b"GET " + target + b" HTTP/1.1", (b"cookie: " + objects.cookie.encode(),))


def _in_body(chance: random.Random, objects: Objects) -> bytes:
    hook = b"/api/webhooks/" + objects.webhook_id.encode()
    line = chance.choice(
        (b"POST /api/events", b"POST /api/events", b"POST /api/webhooks", b"PATCH " + hook,
         b"POST " + hook + b"/replay",
         b"PUT /api/event-types/fuzz.type", b"POST /api/keys",
         b"POST /api/webhooks/deliveries/" + objects.delivery_id.encode() + b"/retry")
    )  # fmt: skip
    most = LONGEST_EVENT if b"events" in line or chance.random() < 0.8 else LONGEST_BODY
    body = chance.choice((_json, _field))(chance, most)
    headers: tuple[bytes, ...] = (b"content-type: application/json",)
    if chance.random() < 0.2:
        headers += (b"idempotency-key: " + b"%x" % chance.randrange(1000),)
    if chance.random() < 0.2:
        return _sent(objects, line + b" HTTP/1.1", (*headers, _CHUNKED), _in_chunks(body, chance.choice((1, 2, 4096))))
    return _sent(objects, line + b" HTTP/1.1", headers, body)


def _in_stream(chance: random.Random, objects: Objects) -> bytes:
    body = chance.choice((lines(chance), run(chance, LONGEST_EVENT), run(chance, LONGEST_EVENT)))
    return _sent(objects, b"POST /api/events HTTP/1.1", (b"content-type: application/x-ndjson",), body)


def _in_chunk(chance: random.Random, objects: Objects) -> bytes:
    body = chance.choice((b"", b"1", b"1;", b"1;a=", b"1\r\na\r\n", b"0\r\n", b"0\r\na:")) + run(chance, 60_000)
    headers = (b"content-type: application/json", _CHUNKED)
    return _sent(objects, b"POST /api/events HTTP/1.1", headers, body)


def _in_form(chance: random.Random, objects: Objects) -> bytes:
    value = run(chance, chance.choice((3000, 80_000)))
    text = value if chance.random() < 0.3 else quote(value).encode()
    csrf = b"csrf=" + objects.csrf.encode()
    path, field = chance.choice(
        ((b"/sign-in", b"key"), (b"/sign-in", b"next"), (b"/event-types", b"schema"), (b"/event-types", b"name"),
         (b"/event-types", b"description"), (b"/keys", b"name"), (b"/webhooks", b"events"), (b"/webhooks",
          b"metadata"),
         (b"/webhooks", b"headers"), (b"/webhooks", b"retry/delays"), (b"/webhooks", b"concurrency"),
         (b"/webhooks/check/events", b"events"), (b"/sign-in", b""))
    )  # fmt: skip
    body = b"&".join((csrf, field + b"=" + text))[:LONGEST_EVENT]
    headers = (
        b"content-type: application/x-www-form-urlencoded",
        b"sec-fetch-site: same-origin",
        b"cookie: " + objects.cookie.encode(),
    )
    return _sent(objects, b"POST " + path + b" HTTP/1.1", headers, body, key=False)


def _json(chance: random.Random, most: int) -> bytes:
    start = chance.choice(_JSON_STARTS)
    return start + run(chance, most - len(start) - 10) + chance.choice((b"", b'"}', b"]}", b"1]}}", b"}}"))


def _field(chance: random.Random, most: int) -> bytes:
    """Return a JSON document with a run as a text or a number."""
    text = json.dumps(run(chance, min(most // 7, 30_000)).decode("latin-1"))
    number = chance.choice(("1" * 5000, "-" + "9" * 4300, "1e" + "9" * 5000, "0." + "1" * 100_000))
    value = chance.choice((text, text, text, number))
    template = chance.choice(
        (
            '{"type":%s,"data":{}}', '{"type":"fuzz.event","data":{"a":%s}}', '{"type":"fuzz.event","data":{},%s:1}',
            '{"type":"fuzz.event","data":{},"id":%s}', '{"type":"fuzz.event","data":{},"timestamp":%s}',
            '{"type":"fuzz.event","data":{},"traceparent":%s}', '{"type":"fuzz.event","data":{},"organizationId":%s}',
            '{"type":"fuzz.event","data":{},"orderingKey":%s}', '{"description":%s}', '{"metadata":{"a":%s}}',
            '{"metadata":{%s:"a"}}', '{"events":[%s]}', '{"headers":{"x-a":%s}}', '{"headers":{%s:"a"}}',
            '{"isActive":%s}', '{"retry":{"delays":[%s]}}', '{"concurrency":%s}', '{"since":%s}',
            '{"name":%s,"role":"viewer"}',
            '{"schema":{"pattern":%s}}', '{"example":{%s:1}}', '{"url":"http://10.0.0.1:80%s"}',
            '{"organizationId":%s}',
            '{"url":"http://[%s"}', '{"force":%s}',
        )
    )  # fmt: skip
    if '"url"' in template:
        value = text[1:-1]
    return (template % value if "%s" in template else template).encode()


def _in_chunks(body: bytes, size: int) -> bytes:
    body = body[: 20_000 * size]
    return b"".join(
        b"%x\r\n%b\r\n" % (len(chunk), chunk) for at in range(0, len(body), size) if (chunk := body[at : at + size])
    ) + (b"0\r\n\r\n")


_PLACES: tuple[Callable[[random.Random, Objects], bytes], ...] = (
    _in_line, _in_header, _in_header, _in_headers, _in_query, _in_cursor, _in_body, _in_body, _in_stream, _in_chunk,
    _in_form,
)  # fmt: skip

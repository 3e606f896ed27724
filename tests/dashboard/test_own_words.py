"""Invalid values in every route and field: no server error, and no message of a library in the answer."""

import json
import re
from collections.abc import Iterator, Mapping
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec
import pytest
import trio

from tests.admin.inprocess import OWN_UID
from tests.dashboard.browsing import ORIGIN, Site, text_of
from tests.dashboard.test_matrix import Things
from tests.foreign import PACKAGE, PHRASES, own_exceptions, passed_on
from tests.long import long
from webhookd.admin.app import all_operations
from webhookd.admin.examples import EXAMPLES
from webhookd.admin.operations import Operation
from webhookd.base.errors import ConfigError
from webhookd.config import load_config
from webhookd.dashboard.app import all_pages
from webhookd.dashboard.forms import FORM
from webhookd.dashboard.webhook_forms import FIELDS

TEXTS = (
    *("", " ", "x", "-1", "0", "1.5", "1e3", "true", "null", "9" * 400, "9" * 5000, "é", "a b", "a\tb", "[]", "{}"),
    *("2024-13-01T00:00:00Z", "2024-01-32T00:00:00Z", "2024-01-01", "T", "0001-01-01T00:00:00+23:00"),
    *("2024-01-01T00:00:00+99:00", "٣", "\ufeff", "'", "%"),
)
VALUES: tuple[Any, ...] = (
    *TEXTS,
    *(None, True, 0, -1, 1.5, 2**63, 10**30, int("9" * 401), 1e300, [], [None], [[]], ["*", 7]),
    *({}, {"a": 1}, {"": {}}, {"x": {"x": {"x": None}}}, "\x00"),
)
BODIES = (
    *(b"", b" ", b"{", b"[]", b"null", b'"x"', b"7", b"\xff", b"{}{}", b"tru", b"{'a': 1}", b"\xef\xbb\xbf"),
    *(b'{"a": NaN}', b'{"a": "\\ud800"}', b'{"\\ud800": 1}', b'{"a": 1, "a": 2}', b'{"a": "\x01"}'),
    *(b"[" * 200, b"9" * 5000, b'{"a": ' + b"9" * 5000 + b"}"),
)
HEADERS = (
    *(("content-type", text) for text in ("text/plain", "application/json; charset=latin-1", "")),
    *(("idempotency-key", text) for text in ("", "k" * 300)),
    *(("authorization", text) for text in ("Basic eDp5", "Bearer a.b.c")),
    *(("content-encoding", "gzip"), ("if-match", "x"), ("if-none-match", '"'), ("traceparent", "x")),
)
OPERATIONS = all_operations()
PARTS = ("none", "wh_%00", "%ff", "a%2Fb", "..", "é", "x" * 2000)
TOML = (
    *(
        "[server",
        "port",
        "port =",
        "= 1",
        "a = 1 2",
        'a = "x',
        'a = "\\q"',
        "a = [1",
        "a = '''",
        "\x00",
        "a = 0x",
        "[a]]",
    ),
    *("a = 1979-13-01", "a.b = 1\na = 2", "a = {b = 1, b = 2}", "[server]\n[server]", "[none]\na = 1"),
    *("[server]\nport = x", "[server]\nport = 1\nport = 2", "[server]\nport = 70000", "[server]\nhost = 7"),
    *("[server]\nport = " + "1" * 5000, "[egress]\nallow_networks = ['10.0.0.1/8', 'x']", "[egress]\nproxy = 'x'"),
    *("[egress]\nproxy = 'http://[::1'", "[egress]\nproxy = 'http://x:99999'", "[log]\nlevel = 'loud'"),
    *("[jwt]\nroles = 7", "[jwt]\nroles = {a = 'x'}", "[delivery]\nretry_delays = []"),
    *("[delivery]\nretry_delays = ['x']", "[ingest]\nallowed_uids = [-1]"),
    "[secrets]\nmaster_key_credential = '../x'",
)


def check(answer: httpx.Response, sent: object) -> None:
    """Check an answer: no server error, and an error only with our own message."""
    assert answer.status_code < 500, (sent, answer.text)
    if answer.status_code < 400:
        return
    document = answer.json()
    said = [document["detail"], *(error["detail"] for error in document["errors"])]
    assert document["detail"], sent
    for words in said:
        assert not PHRASES.search(words), (sent, words)


def good_body(operation: Operation) -> dict[str, Any]:
    example = EXAMPLES[operation.name].takes if operation.name in EXAMPLES else {}
    found = msgspec.to_builtins(next(iter(example.values()), {}))
    return dict(found) if isinstance(found, Mapping) else {"type": "user.created", "data": {}}


def bad_bodies(operation: Operation) -> Iterator[bytes]:
    yield from BODIES
    good = good_body(operation)
    names = {
        field.encode_name
        for kind in operation.takes.values()
        for field in msgspec.structs.fields(kind)  # type: ignore[arg-type]  # they are Structs
    }
    for name in sorted(names):
        for value in VALUES:
            yield json.dumps({**good, name: value}).encode()
    for name in ("x" * 5000, "é", "$.a", "", "a`b"):
        yield json.dumps({**good, name: 1}).encode()


def bad_requests(
    operation: Operation, known: Mapping[str, str]
) -> Iterator[tuple[str, bytes | None, Mapping[str, str]]]:
    """Yield the target, the body and the headers of each bad request."""
    path = operation.path.format_map(known)
    if operation.name in {"makeBackup", "rotateMasterKey"}:
        path = f"{path}?x=1"  # what is looked at beside its body would be done
    queries = [
        urlencode({field.encode_name: text}) for field in msgspec.structs.fields(operation.query) for text in TEXTS
    ]
    for query in (*queries, "limit=1&limit=2", "x=1", "%ff=1", "x=%ff", "x=%00", "&&=", "limit"):
        yield f"{path}{'&' if '?' in path else '?'}{query}", None, {}
    if operation.takes:
        yield from ((path, content, {}) for content in bad_bodies(operation))
    for name, value in HEADERS:
        yield path, b"{}" if operation.takes else None, {name: value}
    for variable in re.findall(r"{(\w+)}", operation.path):
        yield from ((operation.path.format_map({**known, variable: part}), None, {}) for part in PARTS)


# A stride that shares no factor with the number of values, and another start for each operation: in the quick run, too,
# each kind of field meets each kind of value.
@pytest.mark.parametrize(
    ("operation", "every"),
    long([(operation, every) for every in (7, 1) for operation in OPERATIONS], lambda row: row[1] == 1),
    ids=lambda each: getattr(each, "name", f"every-{each}"),
)
async def test_every_field_of_every_operation(site: Site, operation: Operation, every: int) -> None:
    """Each parameter, field, header and part of a path with each bad value."""
    api = site.api
    made = await api.ask(
        "POST", "/api/webhooks", None, body={"url": "https://a.example/", "events": ["*"]}, uid=OWN_UID
    )
    known = {
        "webhookId": made.json()["id"],
        "name": "user.created",
        "eventId": "e",
        "deliveryId": "d",
        "keyId": "k",
        "replayId": "r",
    }
    kind = {"content-type": "application/json"} if operation.takes else {}
    for target, content, headers in islice(
        bad_requests(operation, known), OPERATIONS.index(operation) % every, None, every
    ):
        answer = await api.ask(
            operation.method, target, None, content=content, uid=OWN_UID, headers={**kind, **headers}
        )
        if operation.name not in {"getReadiness", "getMetrics", "getHealth"}:
            check(answer, (target, content, headers))


@pytest.mark.parametrize("every", long([4, 1], lambda every: every == 1))
async def test_every_page(site: Site, every: int) -> None:
    """No page fails or shows a library's message, whatever its query or path."""
    visitor = await site.visitor()
    known = {
        "webhookId": "wh_x",
        "name": "user.created",
        "eventId": "e",
        "deliveryId": "d",
        "keyId": "k",
        "replayId": "r",
    }
    known |= {"field": "url", "number": "1", "attemptId": "a"}
    names = (
        "q",
        "type",
        "organization",
        "since",
        "until",
        "cursor",
        "search",
        "kind",
        "order",
        "page",
        "status",
        "event",
        "x",
    )
    pages = [page for page in all_pages() if page.method == "GET" and not page.path.endswith("/live")]
    for number, page in enumerate(pages):
        path = page.path.format_map(known)
        queries = [urlencode({name: text}) for name in names for text in TEXTS[:20:3]]
        for query in ("", *[*queries, "%ff=1", "page=1&page=2"][number % every :: every]):
            answer = await visitor.get(f"{path}?{query}")
            assert answer.status_code < 500, (path, query)
            if answer.status_code >= 400:
                assert not PHRASES.search(text_of(answer.text)), (path, query, text_of(answer.text))


def field_names() -> list[str]:
    """Return the name of each field of the dashboard's forms."""
    templates = (PACKAGE / "dashboard" / "templates").rglob("*.html")
    written = {name for path in templates for name in re.findall(r'\bname="([\w/]+)"', path.read_text())}
    return sorted((written | FIELDS) - {"csrf"})


@pytest.mark.parametrize("every", long([4, 1], lambda every: every == 1))
async def test_every_form(site: Site, autojump_clock: trio.testing.MockClock, every: int) -> None:
    """No form fails or is answered with a library's message, whatever its fields or body."""
    visitor = await site.visitor()
    csrf = await visitor.csrf()
    names = await Things(site, "org-a").fill("forms")
    forms = [page for page in all_pages() if page.method == "POST" and not page.path.endswith(("/delete", "/revoke"))]
    texts, asked = cycle(text for text in TEXTS if "\ufeff" not in text), 0
    for number, page in enumerate(forms):
        path = page.path.format_map(names)
        good = {"url": "https://hook.example/", "events": "*", "kind": "replay", "since": "2020-01-01T00:00"}
        sent: list[bytes] = [
            urlencode({**good, "csrf": csrf, name: next(texts)}).encode()
            for name in field_names()[number % every :: every]
        ]
        sent += [
            f"csrf={csrf}&{rest}".encode() for rest in ("url=%ff", "a=%", "&&==", "x=1&" * 600, "events=" + "a," * 900)
        ]
        for body in sent:
            answer = await visitor.client.post(path, content=body, headers={"origin": ORIGIN, "content-type": FORM})
            asked += 1
            assert answer.status_code < 500, (path, body[:300])
            # What was typed is shown again, and a hint of the form says what the server's own value is.
            shown = text_of(re.sub(r"<textarea.*?</textarea>", "", answer.text, flags=re.DOTALL))
            shown = shown.replace("The server's:", "")
            assert answer.status_code < 400 or not PHRASES.search(shown), (path, body[:300], shown)
    assert asked > 10 * len(forms) > 100


@pytest.mark.parametrize("text", TOML)
def test_every_mistake_of_a_configuration(tmp_path: Path, text: str) -> None:
    """An unusable value is reported with our own message and its place."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as refused:
        load_config(path, {})
    said = str(refused.value).removeprefix(str(path))
    assert not PHRASES.search(said), said


ALLOWED = {
    # What a receiver, a proxy or the network did is told with the reason that OpenSSL, httptools or the system gives.
    "delivery/http/proxy.py",
    "delivery/http/tunnel.py",
    "delivery/http/wire.py",
    # The user of the client needs to see why its connection broke.
    "client/aio.py",
    # The log's reader is the operator, who wants to know what the library said.
    "ingest/server.py",
}


def test_no_librarys_text_is_passed_on() -> None:
    """Except in these modules, only messages of webhookd's own and the system's exceptions are put into others."""
    own = own_exceptions() | {"OSError"}
    found = {
        f"{path.relative_to(PACKAGE)}:{line} passes on the text of {kinds}"
        for path in PACKAGE.rglob("*.py")
        if str(path.relative_to(PACKAGE)) not in ALLOWED
        for line, kinds in passed_on(path)
        if not {name.rpartition(".")[2] for name in re.findall(r"[\w.]+", kinds)} <= own
    }
    assert not found, "\n".join(sorted(found))

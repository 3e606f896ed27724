"""Invalid cursors: every list of the API and every page with a cursor refuses them."""

import base64
import json
from collections.abc import Mapping
from urllib.parse import urlencode

import msgspec

from tests.admin.inprocess import OWN_UID
from tests.dashboard.browsing import Site, Visitor
from webhookd.admin.app import all_operations
from webhookd.journal import cursors

PAGES = {
    "/keys": "keys",
    "/event-types": "event-types",
    "/audit": "audit",
    "/events": "search",
    "/webhooks/{webhookId}/deliveries": "deliveries",
    "/events/{eventId}": "event-deliveries",
}
OUT_OF_RANGE = (2**63, 2**64, -(2**63) - 1, 10**30, int("9" * 401), -1)
OF_ANOTHER_KIND: tuple[object, ...] = (1.0, 1.5, 1e300, "1", True, None, [1], {})


def spelled(content: object) -> str:
    text = content if isinstance(content, bytes) else json.dumps(content, separators=(",", ":")).encode()
    return cursors.PREFIX + base64.urlsafe_b64encode(text).decode().rstrip("=")


def bad_cursors(good: str) -> list[str]:
    """Return texts that are almost a valid cursor."""
    content = good.removeprefix(cursors.PREFIX)
    text = base64.urlsafe_b64decode(content + "=" * (-len(content) % 4))
    name, *position = json.loads(text)
    wrong = {
        place: [*OUT_OF_RANGE, *(value for value in OF_ANOTHER_KIND if type(value) is not type(known))]
        for place, known in enumerate(position)
    }
    changed = [
        spelled([name, *position[:place], value, *position[place + 1 :]])
        for place, values in wrong.items()
        for value in values
    ]
    return [
        *changed,
        spelled([name]),
        spelled([name, *position, 1]),
        spelled(["other", *position]),
        spelled([[name], *position]),
        spelled({name: position}),
        spelled(position),
        spelled(text + b" "),
        spelled(text.replace(b",", b", ", 1)),
        spelled(b"[" * 700),
        spelled(b"\xff\xfe"),
        spelled(b""),
        content,
        good + "=",
        good[:-1],
        "c.",
        ".",
        "c.~",
        "c.é",
    ]


async def lists(site: Site) -> Mapping[str, str]:
    """Fill every list of the API; return the paths of those with a cursor, with the parameter."""
    api = site.api
    fields = {"url": "https://a.example/", "events": ["*"], "isActive": False}
    for number in range(3):
        made = await api.ask("POST", "/api/webhooks", None, body=fields, uid=OWN_UID)
        event = {"type": "user.created", "data": {}, "id": f"e{number}"}
        await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID)
        await api.key("viewer")
    names = {"{webhookId}": made.json()["id"], "{eventId}": "e0"}
    # An event's deliveries, of which the first webhook's three and the last one's one must be more than a page's.
    event = {"type": "user.created", "data": {}, "id": "e9"}
    await api.ask("POST", "/api/events", None, body=event, uid=OWN_UID)
    names["{eventId}"] = "e9"
    found = {}
    for operation in all_operations():
        taken = {field.name for field in msgspec.structs.fields(operation.query)}
        path = operation.path
        for variable, value in names.items():
            path = path.replace(variable, value)
        for parameter in {"cursor", "after"} & taken:
            found[f"{path}?limit=1&{parameter}="] = operation.name
    return found


async def test_only_what_a_list_gave_out_is_its_cursor(site: Site) -> None:
    """A number out of range, another type, the cursor of another list, another spelling: 400 INVALID_CURSOR."""
    api = site.api
    given: dict[str, str] = {}
    paths = await lists(site)
    for path, name in paths.items():
        answer = await api.ask("GET", path.partition("&")[0], None, uid=OWN_UID)
        assert answer.json()["nextCursor"] is not None, (name, answer.text)
        given[name] = answer.json()["nextCursor"]
    assert set(given) == {
        "listWebhooks", "listDeliveries", "listEventDeliveries", "listAttempts", "listEvents", "listEventTypes",
        "listKeys", "listAudit",
    }  # fmt: skip
    for path, name in paths.items():
        target, _, parameter = path.rstrip("=").rpartition("&")
        good = await api.ask("GET", f"{path}{given[name]}", None, uid=OWN_UID)
        assert good.status_code == 200, (path, good.text)
        others = [cursor for other, cursor in given.items() if other != name]
        for cursor in (*bad_cursors(given[name]), *others):
            answer = await api.ask("GET", f"{target}&{urlencode({parameter: cursor})}", None, uid=OWN_UID)
            assert (answer.status_code, answer.json()["code"]) == (400, "INVALID_CURSOR"), (path, cursor, answer.text)


async def test_a_page_refuses_a_cursor_of_nobody(site: Site) -> None:
    """Every page with a cursor answers 400 to an invalid one, and no page fails."""
    await lists(site)
    _, key = await site.api.key("admin")
    visitor = Visitor(site)
    await visitor.sign_in(key)
    listed = (await site.api.ask("GET", "/api/webhooks", None, uid=OWN_UID)).json()["data"][0]["id"]
    for page, name in PAGES.items():
        path = page.format(webhookId=listed, eventId="e9")
        assert (await visitor.get(path)).status_code == 200
        positions: tuple[list[object], ...] = ([2**63], [1.5, 2**63], [2**63, 1], [-1], [1.5], [None], [])
        for cursor in (*(spelled([name, *position]) for position in positions), spelled(["other", 7]), "c.~"):
            answer = await visitor.get(f"{path}?{urlencode({'cursor': cursor})}")
            assert answer.status_code == 400, (path, cursor, answer.status_code)

"""The feed of recent attempts: its content, its cursors, and its gaps."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from tests.samples import attempt_record, endpoint, message
from webhookd.base.models import DeliveryError
from webhookd.observe.attempt_feed import MOST_KEPT, AttemptFeed, facts_of


@pytest.fixture
async def api(tmp_path: Path, autojump_clock: object) -> AsyncIterator[Api]:
    async with api_in_process(tmp_path, Signer()) as api:
        yield api


def add(recent: AttemptFeed, name: str, *, error: DeliveryError | None = None, **fields: Any) -> None:
    """Add an attempt with this id; `fields` are the endpoint's."""
    record = structs.replace(attempt_record(error=error), attempt_id=name)
    kind = fields.pop("event", "user.created")
    recent.add(facts_of(structs.replace(endpoint(), **fields), structs.replace(message(), type=kind), record))


async def seen(api: Api, query: str = "", key: str | None = None) -> dict[str, Any]:
    """Ask over the control socket, or with a key."""
    answer = await api.ask("GET", f"/api/attempts{query}", key, uid=None if key else OWN_UID)
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    document["ids"] = [row["id"] for row in document["data"]]
    return document


async def test_a_reader_sees_each_attempt_once_and_in_order(api: Api) -> None:
    """Without a cursor the last attempts are returned, with one all later attempts, page by page."""
    recent = api.services.router.recent
    for number in range(5):
        add(recent, f"att_{number}")
    first = await seen(api, "?limit=2")
    assert (first["ids"], first["gap"]) == (["att_3", "att_4"], False)
    assert (await seen(api, f"?after={first['nextCursor']}"))["ids"] == []
    for number in range(5, 10):
        add(recent, f"att_{number}")
    after, pages = first["nextCursor"], []
    for _ in range(4):
        page = await seen(api, f"?limit=2&after={after}")
        pages.append(page["ids"])
        after = page["nextCursor"]
        assert not page["gap"]
    assert pages == [["att_5", "att_6"], ["att_7", "att_8"], ["att_9"], []]


async def test_filters_choose_and_the_cursor_goes_on(api: Api) -> None:
    """Filters are webhook, type or pattern, outcome and error; a cursor passes attempts that don't match."""
    recent = api.services.router.recent
    add(recent, "a", id="wh_1")
    add(recent, "b", id="wh_2", event="user.deleted", error=DeliveryError.TIMEOUT)
    add(recent, "c", id="wh_2", event="organization.created", error=DeliveryError.HTTP_5XX)
    for query, ids in {
        "?webhookId=wh_2": ["b", "c"],
        "?event=user.*": ["a", "b"],
        "?event=user.created": ["a"],
        "?outcome=succeeded": ["a"],
        "?outcome=failed": ["b", "c"],
        "?error=timeout": ["b"],
        "?outcome=succeeded&error=timeout": [],
    }.items():
        found = await seen(api, query)
        assert found["ids"] == ids, query
        assert (await seen(api, f"?after={found['nextCursor']}"))["ids"] == []
    start = (await seen(api))["nextCursor"]
    for name in "defgh":
        add(recent, name, event="user.created" if name in "eg" else "user.deleted")
    first = await seen(api, f"?event=user.created&limit=1&after={start}")
    second = await seen(api, f"?event=user.created&limit=1&after={first['nextCursor']}")
    assert first["ids"] + second["ids"] == ["e", "g"]
    assert (await seen(api, f"?after={second['nextCursor']}"))["ids"] == []
    for wrong in ("?event=*x", "?outcome=maybe", "?error=none", "?after=x", "?limit=0"):
        assert (await api.ask("GET", f"/api/attempts{wrong}", None, uid=OWN_UID)).status_code == 400


async def test_an_organization_sees_its_own_alone(api: Api) -> None:
    """A key bound to an organization gets only the attempts of its webhooks."""
    recent = api.services.router.recent
    add(recent, "ours", organization_id="acme")
    add(recent, "theirs", organization_id="other")
    add(recent, "nobodys")
    _, bound = await api.key("viewer", organizationId="acme")
    assert (await seen(api, key=bound))["ids"] == ["ours"]
    assert (await seen(api))["ids"] == ["ours", "theirs", "nobodys"]


async def test_a_gap_is_told(api: Api) -> None:
    """A reader gets `gap` if more attempts were made than are kept, and after a restart."""
    recent = api.services.router.recent
    add(recent, "first")
    start = (await seen(api))["nextCursor"]
    for number in range(MOST_KEPT):
        add(recent, f"{number}")
    page = await seen(api, f"?after={start}&limit=1")
    assert (page["ids"], page["gap"]) == (["0"], False)
    add(recent, "one more")
    page = await seen(api, f"?after={start}&limit=1")
    assert (page["ids"], page["gap"]) == (["1"], True)
    recent.run += 1
    page = await seen(api, f"?after={start}&limit=1")
    assert (page["ids"], page["gap"]) == (["1"], True)


async def test_what_is_told_of_an_attempt(api: Api) -> None:
    """An attempt of the feed has all fields of its log line, under the names of the API."""
    add(api.services.router.recent, "att_1", error=DeliveryError.TIMEOUT)
    [row] = (await seen(api))["data"]
    assert row == {
        "id": "att_1",
        "webhookId": endpoint().id,
        "organizationId": None,
        "deliveryId": "dlv_01JHMVZ3X5N7Q9S1T3V5W7Y9A1",
        "eventId": message().event_id,
        "event": "user.created",
        "traceparent": None,
        "sequence": 1,
        "number": 1,
        "trigger": "auto",
        "startedAt": "2025-01-15T10:30:00.000Z",
        "durationMs": 12,
        "waitedMs": 0,
        "remoteAddress": "192.0.2.1",
        "reused": None,
        "responseStatus": 200,
        "error": "timeout",
        "detail": "",
        "status": "succeeded",
        "refusals": 0,
        "nextAttemptAt": None,
        "breaker": "closed",
    }

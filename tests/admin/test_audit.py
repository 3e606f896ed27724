"""GET /api/audit: the fields of entries, their visibility and their order."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from webhookd.journal.queries import audit

A, B = "org-a", "org-b"
NEW_WEBHOOK = {"url": "https://hook.example/", "events": ["*"], "isActive": False, "organizationId": A}


@pytest.fixture
async def api(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> AsyncIterator[Api]:
    async with api_in_process(tmp_path, Signer()) as api:
        yield api


async def test_what_was_done_is_told_whole(api: Api) -> None:
    """An entry has actor, action, object, request, organization and fields, for keys, tokens and the control socket."""
    key_id, text = await api.key("admin", name="ci", organizationId=A)
    made = await api.ask("POST", "/api/webhooks", text, body=NEW_WEBHOOK)
    webhook = made.json()["id"]
    token = api.signer.token(sub="ada@app.example", role="operator", org=A)
    paused = await api.ask("PATCH", f"/api/webhooks/{webhook}", token, body={"isActive": True})
    await api.ask("POST", f"/api/webhooks/{webhook}/rotate-secret", None, body={"overlapSeconds": 5}, uid=OWN_UID)
    log = (await api.ask("GET", "/api/audit", text)).json()["data"]
    assert [(entry["action"], entry["actor"], entry["object"], entry["fields"]) for entry in log] == [
        (
            "webhook.rotate_secret",
            {"kind": "control", "id": str(OWN_UID), "role": "admin"},
            webhook,
            ["overlapSeconds"],
        ),
        ("webhook.change", {"kind": "token", "id": "ada@app.example", "role": "operator"}, webhook, ["isActive"]),
        (
            "webhook.create",
            {"kind": "key", "id": key_id, "role": "admin"},
            webhook,
            ["url", "events", "isActive", "organizationId"],
        ),
        (
            "key.create",
            {"kind": "control", "id": str(OWN_UID), "role": "admin"},
            key_id,
            ["role", "name", "organizationId"],
        ),
    ]
    assert {entry["organizationId"] for entry in log} == {A}
    assert log[1]["requestId"] == paused.headers["x-request-id"]
    stored = await api.world.journal.transactions.read(audit.page, None, **everything())
    assert made.json()["secret"] not in msgspec.json.encode(stored).decode()


async def test_the_log_is_read_in_pages_and_by_filters(api: Api) -> None:
    """Newest first, in pages, filtered by actor, action, object and time; a bound admin gets only its own entries."""
    names = [(await api.key("viewer", organizationId=organization))[0] for organization in (A, B, A, None)]
    _, bound = await api.key("admin", organizationId=A)

    async def log(query: str = "", credentials: str | None = None) -> Any:
        uid = OWN_UID if credentials is None else None
        return (await api.ask("GET", f"/api/audit{query}", credentials, uid=uid)).json()

    assert [entry["sequence"] for entry in (await log())["data"]] == [5, 4, 3, 2, 1]
    first = await log("?limit=2")
    second = await log(f"?limit=2&cursor={first['nextCursor']}")
    assert [entry["sequence"] for entry in first["data"] + second["data"]] == [5, 4, 3, 2]
    assert [entry["object"] for entry in (await log(f"?object={names[1]}"))["data"]] == [names[1]]
    assert [entry["sequence"] for entry in (await log("", bound))["data"]] == [5, 3, 1]
    assert (await log(f"?object={names[1]}", bound))["data"] == []
    assert len((await log(f"?actor={OWN_UID}&action=key.create"))["data"]) == 5
    assert (await log("?action=key.revoke"))["data"] == []
    assert (await log("?until=2000-01-01T00:00:00Z"))["data"] == []
    assert len((await log("?since=2000-01-01T00:00:00Z"))["data"]) == 5
    assert (await log("?action=key.made"))["code"] == "VALIDATION_ERROR"
    assert (await log("?cursor=c.bm8"))["code"] == "INVALID_CURSOR"


async def test_a_replayed_answer_is_no_second_change(api: Api) -> None:
    """A POST that is repeated with its Idempotency-Key has one entry; a refused one has none."""
    _, text = await api.key("admin")
    headers = {"idempotency-key": "once"}
    made = [await api.ask("POST", "/api/webhooks", text, body=NEW_WEBHOOK, headers=headers) for _ in range(2)]
    assert made[0].json() == made[1].json()
    refused = await api.ask("POST", "/api/webhooks", text, body=NEW_WEBHOOK | {"url": ""})
    assert refused.status_code == 400
    log = (await api.ask("GET", "/api/audit", text)).json()["data"]
    assert [entry["action"] for entry in log] == ["webhook.create", "key.create"]


async def test_no_answer_is_kept_for_another_subject(api: Api) -> None:
    """The same Idempotency-Key of two people, or of one person in two organizations, is independent."""
    headers = {"idempotency-key": "shared"}
    people = (("ada", A), ("bob", A), ("ada", B), ("ada", "*"))
    tokens = [api.signer.token(sub=subject, org=organization) for subject, organization in people]
    body = NEW_WEBHOOK | {"organizationId": None}
    made = [await api.ask("POST", "/api/webhooks", token, body=body, headers=headers) for token in tokens]
    assert len({answer.json()["id"] for answer in made}) == len(people)


def everything() -> dict[str, Any]:
    return dict.fromkeys(("actor", "action", "what", "since", "until", "cursor")) | {"limit": 100}

"""Tests, recovers, replays and Idempotency-Keys over HTTP."""

import json
from typing import Any

from tests.admin.conftest import Api
from tests.admin.test_refusals import problem
from tests.patience import wait_until

KEY = "Idempotency-Key"


def wait_for(api: Api, target: str, **wanted: object) -> Any:
    found: dict[str, Any] = {}

    def is_so() -> bool:
        found.update(api.admin.get(target).json())
        return all(found[name] == value for name, value in wanted.items())

    wait_until(is_so)
    return found


def test_a_test_answers_with_its_attempt(api: Api) -> None:
    """POST …/test sends now and returns the attempt, which is also recorded."""
    webhook = api.webhook(isActive=False)
    path = f"/api/webhooks/{webhook['id']}"
    attempt = api.admin.post(f"{path}/test").json()
    assert (attempt["trigger"], attempt["number"], attempt["error"]) == ("test", 1, "connect")
    [row] = api.admin.get(f"{path}/deliveries").json()["data"]
    assert (row["event"], row["status"], row["sequence"]) == ("webhook.test", "failed", 0)
    assert api.admin.get(f"/api/webhooks/deliveries/{row['id']}").json()["attemptLog"] == [attempt]
    assert problem(api.admin.post("/api/webhooks/wh_x/test"))[:2] == (404, "NOT_FOUND")
    api.admin.delete(path)


def test_a_replay_shows_its_progress(api: Api) -> None:
    """A dry run counts; a replay is 202 with its location, runs in the background, and can be stopped."""
    webhook = api.webhook(isActive=False, events=["user.email_verified"])
    path = f"/api/webhooks/{webhook['id']}"
    for _ in range(3):
        api.admin.post("/api/events", json={"type": "user.email_verified", "data": {}})
    since = webhook["createdAt"]
    dry = api.admin.post(f"{path}/replay", json={"since": since, "dryRun": True})
    assert (dry.status_code, dry.json()) == (200, {"matched": 3})
    begun = api.admin.post(f"{path}/replay", json={"since": since})
    assert (begun.status_code, begun.json()["matched"]) == (202, 3)
    assert begun.headers["location"] == f"{path}/replays/{begun.json()['id']}"
    done = wait_for(api, begun.headers["location"], status="done")
    assert done == {"id": begun.json()["id"], "matched": 3, "queued": 3, "status": "done"}
    assert api.admin.delete(begun.headers["location"]).json() == done
    assert len(api.admin.get(f"{path}/deliveries").json()["data"]) == 6
    recovered = api.admin.post(f"{path}/recover", json={"since": since, "events": ["user.*"], "dryRun": True})
    assert recovered.json() == {"matched": 0}
    assert problem(api.admin.get(f"{path}/replays/rpl_x"))[:2] == (404, "NOT_FOUND")
    api.admin.delete(path)


def test_what_can_not_be_replayed(api: Api) -> None:
    """A range without a start, one that ends before its start, and an invalid time are refused with a pointer."""
    webhook = api.webhook(isActive=False)
    path = f"/api/webhooks/{webhook['id']}"
    for body, pointer in (
        ({}, "/since"),
        ({"since": "yesterday"}, "/since"),
        ({"since": "2026-01-01T00:00:00Z", "until": "2025-01-01T00:00:00Z"}, "/until"),
        ({"since": "2026-01-01T00:00:00Z", "events": ["*.x"]}, "/events/0"),
        ({"since": "2026-01-01T00:00:00Z", "dryrun": True}, "/dryrun"),
    ):
        for kind in ("recover", "replay"):
            assert problem(api.admin.post(f"{path}/{kind}", json=body)) == (400, "VALIDATION_ERROR", [pointer])
    api.admin.delete(path)


def test_the_same_key_gets_the_same_answer(api: Api) -> None:
    """A repeated POST gets its first answer, secret included, and is done once."""
    body = {"url": "http://127.0.0.1:9/", "events": ["*"], "isActive": False, "description": "once"}
    first = api.admin.post("/api/webhooks", json=body, headers={KEY: "a-key"})
    again = api.admin.post("/api/webhooks", json=body, headers={KEY: '"a-key"'})
    assert (first.status_code, again.status_code) == (201, 201)
    assert again.content == first.content
    assert again.headers["location"] == first.headers["location"]
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert again.headers["x-request-id"] != first.headers["x-request-id"]
    listed = api.admin.get("/api/webhooks?limit=100").json()["data"]
    assert sum(webhook["description"] == "once" for webhook in listed) == 1
    other = api.admin.post("/api/webhooks", json=body | {"description": "twice"}, headers={KEY: "a-key"})
    assert problem(other)[:2] == (422, "IDEMPOTENCY_KEY_REUSED")
    secret = first.json()["secret"]
    written = b"".join(path.read_bytes() for path in api.directory.glob("webhookd.db*"))
    assert secret.encode() not in written
    api.admin.delete(first.headers["location"])


def test_a_key_is_its_callers_and_its_routes_own(api: Api) -> None:
    """The same Idempotency-Key with another API key or on another path is independent."""
    event = {"type": "user.created", "data": {}}
    first = api.admin.post("/api/events", json=event, headers={KEY: "shared"}).json()
    theirs = api.key("ingest").post("/api/events", json=event, headers={KEY: "shared"}).json()
    assert first["id"] != theirs["id"]
    made = api.admin.post("/api/keys", json={"role": "viewer"}, headers={KEY: "shared"})
    assert made.status_code == 201


def test_keys_that_are_none_are_refused(api: Api) -> None:
    """An empty, too long or repeated Idempotency-Key is a 400; on other methods and NDJSON it is ignored."""
    event = {"type": "user.created", "data": {}}
    for key in ('""', "k" * 256):
        assert problem(api.admin.post("/api/events", json=event, headers={KEY: key}))[0] == 400
    doubled = [(KEY, "a"), (KEY, "b")]
    assert problem(api.admin.post("/api/events", json=event, headers=doubled))[0] == 400
    assert api.admin.get("/api/webhooks", headers={KEY: '""'}).status_code == 200
    lines = json.dumps(event).encode() + b"\n"
    headers = {KEY: "lines", "content-type": "application/x-ndjson"}
    results = [api.admin.post("/api/events", content=lines, headers=headers).json()["id"] for _ in range(2)]
    assert results[0] != results[1]

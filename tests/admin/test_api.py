"""The behavior of the API, path by path."""

import json
import secrets

import pytest
from openapi_spec_validator import validate

from tests.admin.conftest import Api
from tests.patience import wait_until
from webhookd.base.event_types import STARTING_EVENT_TYPES


def test_a_webhook_from_its_creation_to_its_end(api: Api) -> None:
    """A webhook is created with its secret shown once, read, listed, changed by merge patch and deleted."""
    made = api.admin.post(
        "/api/webhooks",
        json={
            "url": "http://127.0.0.1:9/hook",
            "events": ["user.*", "subscription.renewed"],
            "description": "CRM",
            "metadata": {"team": "a"},
            "headers": {"X-Token": "hunter2"},
            "retry": {"delays": [1, 2.5]},
            "timeoutSeconds": 3,
        },
    )
    webhook = made.json()
    secret = webhook.pop("secret")
    assert made.headers["location"] == f"/api/webhooks/{webhook['id']}"
    assert secret.startswith("whsec_")
    assert webhook["headers"] == ["X-Token"]
    assert webhook["retry"] == {
        "delays": [1, 2.5],
        "jitter": 0.2,
        "maxRefusals": 10,
        "maxAgeSeconds": 259200,
        "parkAfter": 3,
    }
    assert webhook["health"]["reason"] == "Nothing queued"
    read = api.admin.get(f"/api/webhooks/{webhook['id']}")
    assert read.json() == webhook
    assert "hunter2" not in read.text
    assert webhook in api.admin.get("/api/webhooks?limit=100").json()["data"]
    patched = api.admin.patch(
        f"/api/webhooks/{webhook['id']}",
        content=json.dumps({"description": "new", "metadata": {"team": None, "b": "c"}, "retry": None}),
        headers={"content-type": "application/merge-patch+json"},
    ).json()
    assert (patched["description"], patched["metadata"], patched["url"]) == ("new", {"b": "c"}, webhook["url"])
    assert patched["retry"]["delays"] == [600]
    assert patched["updatedAt"] >= webhook["updatedAt"]
    assert api.admin.delete(f"/api/webhooks/{webhook['id']}").json() == {"id": webhook["id"], "deleted": True}
    assert api.admin.get(f"/api/webhooks/{webhook['id']}").status_code == 404


def test_a_secret_is_rotated_with_an_overlap(api: Api) -> None:
    """A rotation shows the new secret once; during the overlap both secrets sign."""
    webhook = api.webhook(isActive=False, signature={"ed25519": True, "form": "hex"})
    path = f"/api/webhooks/{webhook['id']}"
    imported = "whsec_" + "QUJD" * 8
    rotated = api.admin.post(f"{path}/rotate-secret", json={"secret": imported, "overlapSeconds": 60}).json()
    assert (rotated["secret"], rotated["secretHint"]) == (imported, "whsec_…QUJD")
    assert rotated["previousSecretExpiresAt"] is not None
    assert rotated["ed25519PublicKey"].startswith("whpk_")
    assert "secret" not in api.admin.get(path).json()
    api.admin.post("/api/events", json={"type": "user.created", "data": {}})
    [delivery, *_] = api.admin.get(f"{path}/deliveries").json()["data"]
    request = api.admin.get(f"/api/webhooks/deliveries/{delivery['id']}").json()["request"]
    assert [token.split(",")[0] for token in request["headers"]["webhook-signature"].split(" ")] == ["v1", "v1", "v1a"]
    again = api.admin.post(f"{path}/rotate-secret", json={"overlapSeconds": 0}).json()
    assert again["previousSecretExpiresAt"] is None
    api.admin.delete(path)


def test_an_inactive_webhook_holds_and_drops(api: Api) -> None:
    """Held deliveries are pending, dropped ones are canceled, and health says why no request is sent."""
    held, dropping = api.webhook(isActive=False), api.webhook(isActive=False, whenInactive="drop")
    result = api.admin.post("/api/events", json={"type": "user.created", "data": {"a": 1}}).json()
    assert result["deliveries"] >= 2
    for webhook, status in ((held, "pending"), (dropping, "canceled")):
        page = api.admin.get(f"/api/webhooks/{webhook['id']}/deliveries").json()
        assert [(row["status"], row["eventId"], row["sequence"]) for row in page["data"]] == [(status, result["id"], 1)]
    health = api.admin.get(f"/api/webhooks/{held['id']}").json()["health"]
    assert (health["queued"], health["sending"], health["reason"]) == (1, False, "Held: disabled by hand")
    [row] = api.admin.get(f"/api/webhooks/{held['id']}/deliveries").json()["data"]
    api.admin.delete(f"/api/webhooks/{held['id']}")
    api.admin.delete(f"/api/webhooks/{dropping['id']}")
    after = api.admin.get(f"/api/webhooks/deliveries/{row['id']}").json()
    assert (after["status"], after["nextAttemptAt"]) == ("canceled", None)
    conflict = api.admin.post(f"/api/webhooks/deliveries/{row['id']}/retry")
    assert (conflict.status_code, conflict.json()["code"]) == (409, "CONFLICT")


def test_a_failed_request_is_on_record_and_retried_by_hand(api: Api) -> None:
    """Every attempt is readable with its error; a retry ends the back-off and is marked as manual."""
    webhook = api.webhook()
    api.admin.post("/api/events", json={"type": "user.created", "data": {}})

    def wait_for(attempts: int) -> dict[str, object]:
        row: dict[str, object] = {}

        def is_so() -> bool:
            [found] = api.admin.get(f"/api/webhooks/{webhook['id']}/deliveries").json()["data"]
            row.update(found)
            return bool(row["attempts"] == attempts and not row["inFlight"])

        wait_until(is_so)
        return row

    row = wait_for(1)
    assert (row["status"], row["error"], row["refusals"]) == ("pending", "connect", 0)
    retried = api.admin.post(f"/api/webhooks/deliveries/{row['id']}/retry", json={}).json()
    assert retried["status"] == "pending"
    row = wait_for(2)
    detail = api.admin.get(f"/api/webhooks/deliveries/{row['id']}").json()
    assert [(each["number"], each["trigger"], each["error"]) for each in detail["attemptLog"]] == [
        (1, "auto", "connect"),
        (2, "manual", "connect"),
    ]
    assert detail["attemptLog"][0]["remoteAddress"] == "127.0.0.1:9"
    assert detail["request"]["body"].startswith('{"id":"evt_')
    assert api.admin.get(f"/api/webhooks/{webhook['id']}").json()["health"]["consecutiveFailures"] == 2
    api.admin.delete(f"/api/webhooks/{webhook['id']}")


def test_deliveries_are_filtered_and_paged(api: Api) -> None:
    """Filters by status, event, event id and time; pages follow each other without a gap, newest first."""
    webhook = api.webhook(isActive=False)
    path = f"/api/webhooks/{webhook['id']}/deliveries"
    ids = [
        api.admin.post("/api/events", json={"type": kind, "data": {}}).json()["id"]
        for kind in ("user.created", "user.updated", "user.created", "user.deleted", "user.created")
    ]
    assert [row["eventId"] for row in api.admin.get(path).json()["data"]] == ids[::-1]
    paged, cursor = [], ""
    while True:
        page = api.admin.get(f"{path}?limit=2{cursor}").json()
        paged += [row["eventId"] for row in page["data"]]
        if page["nextCursor"] is None:
            break
        cursor = f"&cursor={page['nextCursor']}"
    assert paged == ids[::-1]
    assert len(api.admin.get(f"{path}?event=user.created").json()["data"]) == 3
    assert [row["eventId"] for row in api.admin.get(f"{path}?eventId={ids[1]}").json()["data"]] == [ids[1]]
    assert len(api.admin.get(f"{path}?status=pending").json()["data"]) == 5
    assert api.admin.get(f"{path}?status=failed").json()["data"] == []
    assert api.admin.get(f"{path}?since=2100-01-01T00:00:00Z").json()["data"] == []
    assert api.admin.get(f"{path}?until=2000-01-01T00:00:00Z").json()["data"] == []
    assert len(api.admin.get(f"{path}?limit=100000").json()["data"]) == 5
    api.admin.delete(f"/api/webhooks/{webhook['id']}")


def test_events_come_in_one_by_one_and_as_lines(api: Api) -> None:
    """One event is 202 with its result, a duplicate is reported, and each line of NDJSON gets a result in order."""
    first = api.admin.post("/api/events", json={"type": "user.created", "data": {"a": 1}, "id": "my-id"})
    assert (first.status_code, first.json()["duplicate"]) == (202, False)
    again = api.admin.post("/api/events", json={"type": "user.updated", "data": {}, "id": "my-id"})
    assert (again.status_code, again.json()) == (202, {**first.json(), "duplicate": True})
    assert api.admin.get("/api/events/my-id").json()["data"] == {"a": 1}
    lines = [
        b'{"type": "user.created", "data": {}, "id": "l1"}',
        b"",
        b"nonsense",
        b'{"type": "user.created", "data": {}, "id": "l1"}',
        b'{"type": "user.created", "data": {"pad": "' + b"x" * 262_144 + b'"}}',
        b"\xff",
        b'{"type": "user.created", "data": {}, "id": "l2"}',
    ]
    answer = api.admin.post("/api/events", content=b"\n".join(lines), headers={"content-type": "application/x-ndjson"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    results = [json.loads(line) for line in answer.text.splitlines()]
    assert [result.get("id") or result["error"]["code"] for result in results] == [
        "l1",
        "MALFORMED_JSON",
        "l1",
        "PAYLOAD_TOO_LARGE",
        "MALFORMED_JSON",
        "l2",
    ]
    assert results[2]["duplicate"] is True


def test_the_feed_skips_nothing(api: Api) -> None:
    """A reader that continues after the last event, by its id or a cursor, gets each event once, in order."""
    start = api.admin.post("/api/events", json={"type": "user.created", "data": {}}).json()["id"]
    sent = [api.admin.post("/api/events", json={"type": "user.created", "data": {}}).json()["id"] for _ in range(7)]
    seen: list[str] = []
    after = start
    while page := api.admin.get(f"/api/events?after={after}&limit=3").json()["data"]:
        seen += [event["id"] for event in page]
        after = seen[-1]
    assert seen == sent
    first = api.admin.get(f"/api/events?after={start}&limit=3").json()
    second = api.admin.get(f"/api/events?after={first['nextCursor']}&limit=3").json()
    assert [event["id"] for event in first["data"] + second["data"]] == sent[:6]


def test_the_catalogue(api: Api) -> None:
    """The catalogue starts with the documented names; a name can be added, described, used and removed."""
    names = [row["name"] for row in api.admin.get("/api/event-types?limit=100").json()["data"]]
    assert set(STARTING_EVENT_TYPES) <= set(names)
    assert names == sorted(names)
    put = api.admin.put("/api/event-types/order.paid", json={"description": "Paid", "schema": {"type": "object"}})
    assert put.json() == {
        "name": "order.paid",
        "description": "Paid",
        "schema": {"type": "object"},
        "example": None,
        "deprecated": False,
    }
    assert api.admin.post("/api/events", json={"type": "order.paid", "data": {}}).status_code == 202
    assert api.admin.delete("/api/event-types/order.paid").status_code == 200
    assert api.admin.post("/api/events", json={"type": "order.paid", "data": {}}).json()["code"] == "UNKNOWN_EVENT_TYPE"
    assert api.admin.put("/api/event-types/webhook.failing", json={}).status_code == 409
    assert api.admin.put("/api/event-types/bad%20name", json={}).status_code == 400


def test_organizations_see_their_own_things_alone(api: Api) -> None:
    """A bound key sets its organization on what it creates, sees only its objects, and may name no other."""
    name = secrets.token_hex(4)
    acme, other = api.key("admin", organizationId=f"acme-{name}"), api.key("admin", organizationId=f"other-{name}")
    body = {"url": "http://127.0.0.1:9/", "events": ["*"], "isActive": False}
    mine = acme.post("/api/webhooks", json=body).json()
    assert mine["organizationId"] == f"acme-{name}"
    shared = api.webhook(isActive=False)
    assert acme.post("/api/webhooks", json={**body, "organizationId": "x"}).json()["code"] == "FORBIDDEN"
    assert [row["id"] for row in acme.get("/api/webhooks").json()["data"]] == [mine["id"]]
    for target in (f"/api/webhooks/{mine['id']}", f"/api/webhooks/{mine['id']}/deliveries"):
        assert other.get(target).status_code == 404
    assert other.delete(f"/api/webhooks/{mine['id']}").status_code == 404
    event = acme.post("/api/events", json={"type": "user.created", "data": {}, "id": f"e-{name}"}).json()
    assert event["deliveries"] >= 2  # its own webhook, and those of no organization
    assert other.get(f"/api/events/e-{name}").status_code == 404
    taken = other.post("/api/events", json={"type": "user.created", "data": {}, "id": f"e-{name}"})
    assert (taken.status_code, taken.json()["code"]) == (409, "CONFLICT")
    unbound = api.admin.post("/api/events", json={"type": "user.created", "data": {}}).json()
    assert unbound["id"] not in [
        row["eventId"] for row in acme.get(f"/api/webhooks/{mine['id']}/deliveries").json()["data"]
    ]
    [delivery] = acme.get(f"/api/webhooks/{mine['id']}/deliveries").json()["data"]
    assert '"organizationId":"acme-' in acme.get(f"/api/webhooks/deliveries/{delivery['id']}").json()["request"]["body"]
    assert other.get(f"/api/webhooks/deliveries/{delivery['id']}").status_code == 404
    assert other.post(f"/api/webhooks/deliveries/{delivery['id']}/retry").status_code == 404
    assert acme.put("/api/event-types/x.y", json={}).status_code == 403
    own = acme.post("/api/keys", json={"role": "viewer"}).json()
    assert own["organizationId"] == f"acme-{name}"
    assert own["id"] in [key["id"] for key in acme.get("/api/keys").json()["data"]]
    assert len(acme.get("/api/keys?limit=100").json()["data"]) == 2
    assert other.delete(f"/api/keys/{own['id']}").status_code == 404
    for webhook in (mine, shared):
        api.admin.delete(f"/api/webhooks/{webhook['id']}")


def test_the_description_is_valid_and_whole(api: Api) -> None:
    """The OpenAPI document is valid 3.1, describes the catalogue's events, and names every code of its answers."""
    document = api.admin.get("/api/openapi.json").json()
    validate(document)
    assert document["openapi"].startswith("3.1")
    assert "user.created" in document["webhooks"]
    assert {"/healthz", "/readyz", "/api/webhooks/{webhookId}"} <= set(document["paths"])


def test_health_needs_no_key(api: Api) -> None:
    """Liveness and readiness need no key; every answer has a request id and must not be cached."""
    nobody = api.client(None)
    for path, answer in (("/healthz", {"status": "ok"}), ("/readyz", {"status": "ok", "reasons": []})):
        response = nobody.get(path)
        assert (response.status_code, response.json()) == (200, answer)
        assert response.headers["x-request-id"].startswith("req_")
        assert response.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("field", ["secret", "previousSecret", "key", "keyHash", "ed25519Secret"])
def test_no_list_shows_a_secret(api: Api, field: str) -> None:
    """Secrets and keys that are shown once are in no later answer."""
    webhook = api.webhook(isActive=False, signature={"ed25519": True})
    for target in ("/api/webhooks", "/api/keys", f"/api/webhooks/{webhook['id']}"):
        assert f'"{field}"' not in api.admin.get(target).text
    api.admin.delete(f"/api/webhooks/{webhook['id']}")


def test_a_304_ends_with_its_head(api: Api) -> None:
    """Over a real connection an unchanged webhook is a 304 without a body, and the connection goes on."""
    webhook = api.webhook(isActive=False)
    path = f"/api/webhooks/{webhook['id']}"
    tag = api.admin.get(path).headers["etag"]
    for _ in range(3):
        answer = api.admin.get(path, headers={"if-none-match": tag})
        assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
        assert api.admin.get(path).json()["id"] == webhook["id"]
    assert api.admin.patch(path, json={"description": "x"}, headers={"if-match": '"nonsense"'}).status_code == 412
    api.admin.delete(path)

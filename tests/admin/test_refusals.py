"""Invalid input, path by path: it gets its code, a pointer to a wrong field, and changes nothing."""

from typing import Any

import pytest

from tests.admin.conftest import Api
from tests.admin.raw import exchange

GOOD = {"url": "http://127.0.0.1:9/", "events": ["user.created"]}
BAD_FIELD = "VALIDATION_ERROR"
EVENT = {"type": "user.created", "data": {}}


def problem(answer: Any) -> tuple[int, str, list[str]]:
    """Check the format of a problem document; return its status, code and pointers."""
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert answer.headers["x-request-id"] == document["requestId"]
    assert document["type"] == f"urn:webhookd:error:{document['code'].lower()}" or document["type"].startswith(
        "urn:webhookd:error:"
    )
    assert document["status"] == answer.status_code
    assert document["title"]
    assert document["detail"]
    return answer.status_code, document["code"], [error["pointer"] for error in document["errors"]]


@pytest.mark.parametrize(
    ("change", "code", "pointer"),
    [
        ({"url": "http://10.0.0.1:9/"}, "URL_NOT_ALLOWED", "/url"),
        ({"url": "ftp://127.0.0.1/"}, "URL_NOT_ALLOWED", "/url"),
        ({"url": "http://127.0.0.1:9/#a"}, "URL_NOT_ALLOWED", "/url"),
        ({"url": "http://user:pass@127.0.0.1:9/"}, "URL_NOT_ALLOWED", "/url"),
        ({"url": "nonsense"}, "URL_NOT_ALLOWED", "/url"),
        ({"url": ""}, "VALIDATION_ERROR", "/url"),
        ({"url": 7}, "VALIDATION_ERROR", "/url"),
        ({"url": None}, "VALIDATION_ERROR", "/url"),
        ({"events": []}, "VALIDATION_ERROR", "/events"),
        ({"events": "*"}, "VALIDATION_ERROR", "/events"),
        ({"events": ["user.unheard_of"]}, "UNKNOWN_EVENT_TYPE", "/events/0"),
        ({"events": ["user.created", "*.created"]}, "VALIDATION_ERROR", "/events/1"),
        ({"events": ["user*"]}, "VALIDATION_ERROR", "/events/0"),
        ({"events": [""]}, "VALIDATION_ERROR", "/events/0"),
        ({"evnets": ["*"]}, "VALIDATION_ERROR", ""),
        ({"isActive": "yes"}, "VALIDATION_ERROR", "/isActive"),
        ({"timeoutSeconds": 31}, "VALIDATION_ERROR", "/timeoutSeconds"),
        ({"timeoutSeconds": 0}, "VALIDATION_ERROR", "/timeoutSeconds"),
        ({"retry": {"delays": []}}, "VALIDATION_ERROR", "/retry/delays"),
        ({"retry": {"delays": [-1]}}, "VALIDATION_ERROR", "/retry/delays/0"),
        ({"retry": {"jitter": 2}}, "VALIDATION_ERROR", "/retry/jitter"),
        ({"retry": {"often": 2}}, "VALIDATION_ERROR", "/retry"),
        ({"ordering": "loose"}, "VALIDATION_ERROR", "/ordering"),
        ({"concurrency": 0}, "VALIDATION_ERROR", "/concurrency"),
        ({"rateLimit": {"perSecond": 0}}, "VALIDATION_ERROR", "/rateLimit/perSecond"),
        ({"metadata": {"a": 1}}, "VALIDATION_ERROR", "/metadata"),
        ({"organizationId": "a b"}, "VALIDATION_ERROR", "/organizationId"),
        ({"headers": {"Host": "x"}}, "VALIDATION_ERROR", "/headers/Host"),
        ({"headers": {"X-A": "a\r\nb"}}, "VALIDATION_ERROR", "/headers/X-A"),
        ({"secret": "whsec_short"}, "VALIDATION_ERROR", "/secret"),
        ({"signature": {"form": "md5"}}, "VALIDATION_ERROR", "/signature/form"),
    ],
)
def test_a_webhook_that_can_not_be(api: Api, change: dict[str, object], code: str, pointer: str) -> None:
    """A webhook with a wrong field is refused with the field's pointer, and none is created."""
    before = api.admin.get("/api/webhooks?limit=100").json()["data"]
    status, found, pointers = problem(api.admin.post("/api/webhooks", json=GOOD | change))
    assert (status, found) == (400, code)
    assert any(each.startswith(pointer) for each in pointers), pointers
    assert api.admin.get("/api/webhooks?limit=100").json()["data"] == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"type": "user.unheard_of"}, "UNKNOWN_EVENT_TYPE"),
        ({"type": "webhook.disabled"}, "UNKNOWN_EVENT_TYPE"),
        ({"type": "webhook.test"}, "UNKNOWN_EVENT_TYPE"),
        ({"type": "user created"}, "VALIDATION_ERROR"),
        ({"type": None}, "VALIDATION_ERROR"),
        ({"data": []}, "VALIDATION_ERROR"),
        ({"data": "text"}, "VALIDATION_ERROR"),
        ({"data": None}, "VALIDATION_ERROR"),
        ({"id": "has.dot"}, "VALIDATION_ERROR"),
        ({"id": ""}, "VALIDATION_ERROR"),
        ({"id": "x" * 65}, "VALIDATION_ERROR"),
        ({"timestamp": "yesterday"}, "VALIDATION_ERROR"),
        ({"timestamp": "2026-01-01T00:00:00"}, "VALIDATION_ERROR"),
        ({"organizationId": "a/b"}, "VALIDATION_ERROR"),
        ({"orderingKey": ""}, "VALIDATION_ERROR"),
        ({"traceparent": "00-00000000000000000000000000000000-0000000000000000-01"}, "VALIDATION_ERROR"),
        ({"payload": {}}, "VALIDATION_ERROR"),
    ],
)
def test_an_event_that_can_not_be(api: Api, change: dict[str, object], code: str) -> None:
    """An event with a wrong field is refused and stored nowhere."""
    assert problem(api.admin.post("/api/events", json={**EVENT, "id": "never", **change}))[:2] == (400, code)
    assert problem(api.admin.get("/api/events/never"))[:2] == (404, "NOT_FOUND")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "MALFORMED_JSON"),
        (b"{", "MALFORMED_JSON"),
        (b"[]", "VALIDATION_ERROR"),
        (b"\xff\xfe", "MALFORMED_JSON"),
        (b'{"type": "user.created", "data": {"a": "\xff"}}', "MALFORMED_JSON"),
        (b'{"type": "user.created", "data": ' + b'{"a":' * 200 + b"1" + b"}" * 201, "MALFORMED_JSON"),
        (b'{"type": "user.created", "data": {"a": NaN}}', "MALFORMED_JSON"),
        (b'{"type": "user.created", "data": {}} trailing', "MALFORMED_JSON"),
    ],
)
def test_bodies_that_are_no_json(api: Api, body: bytes, code: str) -> None:
    """A body that isn't UTF-8 JSON of bounded depth is refused on every path."""
    headers = {"content-type": "application/json"}
    assert problem(api.admin.post("/api/events", content=body, headers=headers))[:2] == (400, code)
    for path in ("/api/webhooks", "/api/keys"):
        # What is no such document may be found out before it is found to be no JSON.
        assert problem(api.admin.post(path, content=body, headers=headers))[:2] in {(400, code), (400, BAD_FIELD)}


def test_bodies_that_are_too_large_or_of_another_kind(api: Api) -> None:
    """A body over the limit is 413, chunked or not; another media type is 415."""
    large = b'{"type": "user.created", "data": {"a": "' + b"x" * 262_144 + b'"}}'
    headers = {"content-type": "application/json"}
    assert problem(api.admin.post("/api/events", content=large, headers=headers))[:2] == (413, "PAYLOAD_TOO_LARGE")
    chunks = iter([large[:1000], large[1000:]])
    assert problem(api.admin.post("/api/events", content=chunks, headers=headers))[:2] == (413, "PAYLOAD_TOO_LARGE")
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        answer = api.admin.post("/api/events", content=b"{}", headers={"content-type": media_type})
        assert problem(answer)[:2] == (415, "UNSUPPORTED_MEDIA_TYPE")


@pytest.mark.parametrize(
    ("target", "status", "code"),
    [
        ("/api/webhooks?limit=0", 400, "VALIDATION_ERROR"),
        ("/api/webhooks?limit=x", 400, "VALIDATION_ERROR"),
        ("/api/webhooks?limit=1&limit=2", 400, "VALIDATION_ERROR"),
        ("/api/webhooks?lmit=1", 400, "VALIDATION_ERROR"),
        ("/api/webhooks?cursor=nonsense", 400, "INVALID_CURSOR"),
        ("/api/webhooks?cursor=c.e30", 400, "INVALID_CURSOR"),
        ("/api/events?cursor=nonsense", 400, "INVALID_CURSOR"),
        ("/api/events?after=evt_unknown", 400, "INVALID_CURSOR"),
        ("/api/keys?cursor=%00", 400, "VALIDATION_ERROR"),
        ("/api/event-types?cursor=~", 400, "INVALID_CURSOR"),
        ("/api/webhooks/wh_01JHMVZ3X5N7Q9S1T3V5W7Y9A1", 404, "NOT_FOUND"),
        ("/api/webhooks/nonsense", 404, "NOT_FOUND"),
        ("/api/webhooks/wh_01JHMVZ3X5N7Q9S1T3V5W7Y9A1/deliveries", 404, "NOT_FOUND"),
        ("/api/webhooks/deliveries/dlv_01JHMVZ3X5N7Q9S1T3V5W7Y9A1", 404, "NOT_FOUND"),
        ("/api/events/unknown", 404, "NOT_FOUND"),
        ("/api/nothing", 404, "NOT_FOUND"),
        ("/api/", 404, "NOT_FOUND"),
        ("/api//webhooks", 404, "NOT_FOUND"),
        ("/nothing", 404, "NOT_FOUND"),
    ],
)
def test_targets_that_lead_nowhere(api: Api, target: str, status: int, code: str) -> None:
    """Unknown ids, paths, parameters and cursors each get their own code."""
    assert problem(api.admin.get(target))[:2] == (status, code)


def test_methods_that_are_not_there(api: Api) -> None:
    """An unknown method of a path is 405 with the allowed methods."""
    answer = api.admin.put("/api/webhooks", json={})
    assert problem(answer)[:2] == (405, "METHOD_NOT_ALLOWED")
    assert answer.headers["allow"] == "GET, HEAD, POST"
    assert problem(api.admin.request("TRACE", "/healthz"))[0] == 405
    assert api.admin.head("/healthz").status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [None, "", "Bearer", "Basic eDp5", "Bearer nonsense", "Bearer whd_admin_x_y", "Bearer whd_admin_\xe9"],
)
def test_callers_without_a_good_key(api: Api, authorization: str | None) -> None:
    """Without a key in force the answer doesn't show whether a path exists."""
    headers = [] if authorization is None else [(b"authorization", authorization.encode("latin-1"))]
    nobody = api.client(None)
    for path in ("/api/webhooks", "/api/nothing", "/api/openapi.json"):
        answer = nobody.get(path, headers=headers)
        assert problem(answer)[:2] == (401, "UNAUTHORIZED")
        assert answer.headers["www-authenticate"].startswith("Bearer")


def test_an_altered_revoked_or_expired_key_is_no_key(api: Api) -> None:
    """A key with a wrong character, a revoked key and an expired key are refused."""
    made = api.admin.post("/api/keys", json={"role": "viewer"}).json()
    altered = made["key"][:-1] + ("A" if made["key"][-1] != "A" else "B")
    assert api.client(made["key"]).get("/api/webhooks").status_code == 200
    assert problem(api.client(altered).get("/api/webhooks"))[0] == 401
    assert api.admin.delete(f"/api/keys/{made['id']}").json() == {"id": made["id"], "deleted": True}
    assert problem(api.client(made["key"]).get("/api/webhooks"))[0] == 401
    assert problem(api.admin.delete(f"/api/keys/{made['id']}"))[:2] == (404, "NOT_FOUND")
    past = api.admin.post("/api/keys", json={"role": "viewer", "expiresAt": "2020-01-01T00:00:00Z"})
    assert problem(past) == (400, "VALIDATION_ERROR", ["/expiresAt"])


@pytest.mark.parametrize(
    ("patch", "pointer"),
    [
        ({"id": "x"}, "/id"),
        ({"concurrency": 0}, "/concurrency"),
        ({"retry": {"delays": [0]}}, "/retry/delays/0"),
        ({"metadata": {"a": {"b": "c"}}}, "/metadata/a"),
        ({"rateLimit": {"burst": 5}}, "/rateLimit/perSecond"),
    ],
)
def test_of_a_patch_its_own_mistake_is_told_alone(api: Api, patch: dict[str, object], pointer: str) -> None:
    """A refused patch names only its own wrong fields, not settings that the webhook has already."""
    webhook = api.webhook(retry={"delays": [1, 2]})
    answer = api.admin.patch(f"/api/webhooks/{webhook['id']}", json=patch)
    assert problem(answer) == (400, "VALIDATION_ERROR", [pointer])
    assert answer.json()["detail"].startswith(f"{pointer}: ")


def test_a_path_begins_with_one_slash(api: Api) -> None:
    """A path with two leading slashes is a 404: the router would ignore one, but a proxy that blocks /api/ wouldn't."""
    host, port = api.url.removeprefix("http://").split(":")
    for path in (b"//api/webhooks", b"///api/webhooks", b"//healthz", b"//", b"//sign-in"):
        request = b"GET %b HTTP/1.1\r\nhost: x\r\nauthorization: Bearer %b\r\n\r\n" % (path, api.first_key.encode())
        [reply], _ = exchange((host, int(port)), [request])
        assert reply.status == 404, path


def test_an_operator_changes_is_active_alone(api: Api) -> None:
    """An operator may disable and enable a webhook, and change nothing else."""
    webhook, operator = api.webhook(), api.key("operator")
    path = f"/api/webhooks/{webhook['id']}"
    assert operator.patch(path, json={"isActive": False}).json()["disabledReason"] == "manual"
    assert problem(operator.patch(path, json={"isActive": True, "description": "x"}))[:2] == (403, "FORBIDDEN")
    assert problem(operator.patch(path, json={"url": "http://127.0.0.1:9/x"}))[:2] == (403, "FORBIDDEN")
    assert operator.patch(path, json={"isActive": True}).json()["isActive"] is True

"""ETag, If-Match and If-None-Match: what changes a tag, which conditions hold, and that checks are atomic."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import trio

from tests.admin.inprocess import OWN_UID, Api, Signer, api_in_process
from webhookd.admin.app import all_operations
from webhookd.admin.operations import takes_preconditions
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import DisabledReason
from webhookd.journal import EndpointChanges
from webhookd.journal.queries import endpoints

WEBHOOK = {"url": "https://a.example/", "events": ["*"]}
OLD = '"194aa2b8e5c"'


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    async with api_in_process(tmp_path, Signer()) as api:
        yield api


async def ask(api: Api, method: str, path: str, body: object = None, **conditions: str) -> httpx.Response:
    headers = {name.replace("_", "-"): value for name, value in conditions.items()}
    return await api.ask(method, path, None, body=body, uid=OWN_UID, headers=headers)


async def create(api: Api, **fields: object) -> tuple[str, str]:
    """Return a new webhook's path and tag."""
    made = await ask(api, "POST", "/api/webhooks", {**WEBHOOK, **fields})
    assert made.status_code == 201, made.text
    return made.headers["location"], made.headers["etag"]


async def tag_now(api: Api, path: str) -> str:
    tag: str = (await ask(api, "GET", path)).headers["etag"]
    return tag


async def test_each_change_gives_another_tag_and_deliveries_none(api: Api) -> None:
    """Every change of the settings, by any route, gives a new tag; deliveries don't change it."""
    path, first = await create(api)
    webhook_id = path.rpartition("/")[2]
    tags = [first]
    assert await tag_now(api, path) == first
    await api.world.publish("e1")
    while not api.world.sender.sent:
        await trio.lowlevel.checkpoint()
    assert await tag_now(api, path) == first
    await ask(api, "POST", f"{path}/test")
    assert await tag_now(api, path) == first
    for method, route, body in (
        ("PATCH", path, {"description": "a"}),
        ("PATCH", path, {"description": "a"}),
        ("PUT", path, {"headers": {"X-A": "1"}}),
        ("PATCH", path, {"headers": {"X-A": "2"}}),
        ("POST", f"{path}/rotate-secret", {}),
        ("PATCH", path, {"isActive": False}),
        ("PATCH", path, {"isActive": True}),
    ):
        answer = await ask(api, method, route, body)
        assert answer.status_code == 200, answer.text
        tags.append(answer.headers["etag"])
        assert await tag_now(api, path) == tags[-1]
    endpoint = await api.world.journal.transactions.read(endpoints.get, webhook_id)
    state = await api.world.journal.webhooks.state(endpoint.pk)
    await api.world.journal.transactions.write(
        endpoints.disable, endpoint.pk, DisabledReason.GONE, api.world.clock.now(), forgiven=state.forgiven
    )
    tags.append(await tag_now(api, path))
    # All within one millisecond of this clock.
    assert len(set(tags)) == len(tags)
    assert all(tag.startswith('"') and tag.endswith('"') for tag in tags)


HOLDS = (
    "{tag}",
    "*",
    " * ",
    "{tag}, " + OLD,
    OLD + ",{tag}",
    OLD + " ,, \t {tag} ,",
    '"a,b", {tag}',
)
FAILS = (OLD, '"nonsense"', '""', "W/{tag}", "W/" + OLD, '"a", "b", W/"c"')
NO_TAGS = (
    "", " ", ",", "nonsense", "194aa2b8e5c", '"open', 'open"', '"a" "b"', '"a""b"', '*, "a"', 'w/"a"', "W/", "W/*",
)  # fmt: skip


@pytest.mark.parametrize("route", ["PATCH", "PUT", "DELETE", "GET", "POST /rotate-secret"])
async def test_if_match_is_held_to(api: Api, route: str) -> None:
    """A change is made if one tag matches strongly; else it is a 412 and nothing changes."""
    method, _, rest = route.partition(" ")
    body = {"description": "changed"} if method in {"PATCH", "PUT"} else None
    path, tag = await create(api)
    for condition in FAILS:
        answer = await ask(api, method, path + rest, body, If_Match=condition.format(tag=tag))
        assert (answer.status_code, answer.json()["code"]) == (412, "PRECONDITION_FAILED"), condition
        assert answer.headers["content-type"] == "application/problem+json"
        assert await tag_now(api, path) == tag
    log = await ask(api, "GET", "/api/audit")
    assert [entry["action"] for entry in log.json()["data"]] == ["webhook.create"]
    for condition in HOLDS:
        path, tag = await create(api)
        answer = await ask(api, method, path + rest, body, If_Match=condition.format(tag=tag))
        assert answer.status_code == 200, (condition, answer.text)


@pytest.mark.parametrize("field", ["If-Match", "If-None-Match"])
async def test_what_is_no_tag_is_refused(api: Api, field: str) -> None:
    """An invalid condition is a 400 that shows the format of a tag: it must not be ignored."""
    path, tag = await create(api)
    for condition in NO_TAGS:
        for method, body in (("PATCH", {"description": "changed"}), ("DELETE", None), ("GET", None)):
            answer = await ask(api, method, path, body, **{field: condition})
            assert (answer.status_code, answer.json()["code"]) == (400, "VALIDATION_ERROR"), condition
            assert field in answer.json()["detail"]
    assert await tag_now(api, path) == tag


async def test_several_fields_are_one_list(api: Api) -> None:
    """A condition may be in several headers, of which one matching tag is enough."""
    path, tag = await create(api)
    transport: Any = [("if-match", OLD), ("if-match", tag)]
    client = api.client(OWN_UID)
    assert (await client.patch(path, json={"description": "x"}, headers=transport)).status_code == 200
    assert (await client.patch(path, json={"description": "y"}, headers=transport)).status_code == 412


async def test_a_reader_that_has_the_settings_gets_nothing(api: Api) -> None:
    """If-None-Match with a weakly matching tag is a 304 without a body for GET, and a 412 for a change."""
    path, tag = await create(api)
    for condition in (tag, f"W/{tag}", f"{OLD}, {tag}", "*"):
        for method in ("GET", "HEAD"):
            answer = await ask(api, method, path, If_None_Match=condition)
            assert (answer.status_code, answer.content, answer.headers["etag"]) == (304, b"", tag)
            assert "content-type" not in answer.headers
        for method, body in (("PATCH", {"description": "x"}), ("DELETE", None)):
            answer = await ask(api, method, path, body, If_None_Match=condition)
            assert answer.json()["code"] == "PRECONDITION_FAILED"
    read = await ask(api, "GET", path, If_None_Match=OLD)
    assert (read.status_code, read.json()["description"]) == (200, "")
    assert (await ask(api, "PATCH", path, {"description": "x"}, If_None_Match=OLD)).status_code == 200


async def test_other_refusals_come_first(api: Api) -> None:
    """Another reason for a refusal takes precedence over a condition (RFC 9110 13.2.1)."""
    path, _ = await create(api)
    _, viewer = await api.key("viewer")
    for answer, status in (
        (await ask(api, "PATCH", "/api/webhooks/wh_none", {"description": "x"}, If_Match=OLD), 404),
        (await ask(api, "PATCH", path, {"concurrency": 0}, If_Match=OLD), 400),
        (await ask(api, "PATCH", path, {"events": ["order.paid"]}, If_Match=OLD), 400),
        (await api.ask("PATCH", path, viewer, body={"description": "x"}, headers={"If-Match": OLD}), 403),
    ):
        assert answer.status_code == status


async def test_the_condition_is_asked_in_the_transaction_of_its_change(api: Api) -> None:
    """Of concurrent changes with the same tag one is made; the others are 412s."""
    path, tag = await create(api)
    answers: list[int] = []

    async def change(number: int) -> None:
        answer = await ask(api, "PATCH", path, {"description": str(number)}, If_Match=tag)
        answers.append(answer.status_code)

    async with trio.open_nursery() as nursery:
        for number in range(8):
            nursery.start_soon(change, number)
    assert sorted(answers) == [200, *[412] * 7]

    webhook_id = path.rpartition("/")[2]
    seen: list[str] = []

    def refuse(endpoint: Any) -> None:
        seen.append(endpoint.description)
        raise Rejected(ErrorCode.PRECONDITION_FAILED, "no")

    # A change that is queued ahead in the same commit is what the condition sees.
    world = api.world
    changes, now = EndpointChanges(description="first"), world.clock.now()
    first = world.journal.transactions.submit(
        lambda database: endpoints.update(database, world.vault, webhook_id, changes, now)
    )
    again = EndpointChanges(description="second")
    second = world.journal.transactions.submit(
        lambda database: endpoints.update(database, world.vault, webhook_id, again, now, condition=refuse)
    )
    await first.wait()
    with pytest.raises(Rejected):
        await second.wait()
    assert seen == ["first"]
    assert (await ask(api, "GET", path)).json()["description"] == "first"


async def test_the_catalogue_has_tags_too(api: Api) -> None:
    """An event type is put only if its condition holds (new or unchanged); the answer has its tag."""
    path = "/api/event-types/order.paid"
    assert (await ask(api, "PUT", path, {}, If_Match="*")).status_code == 412
    made = await ask(api, "PUT", path, {"description": "a"}, If_None_Match="*")
    assert made.status_code == 200
    assert (await ask(api, "PUT", path, {"description": "b"}, If_None_Match="*")).status_code == 412
    changed = await ask(api, "PUT", path, {"description": "b"}, If_Match=made.headers["etag"])
    assert changed.status_code == 200
    assert changed.headers["etag"] != made.headers["etag"]
    for method in ("PUT", "DELETE"):
        assert (await ask(api, method, path, {}, If_Match=made.headers["etag"])).status_code == 412
    assert (await ask(api, "DELETE", path, If_Match=changed.headers["etag"])).status_code == 200
    assert (await ask(api, "DELETE", path, If_Match="*")).status_code == 404


async def test_a_replayed_answer_has_its_tag(api: Api) -> None:
    """A repeated answer of an Idempotency-Key has the tag of the first answer."""
    headers = {"Idempotency-Key": "once"}
    first, again = [
        await api.ask("POST", "/api/webhooks", None, body=WEBHOOK, uid=OWN_UID, headers=headers) for _ in range(2)
    ]
    assert again.headers["etag"] == first.headers["etag"]


async def test_no_change_ignores_a_condition(api: Api) -> None:
    """Every changing operation without tags refuses a condition on a tag, and changes nothing."""
    changing = [each for each in all_operations() if takes_preconditions(each.method, has_etags=each.has_etags)]
    assert {each.method for each in changing} >= {"POST", "PUT", "PATCH", "DELETE"}
    bodies = {
        "createWebhook": WEBHOOK,
        "createKey": {"role": "viewer"},
        "publishEvents": {"type": "user.created", "data": {}},
    }
    since = {"since": "2020-01-01T00:00:00Z"}
    bodies |= {"recoverDeliveries": since, "replayEvents": since, "makeBackup": {"file": "/none/none.db"}}
    path, _ = await create(api)
    names = {"webhookId": path.rpartition("/")[2], "name": "user.created"}
    for each in changing:
        if each.has_etags and each.name != "createWebhook":
            continue
        target = each.path.format_map({**dict.fromkeys(("deliveryId", "keyId", "replayId"), "none"), **names})
        answer = await ask(api, each.method, target, bodies.get(each.name), If_Match=OLD)
        assert (answer.status_code, answer.json()["code"]) == (412, "PRECONDITION_FAILED"), (each.name, answer.text)

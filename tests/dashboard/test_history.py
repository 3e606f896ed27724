"""The pages of deliveries, events, event types, keys and the audit log: what they show, to whom, and their errors."""

import re
from typing import Any

import pytest
import trio

from tests.dashboard.browsing import Site, text_of
from tests.world import Sent, World
from webhookd.base.models import DeliveryError, DeliveryStatus, Endpoint, Outcome
from webhookd.dashboard.error_hints import REASONS
from webhookd.dashboard.form_times import EXPECTED, read_moment
from webhookd.dashboard.payloads import indented
from webhookd.journal.queries import audit

MARKUP = '<img src=x onerror="alert(1)">'


async def delivered(world: World, event_id: str, endpoint: Endpoint, **fields: Any) -> str:
    """Publish an event and return the id of its delivery after the first attempt."""
    await world.publish(event_id, **fields)
    await trio.sleep(0.5)
    return next(row.id for row in await world.deliveries(endpoint) if row.event_id == event_id)


async def actions(site: Site) -> list[tuple[str, str | None, tuple[str, ...]]]:
    """Return the action, role and fields of the audit entries, newest first."""
    found = await site.api.world.journal.transactions.read(
        audit.page, None, actor=None, action=None, what=None, since=None, until=None, limit=100, cursor=None
    )
    return [(row.action.value, None if row.role is None else row.role.value, row.fields) for row in found.items]


async def test_a_delivery_shows_each_attempt(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A delivery shows its requests with their signatures, the answers, and the meaning of the error."""
    world = site.api.world
    endpoint = await world.endpoint(headers={"authorization": "Bearer not-to-be-seen"})
    world.sender.script = lambda sent: answer_with(500 if sent.number == 1 else 200, sent)
    delivery_id = await delivered(world, "e1", endpoint, data={"note": MARKUP})
    await trio.sleep(60)
    visitor = await site.visitor("viewer")
    page = await visitor.page(f"/deliveries/{delivery_id}")
    text = text_of(page)
    assert "The receiver failed with a server error" in text
    assert "500 Internal Server Error" in text
    sent = world.sender.sent
    assert [one.number for one in sent] == [1, 2]
    for one in sent:
        assert f"webhook-signature: {one.headers['webhook-signature']}" in text
        assert f"x-webhook-signature: {one.headers['x-webhook-signature']}" in text
    assert "not-to-be-seen" not in page
    assert "authorization: [hidden]" in text
    assert MARKUP not in page
    assert MARKUP in text
    assert f"answer to attempt 2 {MARKUP}" in text


def answer_with(status: int, sent: Sent) -> Outcome:
    body = f"answer to attempt {sent.number} {MARKUP}".encode()
    headers = (("content-type", "text/html"), ("x-odd", MARKUP))
    return Outcome(duration_seconds=0.1, status=status, headers=headers, body=body, remote_address="192.0.2.1:443")


async def test_the_secret_is_never_shown(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The page explains the signature and shows the end of each secret, but no whole secret."""
    world = site.api.world
    visitor = await site.visitor()
    made = (await site.api.ask("POST", "/api/webhooks", None, body=new_webhook(), uid=4711)).json()
    rotated = await site.api.ask("POST", f"/api/webhooks/{made['id']}/rotate-secret", None, body={}, uid=4711)
    await world.publish("e1")
    await trio.sleep(1)
    listed = await site.api.ask("GET", f"/api/webhooks/{made['id']}/deliveries", None, uid=4711)
    page = await visitor.page(f"/deliveries/{listed.json()['data'][0]['id']}")
    for secret in (made["secret"], rotated.json()["secret"]):
        assert secret not in page
        assert secret.removeprefix("whsec_") not in page
    text = text_of(page)
    assert rotated.json()["secretHint"] in text
    assert "2 tokens with a secret" in text
    assert "The previous secret also signs until" in text


def new_webhook(**fields: object) -> dict[str, object]:
    return {"url": "https://hook.example/", "events": ["*"], **fields}


async def test_a_rotation_after_the_attempt_is_told(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The page says when its signatures use another secret than the attempt."""
    world = site.api.world
    endpoint = await world.endpoint()
    delivery_id = await delivered(world, "e1", endpoint)
    visitor = await site.visitor()
    told = "The secret was rotated"
    assert told not in text_of(await visitor.page(f"/deliveries/{delivery_id}"))
    await trio.sleep(5)
    await site.api.ask("POST", f"/api/webhooks/{endpoint.id}/rotate-secret", None, body={}, uid=4711)
    assert told in text_of(await visitor.page(f"/deliveries/{delivery_id}"))


async def test_a_retry_is_the_operators_own(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """An operator retries under its name; a viewer has no button and is refused; a test event has no button."""
    world = site.api.world
    endpoint = await world.endpoint()
    delivery_id = await delivered(world, "e1", endpoint)
    operator, viewer = await site.visitor("operator"), await site.visitor("viewer")
    path = f"/deliveries/{delivery_id}"
    assert f"{path}/retry" in await operator.page(path)
    assert f"{path}/retry" not in await viewer.page(path)
    assert (await viewer.post(f"{path}/retry", {"force": "yes"})).status_code == 403
    assert (await operator.post(f"{path}/retry", csrf="another")).status_code == 403
    assert (await operator.post(f"{path}/retry", origin="https://evil.example")).status_code == 403
    assert len(world.sender.sent) == 1
    plain = await operator.post(f"{path}/retry")
    assert (plain.status_code, plain.headers["location"]) == (303, path)
    assert "Not retried: the delivery has succeeded" in text_of(await operator.page(path))
    await operator.post(f"{path}/retry", {"force": "yes"})
    await trio.sleep(1)
    assert len(world.sender.sent) == 2
    assert (await actions(site))[0] == ("delivery.retry", "operator", ("force",))
    tried = await site.api.ask("POST", f"/api/webhooks/{endpoint.id}/test", None, body=None, uid=4711)
    assert tried.status_code == 200
    [test, _] = reversed(await world.deliveries(endpoint))
    assert test.sequence == 0
    assert "/retry" not in await operator.page(f"/deliveries/{test.id}")


async def test_another_organizations_things_are_not_there(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A delivery, an event and its body are a 404 for another organization, and its search doesn't find them."""
    world = site.api.world
    ours = await world.endpoint(organization_id="acme")
    shared = await world.endpoint("https://shared.example/")
    delivery_id = await delivered(world, "e1", ours, organizationId="acme")
    await world.publish("e2", organizationId="other")
    await trio.sleep(0.5)
    stranger, bound = await site.visitor(organizationId="other"), await site.visitor(organizationId="acme")
    for path in (f"/deliveries/{delivery_id}", f"/deliveries/{delivery_id}/live", "/events/e1", "/events/e1/raw"):
        assert (await stranger.get(path)).status_code == 404, path
    assert (await stranger.post(f"/deliveries/{delivery_id}/retry", {"force": "yes"})).status_code == 404
    assert [sent.event for sent in world.sender.sent].count("e1") == 2  # once to each webhook
    for query in ("", "?organization=acme", "?q=e", "?type=user.*"):
        found = re.findall(r'href="/events/(e\d)"', await stranger.page(f"/events{query}"))
        assert found == ["e2"], query
    page = await bound.page("/events/e1")
    assert ours.id in page
    assert shared.id not in page, "a webhook that belongs to none is not the organization's to see"


async def test_a_payload_is_a_file(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The body is an attachment, which no browser shows as a page."""
    world = site.api.world
    await world.publish("e1", data={"note": MARKUP, "spaced": [1, 2]})
    visitor = await site.visitor("viewer")
    answer = await visitor.get("/events/e1/raw")
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    assert answer.headers["content-disposition"] == 'attachment; filename="e1.json"'
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert MARKUP.replace('"', '\\"') in answer.text
    page = await visitor.page("/events/e1")
    assert "<img src=x" not in page


async def test_a_long_payload_is_cut(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A page shows the beginning of a long payload; the curl command reads it from a file."""
    world = site.api.world
    endpoint = await world.endpoint()
    delivery_id = await delivered(world, "e1", endpoint, data={"much": "x" * 100_000})
    visitor = await site.visitor("operator")
    for path in ("/events/e1", f"/deliveries/{delivery_id}"):
        page = await visitor.page(path)
        assert len(page) < 60_000
        assert "The rest is not shown" in page
    assert "--data-binary @e1.json" in text_of(page)
    assert len((await visitor.get("/events/e1/raw")).content) > 100_000


async def test_a_search_leads_to_what_an_id_names(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A whole id leads to its page; an invalid time is shown at its field."""
    world = site.api.world
    endpoint = await world.endpoint()
    delivery_id = await delivered(world, "e1", endpoint)
    visitor = await site.visitor("viewer")
    for query, place in (("e1", "/events/e1"), (delivery_id, f"/deliveries/{delivery_id}"), (endpoint.id, endpoint.id)):
        assert (await visitor.get(f"/events?q={query}")).headers["location"].endswith(place)
    assert MARKUP not in await visitor.page(f"/events?q={MARKUP.replace(' ', '%20')}")
    assert EXPECTED in text_of(await visitor.page("/events?since=yesterday"))
    assert (await visitor.get("/events?nonsense=1")).status_code == 400


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2025-01-31", 1_738_281_600.0),
        ("2025-01-31 12:00", 1_738_324_800.0),
        ("2025-01-31T12:00", 1_738_324_800.0),
        (" 2025-01-31T12:00:05 ", 1_738_324_805.0),
        ("2025-01-31 12:00:30", 1_738_324_830.0),
        ("2025-01-31T12:00:00.000Z", 1_738_324_800.0),
        ("2025-01-31T12:00Z", 1_738_324_800.0),
        ("2025-01-31T12:00:00-05:00", 1_738_342_800.0),
        ("2025-01-31T12:00+02:00", 1_738_317_600.0),
        ("2025-01-31T12:00 02:00", 1_738_317_600.0),
        ("  ", None),
        ("", None),
        (None, None),
    ],
)
def test_a_moment_is_taken_as_people_write_it(text: str | None, at: float | None) -> None:
    """A day, a minute, a second, or ISO-8601; in UTC without a zone."""
    assert read_moment(text) == (at, None)


def test_every_code_has_its_reason() -> None:
    """Every error of an attempt has a sentence."""
    assert set(REASONS) == set(DeliveryError)


async def test_the_catalogue_is_for_who_may(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """Only administrators without an organization can change the catalogue, under their name."""
    admin, viewer = await site.visitor(), await site.visitor("viewer")
    bound = await site.visitor(organizationId="acme")
    fields = {"name": "order.paid", "description": MARKUP, "schema": '{"type": "object"}', "deprecated": "yes"}
    for visitor in (viewer, bound):
        assert (await visitor.post("/event-types", fields)).status_code == 403
        assert 'method="post" action="/event-types' not in await visitor.page("/event-types/named/user.created")
    assert (await admin.post("/event-types", fields)).status_code == 303
    assert (await actions(site))[0] == ("event_type.put", "admin", ("description", "schema", "deprecated"))
    page = await viewer.page("/event-types")
    assert MARKUP not in page
    assert MARKUP in text_of(page)
    for wrong, said in (
        ({"name": "no good!"}, "words of"),
        ({"name": "webhook.failing"}, "own"),
        ({"name": "x.y", "schema": "[]"}, "JSON object"),
        ({"name": "x.y", "schema": '{"a":' + "[" * 5000}, "JSON object"),
        ({"name": "order.paid"}, "already"),
    ):
        refused = await admin.post("/event-types", {**fields, **wrong})
        assert refused.status_code == 400
        assert said in text_of(refused.text)
    assert (await admin.get("/event-types/named/no.such")).status_code == 404
    assert (await viewer.post("/event-types/named/order.paid/delete")).status_code == 403
    assert (await admin.post("/event-types/named/order.paid/delete")).status_code == 303
    assert (await actions(site))[0][0] == "event_type.delete"


async def test_keys_are_for_administrators(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A key is created in its creator's organization, shown once, and revoked, which ends its sessions."""
    admin, operator = await site.visitor(), await site.visitor("operator")
    bound = await site.visitor(organizationId="acme")
    assert (await operator.get("/keys")).status_code == 403
    assert (await operator.post("/keys", {"role": "admin"})).status_code == 403
    assert (await bound.post("/keys", {"role": "viewer", "organization": "other"})).status_code == 400
    made = await bound.post("/keys", {"role": "viewer", "name": MARKUP})
    assert made.status_code == 200
    assert MARKUP not in made.text
    text = re.findall(r"whd_viewer_[\w-]+", made.text)[0]
    caller = site.api.services.keys.identify(text, site.api.world.clock.now())
    assert caller is not None
    assert caller.organization_id == "acme"
    assert text not in await bound.page("/keys")
    own = re.findall(r"key_\w{26}", await admin.page("/keys"))
    assert len(set(own)) == 4
    assert len(set(re.findall(r"key_\w{26}", await bound.page("/keys")))) == 2
    assert caller.actor is not None
    assert (await bound.post(f"/keys/{caller.actor.id}/revoke")).status_code == 303
    assert site.api.services.keys.identify(text, site.api.world.clock.now()) is None
    assert (await actions(site))[0][0] == "key.revoke"
    for wrong in ({"role": "root"}, {"role": "viewer", "name": "x" * 101}):
        assert (await admin.post("/keys", wrong)).status_code == 400
    mine = re.search(r"(key_\w{26})</span>", (await admin.page("/keys")).split("yours")[1])
    assert mine is not None
    await admin.post(f"/keys/{mine[1]}/revoke")
    assert (await admin.get("/keys")).headers["location"].startswith("/sign-in")


async def test_the_log_says_whether_it_holds(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A broken chain is shown to callers of the whole log; a bound caller sees its entries but not the chain."""
    admin, bound = await site.visitor(), await site.visitor(organizationId="acme")
    assert "intact" in text_of(await admin.page("/audit"))
    assert "Hash chain" not in text_of(await bound.page("/audit"))
    await site.api.world.journal.transactions.write(forge)
    text = text_of(await admin.page("/audit"))
    assert "broken" in text
    assert "isn't what was written" in text
    only = await admin.page("/audit?action=key.create&since=2020-01-01")
    assert "key.create" in only
    assert (await site.visitor("operator")).client is not None
    assert (await (await site.visitor("operator")).get("/audit")).status_code == 403


def forge(database: object) -> None:
    execute = database.execute_sql  # type: ignore[attr-defined]  # peewee's, untyped
    execute("DROP TRIGGER audit_stays")
    execute("UPDATE audit SET actor = 'somebody else' WHERE sequence = 1")


async def test_attempts_come_in_parts(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The last twenty attempts are shown, with a link to earlier ones."""
    world = site.api.world
    endpoint = await world.endpoint()
    world.sender.script = lambda _: DeliveryError.CONNECT
    delivery_id = await delivered(world, "e1", endpoint)
    await trio.sleep(6 * 3600)
    [row] = await world.deliveries(endpoint)
    assert row.status is DeliveryStatus.PENDING
    assert row.attempts > 20
    visitor = await site.visitor("viewer")
    page = await visitor.page(f"/deliveries/{delivery_id}")
    shown = [int(number) for number in re.findall(r'id="attempt-(\d+)"', page)]
    assert shown == list(range(row.attempts, row.attempts - 20, -1))
    earlier = re.search(r'href="(/deliveries/\w+\?before=\d+)"', page)
    assert earlier is not None
    rest = await visitor.page(earlier[1])
    assert [int(number) for number in re.findall(r'id="attempt-(\d+)"', rest)] == list(range(shown[-1] - 1, 0, -1))[:20]
    assert "sse-connect" in page
    assert "sse-connect" not in rest


async def test_a_deleted_webhooks_delivery_can_be_read(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The deliveries of a deleted webhook keep their attempts, without signature and retry."""
    world = site.api.world
    endpoint = await world.endpoint()
    delivery_id = await delivered(world, "e1", endpoint)
    await site.api.ask("DELETE", f"/api/webhooks/{endpoint.id}", None, uid=4711)
    page = await (await site.visitor()).page(f"/deliveries/{delivery_id}")
    assert "(deleted)" in page
    assert "/retry" not in page
    assert "curl command" not in page


async def test_every_form_of_signature_is_explained(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The page describes the configured format of the second header, and ed25519."""
    visitor = await site.visitor()
    forms = {"hex": "body alone", "sha256=hex": "GitHub", "off": "off for this webhook", "timestamped": "Stripe"}
    for form, said in forms.items():
        body = new_webhook(signature={"form": form, "ed25519": form == "off"}, events=["user.created"])
        made = (await site.api.ask("POST", "/api/webhooks", None, body=body, uid=4711)).json()
        await site.api.world.publish(f"e-{made['id']}")
        await trio.sleep(0.5)
        listed = await site.api.ask("GET", f"/api/webhooks/{made['id']}/deliveries", None, uid=4711)
        text = text_of(await visitor.page(f"/deliveries/{listed.json()['data'][0]['id']}"))
        assert said in text
        assert ("whpk_" in text) == (form == "off")


def test_a_payload_is_never_indented_to_many_times_its_size() -> None:
    """A payload with many deeply nested values is shown unchanged, an ordinary one is indented."""
    deep = b"[" * 120 + b"1," * 50_000 + b"1" + b"]" * 120
    assert indented(deep) == deep.decode()
    assert indented(b'{"a":{"b":[1,2]}}') == '{\n  "a": {\n    "b": [\n      1,\n      2\n    ]\n  }\n}'
    wide = b"[" + b"1," * 50_000 + b"1]"
    assert indented(wide).count("\n") == 50_002

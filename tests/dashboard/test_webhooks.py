"""The pages of webhooks: what they show and change, with the API's own operations."""

import re
from html import unescape

import trio

from tests.dashboard.browsing import Site, Visitor, text_of
from webhookd.dashboard.form_times import EXPECTED
from webhookd.journal.queries import audit

SCRIPT = '<script>alert("x")</script>'


async def create(visitor: Visitor, **fields: str) -> str:
    """Create a webhook with its form; return its id."""
    form = {"url": "https://hook.example/in", "events": "*", "isActive": "on", **fields}
    answer = await visitor.post("/webhooks", form)
    assert answer.status_code == 303, text_of(answer.text)
    return str(answer.headers["location"].split("/")[2])


async def actions(site: Site) -> list[tuple[str, str]]:
    """Return the actors and actions of the audit log."""
    page = await site.api.world.journal.transactions.read(
        audit.page, None, actor=None, action=None, what=None, since=None, until=None, limit=100, cursor=None
    )
    return [(row.actor, row.action.value) for row in reversed(page.items)]


async def test_a_webhook_is_made_and_its_secret_shown_once(site: Site) -> None:
    """The form creates the webhook that the API would; its secret is shown once, and the audit log has the key."""
    key_id, key = await site.api.key("admin")
    visitor = Visitor(site)
    await visitor.sign_in(key)
    webhook_id = await create(
        visitor,
        description="Billing",
        events="user.*\r\nsubscription.created",
        metadata="team=billing",
        headers="X-Team: billing",
        **{"retry/delays": "1, 2.5", "retry/maxRefusals": "3", "rateLimit/perSecond": "5", "ordering": "key"},
    )
    shown = await visitor.page(f"/webhooks/{webhook_id}/secret")
    assert re.search(r"whsec_[A-Za-z0-9+/=]{44}", shown)
    assert "whsec_" not in await visitor.page(f"/webhooks/{webhook_id}/secret")
    made = (await site.api.ask("GET", f"/api/webhooks/{webhook_id}", key)).json()
    assert made["events"] == ["user.*", "subscription.created"]
    assert made["retry"]["delays"] == [1, 2.5]
    assert (made["retry"]["maxRefusals"], made["ordering"], made["headers"]) == (3, "key", ["X-Team"])
    assert (made["rateLimit"]["perSecond"], made["metadata"]) == (5, {"team": "billing"})
    assert (key_id, "webhook.create") in await actions(site)


async def test_what_is_wrong_stands_at_its_field(site: Site) -> None:
    """A form with errors is shown again with the input, and with the API's message at each field."""
    visitor = await site.visitor()
    for fields, name in (
        ({"events": "no.such.type"}, "events"),
        ({"events": ""}, "events"),
        ({"url": ""}, "url"),
        ({"timeoutSeconds": "soon"}, "timeoutSeconds"),
        ({"retry/maxRefusals": "0"}, "retry/maxRefusals"),
        ({"secret": "whsec_short"}, "secret"),
        ({"concurrency": "nan"}, "concurrency"),
    ):
        form = {"url": "https://hook.example/in", "events": "*", "description": "kept", **fields}
        answer = await visitor.post("/webhooks", form)
        assert answer.status_code == 422
        said = re.search(rf'id="{re.escape(name)}-problem" role="alert">([^<]+)<', answer.text)
        assert said is not None, (name, text_of(answer.text))
        assert 'aria-invalid="true"' in answer.text
        assert 'value="kept"' in answer.text


async def test_a_field_is_checked_while_it_is_typed(site: Site) -> None:
    """The check of a field returns the error, or nothing."""
    visitor = await site.visitor()
    wrong = await visitor.post("/webhooks/check/events", {"events": "user.created\nno.such"})
    assert "Line 2" in text_of(wrong.text)
    assert text_of((await visitor.post("/webhooks/check/events", {"events": "user.*"})).text) == ""
    assert (await visitor.post("/webhooks/check/other", {})).status_code == 404


async def test_a_change_names_what_changed_alone(site: Site) -> None:
    """The form contains all settings, and only those that differ are patched; other headers stay."""
    visitor = await site.visitor()
    webhook_id = await create(visitor, headers="X-Keep: 1\nX-Drop: 2", **{"retry/parkAfter": "2"})
    form = await visitor.page(f"/webhooks/{webhook_id}/edit")
    assert 'name="removeHeader" value="X-Drop"' in form
    fields = {"url": "https://hook.example/in", "events": "*", "isActive": "on", "signature/form": "timestamped"}
    changed = {**fields, "description": "New name", "headers": "X-Add: 3", "removeHeader": "X-Drop"}
    assert (await visitor.post(f"/webhooks/{webhook_id}/edit", changed)).status_code == 303
    after = (await site.api.ask("GET", f"/api/webhooks/{webhook_id}", None, uid=4711)).json()
    assert (after["description"], sorted(after["headers"])) == ("New name", ["X-Add", "X-Keep"])
    assert after["retry"]["parkAfter"] == 3, "an emptied field is the server's default again"
    page = await site.api.world.journal.transactions.read(
        audit.page, None, actor=None, action=None, what=webhook_id, since=None, until=None, limit=1, cursor=None
    )
    assert set(page.items[0].fields) == {"description", "headers", "retry"}
    assert (await visitor.post(f"/webhooks/{webhook_id}/edit", {**changed, "events": "x.y"})).status_code == 422


async def test_a_form_that_is_out_of_date_changes_nothing(site: Site) -> None:
    """A form doesn't overwrite changes that were made since it was opened, for webhooks and event types."""
    visitor = await site.visitor()
    webhook_id = await create(visitor)
    fields = {"url": "https://hook.example/in", "events": "*", "isActive": "on", "signature/form": "timestamped"}
    forms: tuple[tuple[str, dict[str, str], str], ...] = (
        (f"/webhooks/{webhook_id}/edit", fields, "Enabled"),
        ("/event-types/named/user.created", {}, "Deprecated"),
    )
    for path, known, shown in forms:
        opened = await visitor.page(path)
        assert shown in opened
        found = re.search(r'name="etag" value="([^"]+)"', opened)
        assert found is not None
        tag = unescape(found[1])
        assert (await visitor.post(path, {**known, "description": "theirs", "etag": tag})).status_code == 303
        late = await visitor.post(path, {**known, "description": "mine", "etag": tag})
        assert late.status_code in {400, 422}
        assert "changed after you opened this form" in text_of(late.text)
        assert 'value="theirs"' in await visitor.page(path)


async def test_each_action_of_a_webhook(site: Site) -> None:
    """Test, disable, enable, rotate, count, replay, stop and delete work, and the audit log has the key."""
    visitor = await site.visitor()
    world = site.api.world
    webhook_id = await create(visitor)
    here = f"/webhooks/{webhook_id}"
    assert (await visitor.post(f"{here}/test")).status_code == 303
    assert "The test was delivered: the receiver answered 200" in text_of(await visitor.page(here))
    await visitor.post(f"{here}/disable")
    await world.publish("evt_held")
    paused = text_of(await visitor.page(here))
    assert "Held: disabled by hand" in paused
    assert "1 delivery" in paused
    await visitor.post(f"{here}/enable")
    assert (await visitor.post(f"{here}/rotate", {"overlap": "24"})).headers["location"] == f"{here}/secret"
    assert "whsec_" in await visitor.page(f"{here}/secret")
    assert "also signs" in text_of(await visitor.page(here))
    assert (await visitor.post(f"{here}/rotate", {"overlap": "9"})).status_code == 400
    again = {"kind": "replay", "since": "2020-01-01T00:00", "until": "", "events": ""}
    counted = await visitor.post(f"{here}/replay/count", again)
    assert "1 event would be replayed" in text_of(counted.text)
    wrong = await visitor.post(f"{here}/replay", {**again, "since": "whenever"})
    assert wrong.status_code == 422
    assert EXPECTED in text_of(wrong.text)
    began = await visitor.post(f"{here}/replay", again)
    assert "of 1 queued" in text_of(await visitor.page(began.headers["location"]))
    assert (await visitor.post(f"{began.headers['location']}/stop")).status_code == 303
    deleted = await visitor.post(f"{here}/delete")
    assert deleted.headers["location"] == "/webhooks"
    assert (await visitor.get(here)).status_code == 404
    done = [action.removeprefix("webhook.") for _, action in await actions(site) if action.startswith("webhook.")]
    assert done == ["create", "test", "change", "change", "rotate_secret", "replay", "stop_replay", "delete"]


async def test_disabling_says_what_happens_to_events(site: Site) -> None:
    """The notice says whether a disabled webhook holds its events or drops them."""
    visitor = await site.visitor()
    for choice, said in (("hold", "Its events are held"), ("drop", "Its events are dropped")):
        here = f"/webhooks/{await create(visitor, whenInactive=choice)}"
        await visitor.post(f"{here}/disable")
        assert f"Disabled. {said} until you enable it." in text_of(await visitor.page(here))


async def test_what_others_sent_is_text(site: Site) -> None:
    """Markup in names, URLs and types is shown as text on lists, pages, forms and in messages."""
    visitor = await site.visitor()
    webhook_id = await create(visitor, description=SCRIPT, metadata=f"note={SCRIPT}")
    await visitor.post(f"/webhooks/{webhook_id}/test")
    for path in (
        "/",
        "/webhooks",
        f"/webhooks/{webhook_id}",
        f"/webhooks/{webhook_id}/edit",
        "/webhooks?search=%3Cscript",
    ):
        page = await visitor.page(path)
        assert "<script>" not in page
        assert path == "/" or "&lt;script&gt;" in page
    answer = await visitor.post("/webhooks", {"url": f'"{SCRIPT}', "events": SCRIPT})
    assert answer.status_code == 422
    assert "<script>" not in answer.text


async def test_the_list_is_searched_sorted_and_paged(site: Site) -> None:
    """A search finds by URL, description and id; the URL has the order and page; `%` is no wildcard."""
    visitor = await site.visitor()
    for number in range(30):
        await site.api.world.endpoint(f"https://r{number:02}.example/")
    first = await visitor.page("/webhooks?order=url")
    assert "30 webhooks, showing 1 to 25" in text_of(first)
    assert first.index("r00.example") < first.index("r24.example")
    assert "r25.example" not in first
    second = await visitor.page("/webhooks?order=url&page=2")
    assert "r25.example" in second
    assert "r24.example" not in second
    backwards = await visitor.page("/webhooks?order=url&reverse=true")
    assert "r29.example" in backwards
    assert "r00.example" not in backwards
    assert "1 webhook" in text_of(await visitor.page("/webhooks?search=r07"))
    assert "No webhooks match" in text_of(await visitor.page("/webhooks?search=%25"))
    fragment = await visitor.get("/webhooks?search=r07&kind=", **{"hx-request": "true", "hx-target": "webhooks"})
    assert fragment.text.lstrip().startswith('<div id="webhooks"')


async def test_deliveries_are_filtered(site: Site) -> None:
    """Deliveries are filtered by type and time; an invalid time is shown."""
    visitor = await site.visitor()
    webhook_id = await create(visitor)
    await site.api.world.publish("evt_one")
    await site.api.world.publish("evt_two", type="user.deleted")
    here = f"/webhooks/{webhook_id}/deliveries"
    everything = await visitor.page(here)
    assert "user.created" in everything
    assert "user.deleted" in everything
    only = await visitor.page(f"{here}?event=user.deleted&status=&since=2020-01-01T00%3A00")
    assert "user.created" not in only
    assert "No deliveries match" in text_of(await visitor.page(f"{here}?until=2020-01-01T00%3A00"))
    refused = await visitor.get(f"{here}?since=whenever")
    assert refused.status_code == 400
    assert EXPECTED in text_of(refused.text)


async def test_a_request_in_flight_is_shown(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """The page counts the requests in flight, and the queue marks their deliveries as being sent now."""
    world = site.api.world
    world.sender.seconds = 10.0
    endpoint = await world.endpoint()
    await world.publish("evt_hangs")
    await trio.sleep(1)
    page = await (await site.visitor("viewer")).page(f"/webhooks/{endpoint.id}")
    assert "In flight 1 of at most 1" in " ".join(text_of(page).split())
    assert '<td data-label="next">now</td>' in page
    await trio.sleep(10)
    page = await (await site.visitor("viewer")).page(f"/webhooks/{endpoint.id}")
    assert "In flight 0 of at most 1" in " ".join(text_of(page).split())

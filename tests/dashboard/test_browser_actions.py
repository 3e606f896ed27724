"""Actions on the pages in a real browser, verified through the API."""

import json
import re
from pathlib import Path

import httpx
import pytest

from tests.dashboard.browser import MISSING, Browser, Tab, find_chromium
from tests.dashboard.day import Day
from tests.patience import wait_until

pytestmark = pytest.mark.skipif(find_chromium() is None, reason=MISSING)


def api(day: Day, key: str = "admin") -> httpx.Client:
    headers = {"authorization": f"Bearer {day.keys[key]}"}
    return httpx.Client(base_url=day.url, headers=headers, trust_env=False)


def sent_here(day: Day) -> tuple[str, str]:
    """Publish an event for the receiver on loopback; return the ids of the event and its succeeded delivery."""
    with api(day) as client:
        made = client.post("/api/events", json={"type": "security.2fa_enabled", "data": {"note": 'it\'s "quoted"'}})
        event_id = made.json()["id"]
        path = f"/api/events/{event_id}/deliveries"
        wait_until(lambda: [one["status"] for one in client.get(path).json()["data"]] == ["succeeded"])
        return event_id, client.get(path).json()["data"][0]["id"]


def received(day: Day) -> list[dict[str, object]]:
    return [json.loads(line) for line in (day.directory / "received").read_text().splitlines()]


def test_a_delivery_is_sent_once_more(day: Day, browser: Browser) -> None:
    """An operator retries a succeeded delivery; the page shows the new attempt without a reload."""
    event_id, delivery_id = sent_here(day)
    before = len(received(day))

    def force(tab: Tab) -> None:
        tab.open(f"/deliveries/{delivery_id}")
        tab.page.locator("summary", has_text="Retry").click()
        tab.page.get_by_text("the same event id a second time").wait_for()
        tab.check()
        tab.page.locator(".sure button").click()
        tab.page.get_by_text("queued for a retry").wait_for()
        tab.page.locator("#attempt-2").wait_for()
        assert "manual" in tab.page.locator("#attempt-2").inner_text()
        tab.check()

    browser.run(force, day.keys["operator"])
    assert len(received(day)) == before + 1
    with api(day) as client:
        entry = client.get("/api/audit").json()["data"][0]
        assert (entry["action"], entry["object"], entry["actor"]["role"]) == ("delivery.retry", delivery_id, "operator")
        assert client.get(f"/api/events/{event_id}/deliveries").json()["data"][0]["attempts"] == 2


def test_a_viewer_has_nothing_to_press(day: Day, browser: Browser) -> None:
    """A viewer sees no button that changes something, and no page for administrators."""

    def look(tab: Tab) -> None:
        for path in (f"/deliveries/{day.deliveries['failed']}", "/event-types", "/event-types/named/user.created"):
            tab.open(path)
            assert tab.page.locator("main form[method=post]").count() == 0, path
        assert tab.page.get_by_role("link", name="Keys").count() == 0
        tab.open("/keys")
        tab.page.get_by_text("The role viewer may not do this").wait_for()
        tab.expect_refusal()

    browser.run(look, day.keys["viewer"])


def test_a_command_is_copied(day: Day, browser: Browser) -> None:
    """The whole curl command is copied, with a signature for the receiver."""
    event_id, delivery_id = sent_here(day)

    def copy(tab: Tab) -> str:
        tab.open(f"/deliveries/{delivery_id}")
        tab.page.locator("[data-copy=curl]").click()
        tab.page.get_by_role("button", name="Copied").wait_for()
        return str(tab.page.evaluate("navigator.clipboard.readText()"))

    command = browser.run(copy, day.keys["operator"])
    assert command.startswith(f"curl -i {day.receiver_url}")
    assert f"webhook-id: {event_id}" in command
    assert re.search(r"webhook-signature: v1,[A-Za-z0-9+/]{43}=", command)


def test_events_are_found(day: Day, browser: Browser, tmp_path: Path) -> None:
    """Events are found by type, time and start of id; a whole id leads to its object; the payload is a file."""
    event_id, delivery_id = sent_here(day)

    def search(tab: Tab) -> None:
        page = tab.page
        tab.open("/events")
        page.get_by_label("Type").fill("security.*")
        page.get_by_role("button", name="Search").click()
        page.wait_for_url("**type=security.*")
        page.get_by_role("row").nth(1).get_by_role("link").click()
        page.get_by_role("heading", name="Deliveries").wait_for()
        tab.open("/events?q=order-1014")
        rows = page.locator("tbody tr")
        assert rows.count() > 2
        assert all(text.startswith("order-1014") for text in page.locator("tbody th").all_inner_texts())
        tab.open("/events")
        page.get_by_label("ID").fill(delivery_id)
        page.keyboard.press("Enter")
        page.wait_for_url(f"**/deliveries/{delivery_id}")
        tab.open(f"/events/{event_id}")
        with page.expect_download() as downloading:
            page.get_by_role("link", name="download").click()
        downloading.value.save_as(tmp_path / "payload")
        assert downloading.value.suggested_filename == f"{event_id}.json"
        tab.open("/events?since=yesterday")
        page.get_by_text("Enter a time in UTC").first.wait_for()
        tab.check()
        tab.open("/events?type=no.such")
        page.get_by_text("No events match").wait_for()
        tab.check()

    browser.run(search, day.keys["viewer"])
    assert json.loads((tmp_path / "payload").read_bytes())["data"] == {"note": 'it\'s "quoted"'}


def test_the_catalogue_is_changed(day: Day, browser: Browser) -> None:
    """An event type is created, refused twice, edited and deleted."""

    def change(tab: Tab) -> None:
        page = tab.page
        tab.open("/event-types")
        page.get_by_role("link", name="New event type").click()
        page.get_by_label("Name").fill("order.paid")
        page.get_by_label("JSON Schema").fill("{not json")
        page.get_by_role("button", name="Create").click()
        page.get_by_text("Enter a JSON object").wait_for()
        tab.expect_refusal()
        tab.check()
        assert page.get_by_label("Name").input_value() == "order.paid"
        page.get_by_label("JSON Schema").fill('{"type": "object"}')
        page.get_by_label("Description").fill("<b>Paid</b>")
        page.get_by_role("button", name="Create").click()
        page.get_by_text("order.paid has been created.").wait_for()
        assert page.get_by_text("<b>Paid</b>").count() == 1
        tab.open("/event-types/new")
        page.get_by_label("Name").fill("order.paid")
        page.get_by_role("button", name="Create").click()
        page.get_by_text("exists already").wait_for()
        tab.expect_refusal()
        tab.open("/event-types/named/order.paid")
        page.get_by_label("Deprecated").check()
        page.get_by_role("button", name="Save").click()
        page.get_by_text("order.paid has been saved.").wait_for()
        page.get_by_role("link", name="order.paid", exact=True).click()
        assert page.get_by_label("Deprecated").is_checked()
        assert '"type": "object"' in page.get_by_label("JSON Schema").input_value()
        page.get_by_text("Delete").first.click()
        page.locator(".sure button").click()
        page.get_by_text("has been deleted").wait_for()

    browser.run(change, day.keys["admin"])
    with api(day) as client:
        names = [row["name"] for row in client.get("/api/event-types?limit=100").json()["data"]]
        assert "order.paid" not in names
        actions = [row["action"] for row in client.get("/api/audit").json()["data"]]
        assert actions[:3] == ["event_type.delete", "event_type.put", "event_type.put"]


def test_a_key_is_made_shown_once_and_revoked(day: Day, browser: Browser) -> None:
    """The text of a new key is on one page only; the key works until its revocation."""

    def make(tab: Tab) -> str:
        page = tab.page
        tab.open("/keys")
        page.get_by_text("Create a key").click()
        page.get_by_label("Name").fill("for a test")
        page.get_by_label("Role").select_option("viewer")
        page.get_by_label("Organization").fill("not an organization!")
        page.get_by_role("button", name="Create key").click()
        page.get_by_text("At most 64 of the characters").wait_for()
        tab.expect_refusal()
        tab.check()
        page.get_by_label("Organization").fill("acme")
        page.get_by_label("Expires").select_option("30")
        page.get_by_role("button", name="Create key").click()
        page.get_by_role("heading", name="New key").wait_for()
        text = page.locator("#new-key").inner_text()
        tab.check()
        tab.open("/keys")
        assert text not in page.content()
        return text

    text = browser.run(make, day.keys["admin"])
    with httpx.Client(base_url=day.url, headers={"authorization": f"Bearer {text}"}, trust_env=False) as client:
        assert client.get("/api/webhooks").status_code == 200

        def revoke(tab: Tab) -> None:
            tab.open("/keys")
            row = tab.page.get_by_role("row").filter(has_text="for a test")
            assert "never" not in row.inner_text(), "neither its last use nor its end"
            row.locator("summary").click()
            tab.check()
            row.locator(".sure button").click()
            tab.page.get_by_text("has been revoked").wait_for()

        browser.run(revoke, day.keys["admin"])
        assert client.get("/api/webhooks").status_code == 401


def test_the_audit_log_is_filtered(day: Day, browser: Browser) -> None:
    """By action and actor; the hash chain is hidden from a caller bound to an organization."""

    def filter_it(tab: Tab) -> None:
        page = tab.page
        tab.open("/audit")
        page.get_by_text("intact").first.wait_for()
        page.get_by_label("Action").select_option("webhook.create")
        page.get_by_role("button", name="Filter").click()
        page.wait_for_url("**action=webhook.create*")
        assert set(page.locator("tbody td b").all_inner_texts()) == {"webhook.create"}
        page.locator("tbody a", has_text="command").first.click()
        page.wait_for_url("**/audit?actor=1000")
        tab.open("/audit?object=nothing")
        page.get_by_text("No entries match").wait_for()
        tab.check()

    browser.run(filter_it, day.keys["admin"])

    def bound(tab: Tab) -> None:
        tab.open("/audit")
        assert "acme" in tab.page.locator(".who").inner_text()
        assert tab.page.get_by_text("Hash chain").count() == 0

    browser.run(bound, day.keys["acme-admin"])

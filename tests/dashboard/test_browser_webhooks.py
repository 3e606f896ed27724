"""Webhooks in a real browser: accessible pages, and a webhook's life from its form to its deletion."""

import re
from collections.abc import Sequence

import httpx
import pytest

from tests.dashboard.browser import ALL_LOOKS, MISSING, QUICK_LOOKS, Browser, Look, Tab, find_chromium
from tests.dashboard.day import Day

pytestmark = pytest.mark.skipif(find_chromium() is None, reason=MISSING)

PAGES = (
    "overview-day",
    "statistics",
    "webhooks",
    "webhook-open",
    "webhook-disabled",
    "webhook-deliveries",
    "replay",
)


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("looks", [QUICK_LOOKS, pytest.param(ALL_LOOKS, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_a_page_of_webhooks_is_fit_for_everybody(day: Day, browser: Browser, name: str, looks: Sequence[Look]) -> None:
    """In both color schemes, on a phone and a desktop, axe finds nothing, nothing overflows, the console is empty."""

    def look(tab: Tab) -> None:
        tab.open(day.paths()[name])
        assert tab.page.locator("h1").count() == 1
        tab.check(looks, color=name == "webhook-open")

    browser.run(look, day.keys["admin"])


def test_the_form_says_what_is_wrong_while_it_is_typed(day: Day, browser: Browser) -> None:
    """A forbidden URL and an unknown event type are shown at their fields, and disappear when corrected."""

    def fill(tab: Tab) -> None:
        page = tab.page
        tab.open("/webhooks/new")
        page.get_by_label("URL", exact=True).fill("http://10.0.0.1/")
        page.get_by_label("Events").fill("user.*\nno.such.type")
        page.keyboard.press("Tab")
        page.locator("#url-problem").get_by_text("public receiver").wait_for()
        page.locator("#events-problem").get_by_text("Line 2").wait_for()
        assert page.get_by_label("Events").get_attribute("aria-invalid") == "true"
        for summary in page.locator("details.panel > summary").all():
            summary.click()
        tab.check()
        page.get_by_label("Events").fill("user.*")
        page.keyboard.press("Tab")
        page.locator("#events[aria-invalid]").wait_for(state="detached")

    browser.run(fill, day.keys["admin"])


def test_the_life_of_a_webhook(day: Day, browser: Browser) -> None:
    """Created, shown its secret, tested, disabled, watched, enabled, rotated, edited, replayed and deleted."""

    def live(tab: Tab) -> None:
        page = tab.page
        tab.open("/webhooks")
        page.get_by_role("link", name="New webhook").click()
        page.get_by_label("URL", exact=True).fill(f"{day.receiver_url}/life")
        page.get_by_label("Events").fill("security.account_locked")
        page.get_by_label("Description").fill("Made by hand")
        page.get_by_role("button", name="Create webhook").click()
        secret = page.locator("#secret")
        assert re.fullmatch(r"whsec_[A-Za-z0-9+/=]{44}", secret.inner_text())
        page.get_by_role("button", name="Copy").click()
        page.get_by_role("button", name="Copied").wait_for()
        assert page.evaluate("navigator.clipboard.readText()") == secret.inner_text()
        tab.check()
        page.get_by_role("link", name="Done").click()
        page.locator(".sentence", has_text="Nothing queued").wait_for()
        page.get_by_role("button", name="Send test event").click()
        page.get_by_text("The test was delivered: the receiver answered 200").wait_for()

        page.locator("summary", has_text="Disable").click()
        page.locator(".sure:visible").get_by_role("button").click()
        page.locator(".sentence", has_text="disabled by hand").wait_for()
        publish(day)
        # It comes by itself: nothing is loaded again.
        page.locator("#live-queue").get_by_role("link", name="security.account_locked").wait_for()
        page.get_by_role("button", name="Enable").click()
        page.locator("#live-queue", has_text="No pending deliveries").wait_for()
        page.locator("#live-latest", has_text="succeeded").wait_for()
        tab.check()

        page.locator("summary", has_text="Rotate secret").click()
        page.get_by_role("button", name="Rotate secret").click()
        page.get_by_role("link", name="Done").click()
        page.get_by_text("also signs").wait_for()
        page.get_by_role("link", name="Edit").click()
        page.get_by_label("Description").fill("Changed by hand")
        page.get_by_role("button", name="Save").click()
        page.get_by_text("Saved.").wait_for()

        page.get_by_role("link", name="Replay", exact=True).click()
        page.get_by_label("Replay").check()
        page.get_by_role("button", name="Preview").click()
        page.get_by_text("1 event would be replayed.").wait_for()
        page.get_by_role("button", name="Start").click()
        page.get_by_text("1 of 1 queued").wait_for()
        tab.check()

        page.get_by_role("link", name="Back to the webhook").click()
        page.locator("summary", has_text="Delete").click()
        page.locator(".sure:visible").get_by_role("button").click()
        page.get_by_text("has been deleted").wait_for()

    browser.run(live, day.keys["admin"])


def publish(day: Day) -> None:
    headers = {"authorization": f"Bearer {day.keys['admin']}"}
    event = {"type": "security.account_locked", "data": {}}
    httpx.post(f"{day.url}/api/events", json=event, headers=headers, trust_env=False).raise_for_status()


def test_the_list_follows_the_search(day: Day, browser: Browser) -> None:
    """The table and its URL follow the search while typing, and the table stays live."""

    def search(tab: Tab) -> None:
        page = tab.page
        tab.open("/webhooks")
        page.get_by_role("searchbox").fill("warehouse")
        page.get_by_text("1 webhook", exact=True).wait_for()
        page.wait_for_url("**search=warehouse**")
        page.locator("[data-link]", has_text="live").wait_for()
        page.get_by_role("searchbox").fill("")
        page.get_by_label("Sort by").select_option("trouble")
        page.wait_for_url("**order=trouble**")
        assert page.locator("tbody tr").first.locator(".state").inner_text() == "auto-disabled"
        page.get_by_role("link", name="Queued").click()
        page.locator("th[aria-sort=descending]", has_text="Queued").wait_for()

    browser.run(search, day.keys["viewer"])


def test_the_breaker_counts_down(day: Day, browser: Browser) -> None:
    """The time to the next probe counts down in the browser, by the server's clock."""

    def watch(tab: Tab) -> None:
        page = tab.page
        page.clock.install()
        tab.open(day.paths()["webhook-open"])
        timer = page.locator("#live-health [role=timer]").first
        timer.get_by_text(re.compile(r"^in (23|24) h")).wait_for()
        page.clock.fast_forward("22:00:00")
        timer.get_by_text(re.compile(r"^in (1|2) h")).wait_for()
        page.clock.fast_forward("02:00:00")
        timer.get_by_text("now", exact=True).wait_for()

    browser.run(watch, day.keys["viewer"])


def test_a_tab_that_nobody_looks_at_gives_its_connection_back(day: Day, browser: Browser) -> None:
    """A page that is hidden for ten seconds closes its stream, and is live again when shown, without an error."""

    def turn_away(tab: Tab) -> None:
        page = tab.page
        page.clock.install()
        tab.open("/")
        page.locator("[data-link]", has_text="live").wait_for()
        show = "(hidden) => { Object.defineProperty(document, 'hidden', {value: hidden, configurable: true}); \
            document.dispatchEvent(new Event('visibilitychange')); }"
        with page.expect_event("requestfailed", lambda request: "/live" in request.url):
            page.evaluate(show, True)
            page.clock.fast_forward(11_000)
        page.evaluate("document.querySelector('#live-numbers').textContent = 'old'")
        with page.expect_event("response", lambda response: "/live" in response.url):
            page.evaluate(show, False)
            page.clock.fast_forward(1_000)
        page.locator("#live-numbers", has_text="Backlog").wait_for()

    browser.run(turn_away, day.keys["viewer"])

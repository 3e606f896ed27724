"""Every page in a real browser: no console message, no policy violation, accessible, and usable at each width."""

from collections.abc import Sequence

import pytest
from playwright.sync_api import Dialog

from tests.dashboard.browser import ALL_LOOKS, MISSING, QUICK_LOOKS, Browser, Look, Tab, find_chromium
from tests.dashboard.day import MARKUP, Day

pytestmark = pytest.mark.skipif(find_chromium() is None, reason=MISSING)

# Those of webhooks and the overview are in `test_browser_webhooks`.
PAGES = (
    "events",
    "event",
    "delivery-succeeded",
    "delivery-pending",
    "delivery-failed",
    "event-types",
    "event-type",
    "new-event-type",
    "keys",
    "audit",
)
COLORFUL = ("delivery-failed", "keys")


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("looks", [QUICK_LOOKS, pytest.param(ALL_LOOKS, marks=pytest.mark.slow)], ids=["quick", "all"])
def test_a_page_is_fit_for_everybody(day: Day, browser: Browser, name: str, looks: Sequence[Look]) -> None:
    """In both color schemes, on a phone and a desktop, axe finds nothing, nothing overflows, the console is empty."""

    def look(tab: Tab) -> None:
        tab.open(day.paths()[name])
        assert tab.page.locator("h1").count() == 1
        tab.check(looks, color=name in COLORFUL)

    browser.run(look, day.keys["admin"])


def test_the_sign_in_is_fit_for_everybody(day: Day, browser: Browser) -> None:
    """The sign-in, also with the error for a wrong key, is accessible."""

    def look(tab: Tab) -> None:
        tab.open("/keys")
        assert tab.page.url.endswith("/sign-in?next=%2Fkeys")
        tab.check()
        tab.page.get_by_label("API key").fill("whd_wrong")
        tab.page.get_by_role("button", name="Sign in").click()
        tab.page.get_by_text("not known").wait_for()
        tab.expect_refusal()
        tab.check()

    browser.run(look, None)


def test_every_page_is_reached_by_the_keyboard(day: Day, browser: Browser) -> None:
    """The first Tab offers to skip the navigation, and Enter on an entry goes there."""

    def go(tab: Tab) -> None:
        tab.open("/")
        tab.page.keyboard.press("Tab")
        assert tab.page.evaluate("document.activeElement.textContent") == "Skip to content"
        for _ in range(30):
            tab.page.keyboard.press("Tab")
            if tab.page.evaluate("document.activeElement.textContent") == "Events":
                break
        tab.page.keyboard.press("Enter")
        tab.page.wait_for_url("**/events")
        assert tab.page.locator("nav [aria-current=page]").inner_text() == "Events"

    browser.run(go, day.keys["viewer"])


def test_markup_from_outside_is_text(day: Day, browser: Browser) -> None:
    """A script in a payload or in a receiver's answer is shown and doesn't run."""

    dialogs: list[str] = []

    def note(dialog: Dialog) -> None:
        dialogs.append(dialog.message)
        dialog.dismiss()

    def look(tab: Tab) -> None:
        tab.page.on("dialog", note)
        for path, name in (
            (f"/events/{day.events['marked']}", "payload"),
            (f"/deliveries/{day.deliveries['refused']}", "an answer"),
        ):
            tab.open(path)
            text = tab.page.locator("main").inner_text()
            assert MARKUP in text, name
            assert tab.page.locator("main script").count() == 0
            assert not dialogs

    browser.run(look, day.keys["viewer"])


def test_a_planted_fault_is_seen(day: Day, browser: Browser) -> None:
    """A page that overflows, logs to the console or violates the policy fails the check."""

    def plant(tab: Tab) -> None:
        tab.open("/events")
        tab.page.evaluate("document.querySelector('h1').style.width = '900px'")
        with pytest.raises(AssertionError, match="wider than 360 px"):
            tab.check()
        tab.open("/events")
        tab.page.evaluate("document.querySelector('#q').removeAttribute('id')")
        with pytest.raises(AssertionError, match="axe, light, 1280 px: label"):
            tab.check()
        tab.open("/events")
        tab.page.evaluate("document.querySelector('h1').style.color = '#ddd'")
        with pytest.raises(AssertionError, match="axe, light, 1280 px: color-contrast"):
            tab.check(color=True)
        tab.open("/events")
        tab.page.evaluate("document.body.insertAdjacentHTML('beforeend', '<img src=\"https://127.0.0.1:9/x.png\">')")
        tab.page.wait_for_function("window.violations.length")
        with pytest.raises(AssertionError, match="CSP: img-src"):
            tab.settle()
        tab.complaints.clear()
        tab.page.evaluate("console.error('planted')")
        with pytest.raises(AssertionError, match="console, error: planted"):
            tab.settle()
        tab.complaints.clear()
        tab.page.evaluate("window.violations = []")

    browser.run(plant, day.keys["admin"])

"""Debian's Chromium, driven by playwright, for tests of pages in a real browser.

Playwright's event loop can't run in the same thread as trio's, so a browser has its own thread and runs stories there:
functions that get a `Tab`. A tab notes errors that no page may cause, and its `check` examines a page at every width
and in both color schemes.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser as Chromium
from playwright.sync_api import ConsoleMessage, Page, Request, Response, sync_playwright

T = TypeVar("T")

PHONE, DESKTOP = (360, 740), (1280, 900)
NARROWEST = (320, 640)
Look = tuple[str, tuple[int, int]]
# Between them each rule meets both widths, and each colour its ground in both schemes.
ALL_LOOKS: Sequence[Look] = (("light", DESKTOP), ("dark", PHONE))
QUICK_LOOKS = ALL_LOOKS[:1]
SCHEMES = ("light", "dark")
WAIT_MS = 10_000
MISSING = "there is no Chromium here (apt-get install chromium-headless-shell)"

_ARGUMENTS = (
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--disable-dev-shm-usage",
)
_AXE = AXE_FILE_PATH.read_text()
_RUN_AXE = """
async (color) => (await axe.run(document, {
    resultTypes: ["violations"], rules: {"color-contrast": {enabled: color}},
})).violations.map(
    (found) => `${found.id}: ${found.help}: ${found.nodes.map((node) => node.html.slice(0, 160)).join(" | ")}`)
"""
_NOTE_VIOLATIONS = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) =>
    window.violations.push(`${event.violatedDirective} ${event.blockedURI}`));
"""
_OVERFLOW = """
() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    const found = [...document.querySelectorAll("body *")]
        .filter((one) => one.getBoundingClientRect().right > width + 1)
        // An element that scrolls by itself is no cause.
        .filter((one) => { for (let up = one.parentElement; up; up = up.parentElement)
            if (getComputedStyle(up).overflowX !== "visible") return false; return true; });
    return found.slice(0, 5).map((one) => `${one.outerHTML.slice(0, 120)} to ${one.getBoundingClientRect().right}`);
}
"""


def find_chromium() -> str | None:
    """Return the path of the browser; None if it isn't installed."""
    return shutil.which("chromium-headless-shell") or shutil.which("chromium")


class Tab:
    """One page of a browser; `complaints` are errors that no page may cause."""

    def __init__(self, page: Page, url: str, *, is_thorough: bool) -> None:
        self.page = page
        self.url = url
        self.is_thorough = is_thorough
        self.complaints: list[str] = []
        self.refusals: list[str] = []
        page.set_default_timeout(WAIT_MS)
        page.add_init_script(_NOTE_VIOLATIONS)
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(f"script: {error}"))
        page.on("requestfailed", self._note_failure)
        page.on("response", self._note_status)

    def open(self, path: str) -> None:
        """Open a page of the dashboard and wait until it is loaded."""
        self.page.goto(f"{self.url}{path}", wait_until="load")

    def expect_refusal(self) -> None:
        """Accept the 4xx answers since the last call; there must be one."""
        assert self.refusals, "nothing was refused"
        self.refusals.clear()

    def look(self, size: tuple[int, int], scheme: str) -> None:
        """Set the size and the color scheme of the page."""
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.page.emulate_media(color_scheme="dark" if scheme == "dark" else "light")

    def check(self, looks: Sequence[Look] = QUICK_LOOKS, *, color: bool = False) -> None:
        """Check what every page must fulfill; AssertionError says what is wrong.

        The contrast of texts takes most of the time: it is checked if `color` is true, and always in a long run.
        """
        page = self.page
        wrong: list[str] = []
        looks_at_color = color or self.is_thorough
        page.evaluate(_AXE)
        for scheme, size in looks:
            self.look(size, scheme)
            wrong += [f"axe, {scheme}, {size[0]} px: {said}" for said in page.evaluate(_RUN_AXE, looks_at_color)]
        for size in (PHONE, NARROWEST):
            self.look(size, "light")
            wrong += [f"wider than {size[0]} px: {what}" for what in page.evaluate(_OVERFLOW)]
        self.look(DESKTOP, "light")
        assert not wrong, f"{page.url}\n" + "\n".join(wrong)
        self.settle()

    def settle(self) -> None:
        """Raise AssertionError for the errors noted so far."""
        violations = self.page.evaluate("() => window.violations || []")
        said = [*self.complaints, *(f"refused: {one}" for one in self.refusals), *(f"CSP: {one}" for one in violations)]
        assert not said, f"{self.page.url}\n" + "\n".join(said)

    def _hear(self, message: ConsoleMessage) -> None:
        # Chromium reports each refused request as failed; `refusals` has more.
        if message.type in {"error", "warning"} and not message.text.startswith("Failed to load resource"):
            self.complaints.append(f"console, {message.type}: {message.text}")

    def _note_failure(self, request: Request) -> None:
        # To leave a page ends its stream, and a download is no page.
        if "ERR_ABORTED" not in (request.failure or ""):
            self.complaints.append(f"{request.method} {request.url}: {request.failure}")

    def _note_status(self, response: Response) -> None:
        if response.status >= 500:
            self.complaints.append(f"{response.request.method} {response.url}: {response.status}")
        elif response.status >= 400:
            self.refusals.append(f"{response.request.method} {response.url}: {response.status}")


class Browser:
    """A Chromium in its thread, with one tab, and so one session, for each key."""

    def __init__(self, url: str, thread: ThreadPoolExecutor, chromium: Chromium, *, is_thorough: bool) -> None:
        self._url = url
        self._is_thorough = is_thorough
        self._thread = thread
        self._chromium = chromium
        self._tabs: dict[str, Tab] = {}

    def run(self, story: Callable[[Tab], T], key: str | None) -> T:
        """Run a story in an empty tab, signed in with `key` if given; its exceptions are raised here."""
        return self._thread.submit(self._run, story, key).result()

    def _run(self, story: Callable[[Tab], T], key: str | None) -> T:
        # A new tab for each story would cost as much as most stories.
        tab = self._tabs.pop(key, None) if key is not None else None
        if tab is None:
            tab = self._open(key)
        is_good = False
        try:
            tab.look(DESKTOP, "light")
            result = story(tab)
            tab.settle()
            tab.page.goto("about:blank")
            is_good = True
            return result
        finally:
            if is_good and key is not None:
                self._tabs[key] = tab
            else:
                tab.page.context.close()

    def _open(self, key: str | None) -> Tab:
        context = self._chromium.new_context(reduced_motion="reduce", accept_downloads=True)
        context.grant_permissions(["clipboard-read", "clipboard-write"])
        tab = Tab(context.new_page(), self._url, is_thorough=self._is_thorough)
        if key is not None:
            sign_in(tab, key)
        return tab


def sign_in(tab: Tab, key: str) -> None:
    """Sign in with the form."""
    tab.open("/sign-in")
    tab.page.get_by_label("API key").fill(key)
    tab.page.get_by_role("button", name="Sign in").click()
    tab.page.wait_for_url(f"{tab.url}/")


@contextmanager
def browsing(url: str, *, is_thorough: bool = False) -> Iterator[Browser]:
    """Run a browser for the dashboard at `url` until the block ends; `is_thorough` is for long runs."""
    executable = find_chromium()
    assert executable is not None, MISSING
    # Chromium refuses to run its sandbox as root.
    arguments = [*_ARGUMENTS, *(["--no-sandbox"] if os.geteuid() == 0 else [])]
    with ThreadPoolExecutor(max_workers=1) as thread:

        def start() -> tuple[Any, Chromium]:
            driver = sync_playwright().start()
            return driver, driver.chromium.launch(executable_path=executable, args=arguments)

        driver, chromium = thread.submit(start).result()
        try:
            yield Browser(url, thread, chromium, is_thorough=is_thorough)
        finally:
            thread.submit(chromium.close).result()
            thread.submit(driver.stop).result()

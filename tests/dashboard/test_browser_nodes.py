"""The page of nodes of three real servers in a real browser: readable on a phone and on a desktop, and live."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from tests.dashboard.browser import ALL_LOOKS, DESKTOP, MISSING, PHONE, Tab, browsing, find_chromium
from tests.e2e.harness import Server
from tests.e2e.three_nodes import shares, three

pytestmark = [pytest.mark.slow, pytest.mark.skipif(find_chromium() is None, reason=MISSING)]
PICTURES = os.environ.get("WEBHOOKD_TEST_PICTURES")  # a directory for screenshots, to look at


@pytest.fixture
async def nodes(tmp_path: Path, empty_database: str) -> AsyncIterator[list[Server]]:
    async with three(tmp_path, empty_database) as nodes:
        yield nodes


def photograph(tab: Tab, name: str) -> None:
    for size in (DESKTOP, PHONE):
        for scheme in ("light", "dark"):
            tab.look(size, scheme)
            if PICTURES is not None:
                tab.page.screenshot(path=Path(PICTURES) / f"{name}-{size[0]}-{scheme}.png", full_page=True)
    tab.look(DESKTOP, "light")


async def test_the_page_of_nodes_is_fit_for_everybody(nodes: list[Server]) -> None:
    """In both schemes and widths axe finds nothing and nothing overflows; a node that leaves disappears by itself."""
    key = next(node.first_key for node in nodes if node.first_key)
    webhook = await nodes[0].webhook("http://127.0.0.1:9999/hook")

    def look(tab: Tab) -> None:
        tab.page.get_by_role("link", name="Nodes").click()
        tab.page.wait_for_url("**/nodes")
        assert tab.page.locator("tbody tr").count() == 3
        tab.check(ALL_LOOKS, color=True)
        photograph(tab, "nodes")
        tab.open(f"/webhooks/{webhook['id']}")
        tab.page.get_by_text("Driven by the node node-").wait_for()
        tab.check(ALL_LOOKS)
        photograph(tab, "webhook")
        tab.open("/nodes")

    def see_two(tab: Tab) -> None:
        tab.open("/nodes")
        trio.from_thread.run(nodes[2].stop, trio_token=token)
        tab.page.locator("tbody tr").nth(2).wait_for(state="detached")

    token = trio.lowlevel.current_trio_token()

    def browse() -> None:
        with browsing(nodes[0].url) as browser:
            browser.run(look, key)
            browser.run(see_two, key)

    await trio.to_thread.run_sync(browse)
    assert await shares(nodes[0]) == [128, 128]

"""The overview: its numbers and its problems, for callers that may see them."""

import trio

from tests.dashboard.browsing import Site, text_of
from tests.world import OK
from webhookd.base.models import DeliveryError
from webhookd.observe.loop_watch import Stall


async def test_what_needs_somebody_is_said(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """An open circuit breaker, a disabled webhook with a backlog, old deliveries and an expiring key are shown."""
    w = site.api.world
    visitor = await site.visitor()
    assert "No webhook is failing" in text_of(await visitor.page("/"))
    well = "https://well.example/"
    w.sender.script = lambda sent: OK if sent.url == well else DeliveryError.CONNECT
    await w.endpoint(well)
    broken = await w.endpoint("https://broken.example/")
    held = await w.endpoint("https://held.example/", is_active=False)
    await site.api.key("viewer", name="short", expiresAt="2025-01-03T00:00:00Z")
    await w.publish("evt_1")
    await trio.sleep(3600)
    visitor = await site.visitor()
    said = text_of(await visitor.page("/"))
    assert f'href="/webhooks/{broken.id}"' in await visitor.page("/")
    assert "circuit open https://broken.example/ Circuit open after" in said
    assert "disabled https://held.example/ Held: disabled by hand. 1 delivery is pending." in said
    assert "The oldest pending delivery is from 2025-01-01 00:00" in said
    assert "The viewer key short expires at 2025-01-03 00:00:00 UTC" in said
    assert "well.example" not in said
    assert f'href="/webhooks/{held.id}"' in await visitor.page("/")


async def test_an_organization_sees_its_own_numbers(site: Site, autojump_clock: trio.testing.MockClock) -> None:
    """A caller bound to an organization sees only its webhooks, backlog and events, and nothing of the machine."""
    w = site.api.world
    w.sender.script = lambda _: DeliveryError.CONNECT
    await w.endpoint("https://mine.example/", organization_id="mine")
    await w.endpoint("https://other.example/", organization_id="other")
    for number in range(3):
        await w.publish(f"evt_{number}", organizationId="other")
    await w.publish("evt_mine", organizationId="mine")
    await trio.sleep(600)
    bound, unbound = await site.visitor(organizationId="mine"), await site.visitor()
    said, whole = text_of(await bound.page("/")), text_of(await unbound.page("/"))
    assert "Backlog 1 " in said
    assert "of 1 webhook " in said
    assert "received 1 " in said
    assert "other.example" not in said
    assert "Journal" not in said
    # A cached result is shared only by callers that may see the same.
    (_, first), (_, second) = await unbound.stream("/live", 0.2), await bound.stream("/live", 0.2)
    assert "other.example" in first
    assert "other.example" not in second
    assert "Backlog 4 " in whole
    assert "free on disk" in whole
    assert "Longest stall, last hour none" in whole
    assert "Longest stall" not in said
    site.api.services.stalls.note(Stall(ended_at=w.clock.now(), seconds=0.34, cpu_seconds=0.3, task="actor wh_1"))
    assert "Longest stall, last hour 340 ms actor wh_1, 2025-01-01 00:10" in text_of(await unbound.page("/"))
    table = text_of(await bound.page("/statistics?span=day"))
    assert "Total 1 " in table


async def test_charts_have_words(site: Site) -> None:
    """Each chart has a summary in words, lines that differ by pattern, and a table of its numbers."""
    visitor = await site.visitor()
    page = await visitor.page("/?span=day")
    assert 'aria-label="Latency: p50' in page
    assert page.count('role="img"') == 3
    assert 'class="line second"' in page
    assert 'href="/statistics?span=day"' in page
    assert (await visitor.get("/?span=week")).status_code == 400

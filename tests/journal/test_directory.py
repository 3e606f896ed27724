"""The list of webhooks: what a search finds, how it is sorted, and which webhooks need attention."""

from pathlib import Path

import trio

from tests.world import OK, World, world
from webhookd.base.models import DeliveryError
from webhookd.journal import WebhookKind, WebhookOrder, WebhookSearch
from webhookd.journal.queries import directory


async def urls(w: World, **wanted: object) -> list[str]:
    looked_for = WebhookSearch(**{"organization_id": None, **wanted})  # type: ignore[arg-type]  # a test's own
    found = await w.journal.webhooks.search(looked_for, w.clock.now())
    assert found.total >= len(found.endpoints)
    return [endpoint.url.split("/")[2].split(".")[0] for endpoint in found.endpoints]


async def test_a_search_is_literal_and_keeps_to_the_organization(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """`%` and `_` have no special meaning; a caller of an organization finds only its webhooks."""
    async with world(tmp_path) as w:
        await w.endpoint("https://a_b.example/", organization_id="one")
        await w.endpoint("https://axb.example/", organization_id="two")
        assert await urls(w, text="a_b") == ["a_b"]
        assert await urls(w, text="%") == []
        assert await urls(w, text="EXAMPLE") == ["axb", "a_b"]
        assert await urls(w, text="example", organization_id="two") == ["axb"]
        assert await urls(w, text="one") == ["a_b"]


async def test_the_worst_come_first(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """Worst is a webhook disabled by failures, then an open breaker, then parked deliveries, then a held queue."""

    def script(sent: object) -> int | DeliveryError:
        url: str = sent.url  # type: ignore[attr-defined]  # what the world's sender notes
        for name, answer in (("gone", 410), ("open", DeliveryError.CONNECT), ("parked", 422)):
            if name in url:
                return answer
        return OK

    async with world(tmp_path) as w:
        w.sender.script = script
        for name in ("well", "parked", "open", "gone"):
            await w.endpoint(f"https://{name}.example/")
        await w.endpoint("https://held.example/", is_active=False)
        await w.endpoint("https://off.example/", is_active=False, events=("user.deleted",))
        for number in range(6):
            await w.publish(f"evt_{number}")
        await trio.sleep(3600)
        assert await urls(w, order=WebhookOrder.TROUBLE, kind=WebhookKind.TROUBLED) == [
            "gone",
            "open",
            "parked",
            "held",
        ]
        assert set(await urls(w, kind=WebhookKind.OFF)) == {"gone", "held", "off"}
        assert (await urls(w, order=WebhookOrder.QUEUED))[0] in {"held", "open"}
        assert await urls(w, order=WebhookOrder.URL, descending=False, limit=2, offset=1) == ["held", "off"]
        now = await w.journal.transactions.read(directory.situation, None, w.clock.now())
        assert (now.webhooks, now.off, now.troubled, now.open) == (6, 3, 4, 1)
        assert now.pending > 6
        assert now.parked > 0
        assert now.oldest_pending_at is not None

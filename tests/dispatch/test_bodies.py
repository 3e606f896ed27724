"""The bodies that a server keeps in memory for its endpoints, in virtual time."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.world import OK, Sent, World, WorldSender, steady, world
from webhookd.base.models import DeliveryError, DeliveryStatus, Ordering, PolicyOverrides, RetryOverrides, WhenInactive
from webhookd.journal.messages import KEPT_SECONDS, Messages

EVENTS = 200


async def all_sent(w: World, count: int) -> None:
    with trio.fail_after(3600):
        while len(w.sender.sent) < count:
            await trio.sleep(1)


async def test_what_is_published_is_sent_without_a_read(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A burst is sent from memory, to each of several endpoints and in any order, and nothing of it is left there."""
    async with world(tmp_path, sender=WorldSender(seconds=0.01)) as w:
        await w.endpoint("https://a.example/")
        await w.endpoint("https://b.example/", overrides=PolicyOverrides(ordering=Ordering.NONE, concurrency=8))
        for number in range(EVENTS):
            await w.publish(f"e{number}")
        await all_sent(w, 2 * EVENTS)
        assert w.journal._bodies.asked == 0
        assert not w.journal._messages._published


@pytest.mark.parametrize(("ordering", "most"), [(Ordering.STRICT, EVENTS / 50 + 5), (Ordering.NONE, EVENTS / 5)])
async def test_what_found_no_room_is_read_in_large_parts(
    tmp_path: Path, ordering: Ordering, most: float, autojump_clock: MockClock
) -> None:
    """Of a burst that is larger than the memory for it, the rest is read from the journal, a window at a time."""
    async with world(tmp_path, sender=WorldSender(seconds=0.01)) as w:
        w.journal._messages = Messages(w.journal._bodies.ask, published_bytes=0)
        await w.endpoint(overrides=PolicyOverrides(ordering=ordering, concurrency=25))
        for number in range(EVENTS):
            await w.publish(f"e{number}")
        await all_sent(w, EVENTS)
        assert w.journal._bodies.asked <= most


async def test_no_body_is_kept_for_a_delivery_that_waits_or_has_ended(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Whatever becomes of deliveries, they don't fill the memory for long: bodies of later events are kept."""
    answers: dict[str, int | DeliveryError] = {
        "ok": OK,
        "refusing": 400,
        "failing": DeliveryError.CONNECT,
        "slow": OK,
        "young": 500,
        "gone": 410,
    }

    def script(sent: Sent) -> int | DeliveryError:
        return answers[sent.url.removeprefix("https://").removesuffix(".example/")]

    sender = WorldSender(script=script, seconds_of=lambda sent: 3.0 if "slow" in sent.url else 0.0)
    async with world(tmp_path, sender=sender, config=steady()) as w:
        w.journal._messages = Messages(w.journal._bodies.ask, published_bytes=3000)
        overrides = {
            "refusing": PolicyOverrides(retry=RetryOverrides(park_after=1)),
            "young": PolicyOverrides(retry=RetryOverrides(max_age_seconds=1)),
        }
        await w.endpoint("https://ok.example/")
        for name in ("refusing", "failing", "slow", "young", "gone"):
            await w.endpoint(f"https://{name}.example/", events=("user.created",), overrides=overrides.get(name))
        for choice in WhenInactive:
            await w.endpoint(events=("user.created",), overrides=PolicyOverrides(when_inactive=choice), is_active=False)
        deleted = await w.endpoint("https://slow.example/", events=("user.created",))
        for number in range(5):
            await w.publish(f"e{number}")
        await w.router.delete_endpoint(deleted.id)
        await trio.sleep(KEPT_SECONDS + 1)
        waiting = [*w.journal._messages._published]
        assert len(waiting) == 5
        for number in range(5):
            await w.publish(f"later{number}")
        assert not set(waiting) & set(w.journal._messages._published)
        statuses = {row.status for endpoint in await w.journal.webhooks.all() for row in await w.deliveries(endpoint)}
        assert statuses == {*DeliveryStatus}

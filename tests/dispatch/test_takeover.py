"""What a node keeps to when a webhook moves to or from another one, in virtual time."""

from pathlib import Path

import pytest
import trio
from msgspec.structs import replace
from trio.testing import MockClock

from tests.journal.harness import event, new_endpoint, publish
from tests.journal.store_calls import MOST, rows
from tests.world import WorldSender, world
from webhookd.base.database_url import parse
from webhookd.base.models import DeliveryStatus, Ordering, PolicyOverrides, RateLimit
from webhookd.journal import InlineRunner, QueuesFound, Server, SlotsTaken, open_store, slot_of

PER_SECOND = 0.5
PACED = PolicyOverrides(ordering=Ordering.STRICT, rate_limit=RateLimit(per_second=PER_SECOND, burst=5))


@pytest.mark.parametrize("engine", ["PostgreSQL"], indirect=True)
async def test_a_node_that_starts_has_no_token_for_what_another_drove(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The next node sends its first request a whole interval after it has taken over, as if a token had just gone."""
    async with world(tmp_path) as w:
        endpoint = await w.endpoint(overrides=PACED)
        await w.publish("e0")
        await trio.sleep(1)
        assert w.sender.times() == [0.0]  # a new webhook has one token: nobody has sent to it
        await w.publish("e1")
        await trio.sleep(0.5)
    next_sender = WorldSender()
    async with world(tmp_path, sender=next_sender) as w:
        for number in range(2, 4):
            await w.publish(f"e{number}")
        await trio.sleep(10)
        assert next_sender.events(endpoint.url) == ["e1", "e2", "e3"]
        assert next_sender.times() == [2.0, 4.0, 6.0]


async def test_a_slot_is_taken_with_empty_buckets(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Tokens that were saved before are gone at the moment in which a node takes the slot, and only there."""
    async with world(tmp_path) as w:
        moved, other = [await w.endpoint(f"https://{name}.example/", overrides=PACED) for name in ("a", "b")]
        await w.publish("first")
        await trio.sleep(60)  # both buckets are full
        taken = frozenset({slot_of(moved.pk)})
        w.journal.feed.announce(QueuesFound(taken))  # only says that there is something to send
        await w.publish("burst")
        await trio.sleep(60)
        w.journal.feed.announce(SlotsTaken(taken))
        for number in range(3):
            await w.publish(f"e{number}")
        await trio.sleep(30)
        assert w.sender.times(other.url) == [0.0, 60.0, 120.0, 120.0, 120.0]
        assert w.sender.times(moved.url) == [0.0, 60.0, 122.0, 124.0, 126.0]


async def test_a_slot_that_is_lost_and_taken_again_is_not_given_back(tmp_path: Path, autojump_clock: MockClock) -> None:
    """It was asked back before: what still ends for that leaves alone what has begun since."""
    async with world(tmp_path, sender=WorldSender(seconds=5.0)) as w, trio.open_nursery() as nursery:
        registry, endpoint = w.router.registry, await w.endpoint()
        slots, given = frozenset({slot_of(endpoint.pk)}), []

        async def retire() -> None:
            given.append(await registry.retire(slots))

        await w.publish("e")
        await trio.sleep(1)
        async with registry.changing(endpoint.id):  # the request that is cut off can't end before
            nursery.start_soon(retire)
            await trio.sleep(1)
            registry.lose(slots)
            lane = registry.wake(endpoint.pk)  # as after it was taken again
            await trio.sleep(1)
            assert (len(w.sender.sent), given) == (2, [])
        await trio.sleep(1)
        assert given == [frozenset()]
        assert registry.running(endpoint.pk) is lane


@pytest.mark.parametrize("engine", ["PostgreSQL"], indirect=True)
async def test_an_unknown_webhook_is_canceled_only_if_it_was_deleted(
    tmp_path: Path, empty_database: str, autojump_clock: MockClock
) -> None:
    """The queue of a webhook that another node has just made is sent as soon as this node knows of the webhook."""
    inline = InlineRunner()
    command = Server(url=parse(empty_database), takes_part=False)
    async with (
        world(tmp_path) as w,
        open_store(command, clock=w.clock, ids=w.ids, write_runner=inline, read_runner=inline) as other,
        trio.open_nursery() as nursery,
    ):
        await nursery.start(other.run)
        async with w.journal.holding_changes():
            new, deleted = [
                await other.webhooks.create(
                    w.vault, new_endpoint(url=f"https://{name}.example/"), most=MOST, entry=None
                )
                for name in ("new", "deleted")
            ]
            await publish(other, replace(event("e"), accepted_at=w.clock.now()), new, deleted).wait()
            await other.webhooks.delete(deleted.id, w.clock.now(), entry=None, condition=None)
            w.journal.feed.announce(SlotsTaken(frozenset({slot_of(new.pk), slot_of(deleted.pk)})))
            await trio.sleep(1)
            assert [row.status for row in await rows(other, deleted)] == [DeliveryStatus.CANCELED]
            assert [row.status for row in await rows(other, new)] == [DeliveryStatus.PENDING]
            assert w.sender.sent == []
        await w.journal.follow_changes()
        await trio.sleep(1)
        assert [sent.url for sent in w.sender.sent] == [new.url]
        nursery.cancel_scope.cancel()

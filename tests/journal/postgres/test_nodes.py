"""Nodes on one database: which of them sends, and that all know the same settings."""

from functools import partial

import trio
import trio.testing
from peewee import Database

from tests.journal.postgres.nodes import QUICK, Open, slots_of
from tests.patience import until
from webhookd.base.models import DeliveryStatus
from webhookd.journal import EndpointChanges, SlotsAskedBack, Store, slot_of
from webhookd.journal.ownership import SLOTS
from webhookd.journal.postgres.engine import PostgresEngine
from webhookd.journal.postgres.membership import Membership


def steal(database: Database, slot: int) -> None:
    """Take a slot as another node does that finds this one's lease ended."""
    database.execute_sql(  # type: ignore[no-untyped-call]  # peewee's stubs
        "UPDATE slots SET generation = generation + 1, node = 'node_x.1' WHERE slot = %s", (slot,)
    )


async def test_two_nodes_share_the_slots_and_one_takes_over_what_the_other_gives_back(open_nodes: Open) -> None:
    """Each drives half of the slots, none two; after one has left, the other drives all."""
    async with open_nodes() as nodes:
        one = await nodes.start()
        await until(lambda: len(slots_of(one)) == SLOTS)
        other = await nodes.start()
        await nodes.shared()
        assert slots_of(one).isdisjoint(slots_of(other))
        await nodes.stop(other)
        await until(lambda: len(slots_of(one)) == SLOTS)


async def test_slots_that_are_asked_back_before_a_node_is_ready_are_given_back(open_nodes: Open) -> None:
    """A node that took all slots while it starts gives the others theirs, although nothing of it runs yet."""
    has_all, is_asked = trio.Event(), trio.Event()

    async def be_asked(store: Store) -> None:
        store.feed.follow(SlotsAskedBack, lambda _: is_asked.set())
        has_all.set()
        await is_asked.wait()

    async with open_nodes() as nodes, trio.open_nursery() as starting:
        nodes.before_router = be_asked
        starting.start_soon(nodes.start)
        await has_all.wait()
        nodes.before_router = None
        await nodes.start()
        await until(lambda: len(nodes.all) == 2)
        await nodes.shared()


async def test_an_event_is_delivered_by_the_node_that_drives_the_webhook(open_nodes: Open) -> None:
    """Whichever node an event is published at, its deliveries are sent once, in sequence, by the owner."""
    async with open_nodes() as nodes:
        one, other = await nodes.start(), await nodes.start()
        await nodes.shared()
        endpoints = [await one.endpoint(url=f"https://receiver.example/{number}") for number in range(6)]
        assert {slot_of(each.pk) in slots_of(one) for each in endpoints} == {True, False}
        for number in range(20):
            await (one if number % 2 else other).publish(f"e{number}")
        for endpoint in endpoints:
            await until(partial(nodes.have_sent, endpoint.url, 20))
            assert nodes.sender.events(endpoint.url) == [f"e{number}" for number in range(20)]
            owner = one if one.journal.ownership.owns(endpoint.pk) else other
            assert owner.router.registry.running(endpoint.pk) is not None
            assert (other if owner is one else one).router.registry.running(endpoint.pk) is None
            rows = await one.deliveries(endpoint)
            assert [row.sequence for row in rows] == list(range(1, 21))


async def test_a_new_webhook_gets_each_later_event_of_every_node(open_nodes: Open) -> None:
    """Once its creation has been answered, an event that another node takes has it among its targets."""
    async with open_nodes() as nodes:
        one, other = await nodes.start(), await nodes.start()
        for number in range(20):
            endpoint = await one.endpoint(url=f"https://receiver.example/{number}")
            await other.publish(f"e{number}")
            rows = await one.deliveries(endpoint)
            assert [row.event_id for row in rows] == [f"e{number}"]


async def test_a_change_reaches_the_node_that_drives_the_webhook(open_nodes: Open) -> None:
    """A webhook that is switched off and on again at one node stops and goes on at the other."""
    async with open_nodes() as nodes:
        one, other = await nodes.start(), await nodes.start()
        await nodes.shared()
        endpoints = [await one.endpoint(url=f"https://receiver.example/{number}") for number in range(4)]
        theirs = next(each for each in endpoints if other.journal.ownership.owns(each.pk))
        await one.router.update_endpoint(theirs.id, EndpointChanges(is_active=False))
        await other.publish("held")
        await until(lambda: len(nodes.sender.events()) == 3)
        assert nodes.sender.events(theirs.url) == []
        await one.router.update_endpoint(theirs.id, EndpointChanges(is_active=True))
        await until(lambda: nodes.sender.events(theirs.url) == ["held"])


async def test_a_retry_by_hand_at_another_node_is_sent_by_the_owner(open_nodes: Open) -> None:
    """A delivery that has succeeded is sent once more, although the node that was asked doesn't drive its webhook."""
    async with open_nodes() as nodes:
        one, other = await nodes.start(), await nodes.start()
        await nodes.shared()
        endpoints = [await one.endpoint(url=f"https://receiver.example/{number}") for number in range(4)]
        theirs = next(each for each in endpoints if other.journal.ownership.owns(each.pk))
        await one.publish("again")
        await until(lambda: nodes.sender.events(theirs.url) == ["again"])

        while (await one.deliveries(theirs))[0].status is not DeliveryStatus.SUCCEEDED:
            await trio.sleep(0.01)
        [found] = await one.deliveries(theirs)
        await one.router.retry(found.id, None, force=True)
        await until(lambda: nodes.sender.events(theirs.url) == ["again", "again"])


async def test_a_record_of_a_slot_that_was_lost_is_refused(open_nodes: Open) -> None:
    """A node whose slots were taken while a request was under way records nothing of it; the new owner sends again."""
    async with open_nodes() as nodes:
        nodes.sender.seconds_of = lambda sent: 0.3 if sent.number == 1 and len(nodes.sender.sent) == 1 else 0.0
        one = await nodes.start()
        await until(lambda: len(slots_of(one)) == SLOTS)
        endpoint = await one.endpoint()
        await one.publish("e")
        await until(lambda: len(nodes.sender.sent) == 1)
        # As if it had been stopped for so long that another node took the slot.
        await one.journal.transactions.write(steal, slot_of(endpoint.pk))
        await until(lambda: len(nodes.sender.sent) == 2)  # the other isn't alive, so the slot is taken back
        while (await one.deliveries(endpoint))[0].status is not DeliveryStatus.SUCCEEDED:
            await trio.sleep(0.01)
        [row] = await one.deliveries(endpoint)
        assert row.attempts == 1  # of two requests, the one under the present generation is on record


async def test_the_nodes_and_their_shares_are_listed(open_nodes: Open) -> None:
    """Any node lists all, with the slots that they drive, and knows which of them it is."""
    async with open_nodes() as nodes:
        one, other = await nodes.start(), await nodes.start()
        await nodes.shared()
        found = await other.journal.read_nodes()
        while found is None or found.free_slots or {node.slots for node in found.nodes} != {SLOTS // 2}:
            found = await other.journal.read_nodes()
        assert [node.name for node in found.nodes] == ["node-1", "node-2"]
        assert found.own == found.nodes[1].id
        assert all(0 < node.seconds_left <= QUICK.lease for node in found.nodes)
        assert slots_of(one).isdisjoint(slots_of(other))


async def test_a_node_that_starts_wakes_no_endpoint_without_work(open_nodes: Open) -> None:
    """It learns of all queues by its first look, and starts actors only for those that have something queued."""
    async with open_nodes() as nodes:
        first = await nodes.start()
        done, held = [await first.endpoint(url=f"https://receiver.example/{number}") for number in range(2)]
        await first.publish("e0")
        await until(lambda: len(nodes.sender.events()) == 2)
        while {row.status for each in (done, held) for row in await first.deliveries(each)} != {
            DeliveryStatus.SUCCEEDED
        }:
            await trio.sleep(0.01)
        await nodes.stop(first)
        second = await nodes.start()
        await until(lambda: len(slots_of(second)) == SLOTS)
        engine = second.journal._engine
        assert isinstance(engine, PostgresEngine)
        wakes = engine._wakes
        await until(lambda: done.pk in wakes._seen and held.pk in wakes._seen)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert second.router.registry.running(done.pk) is None
        assert second.router.registry.running(held.pk) is None


async def test_a_slot_that_was_taken_again_is_not_given_back(open_nodes: Open) -> None:
    """It was asked back and then lost: what is retired for the old request leaves the new lease alone."""
    async with open_nodes() as nodes:
        node = await nodes.start()
        membership = node.journal.ownership
        assert isinstance(membership, Membership)
        await until(lambda: 5 in membership.slots)
        generation = membership.fence(5).generation
        membership._leaving.add(5)
        membership._lose(frozenset({5}))
        await until(lambda: membership.fence(5).generation > generation)
        await node.journal.give_back(frozenset({5}))
        assert membership.owns(5)

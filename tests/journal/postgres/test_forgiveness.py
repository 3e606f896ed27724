"""A webhook that is mended at one node while another one drives it: its outage is forgiven there, too."""

from functools import partial

import trio

from tests.journal.postgres.nodes import Nodes, Open, endpoint_of
from tests.patience import until
from tests.world import OK, Sent, World, steady
from webhookd.base.models import BreakerState, DeliveryStatus, Endpoint
from webhookd.journal import EndpointChanges

GOOD = "https://good.example/"
HELD = 2  # the attempt that isn't answered before the test says so
OFTEN_SECONDS = 0.02
SOON, NEVER = 0.1, 86_400.0


class Outage:
    """A webhook that one node drives and whose receiver answers an error; its second attempt is in flight."""

    def __init__(self, nodes: Nodes, one: World, owner: World, endpoint: Endpoint, answer: int) -> None:
        self.one = one
        self.owner = owner
        self.endpoint = endpoint
        self.released = trio.Event()
        self._sender = nodes.sender
        nodes.sender.script = lambda sent: OK if sent.url == GOOD else 500 if sent.number < HELD else answer
        nodes.sender.held_by = self._holds

    def _holds(self, sent: Sent) -> trio.Event | None:
        return self.released if sent.url == self.endpoint.url and sent.number == HELD else None

    async def begin(self) -> None:
        await self.one.publish("e")
        await until(partial(self.have_been_sent, self.endpoint.url, HELD))
        state = await self.one.journal.webhooks.state(self.endpoint.pk)
        assert (state.breaker, state.consecutive_faults) == (BreakerState.OPEN, 1)

    async def mend(self) -> None:
        await self.one.router.update_endpoint(self.endpoint.id, EndpointChanges(url=GOOD))

    def have_been_sent(self, url: str, number: int) -> bool:
        return len(self._sender.events(url)) == number

    async def has_ended(self) -> None:
        """Wait until the event has arrived at the new URL, and check that nothing is left of the outage."""
        await until(partial(self.have_been_sent, GOOD, 1))
        while (await self.one.deliveries(self.endpoint))[0].status is not DeliveryStatus.SUCCEEDED:
            await trio.sleep(OFTEN_SECONDS)
        state = await self.one.journal.webhooks.state(self.endpoint.pk)
        assert (state.breaker, state.consecutive_faults, state.failing_since) == (BreakerState.CLOSED, 0, None)
        lane = self.owner.router.registry.running(self.endpoint.pk)
        assert lane is not None
        assert lane.state == state
        assert (await self.one.journal.webhooks.get(self.endpoint.id)).is_active
        assert self.have_been_sent(self.endpoint.url, HELD)


async def outage_of(nodes: Nodes, *, answer: int = 500) -> Outage:
    nodes.config = steady(retry_delays=(SOON, NEVER), breaker_threshold=1)
    one, owner = await nodes.two()
    outage = Outage(nodes, one, owner, await endpoint_of(owner, at=one), answer)
    await outage.begin()
    return outage


async def test_a_change_at_another_node_forgives_an_outage(open_nodes: Open) -> None:
    """The owner that learns of it sends at once; the answer to an older attempt then counts no more."""
    async with open_nodes() as nodes:
        outage = await outage_of(nodes)
        lane = outage.owner.router.registry.running(outage.endpoint.pk)
        assert lane is not None
        await outage.mend()
        await until(lambda: lane.state.forgiven == 1)
        outage.released.set()
        await outage.has_ended()


async def test_an_answer_before_the_owner_knows_brings_no_outage_back(open_nodes: Open) -> None:
    """What is recorded between the change and the moment at which the owner learns of it is forgiven afterwards."""
    async with open_nodes() as nodes:
        outage = await outage_of(nodes)
        async with outage.owner.journal.holding_changes():
            await outage.mend()
            forgiven = await outage.one.journal.webhooks.state(outage.endpoint.pk)
            outage.released.set()
            while (await outage.one.deliveries(outage.endpoint))[0].attempts < HELD:
                await trio.sleep(OFTEN_SECONDS)
            assert await outage.one.journal.webhooks.state(outage.endpoint.pk) == forgiven
        await outage.has_ended()


async def test_a_webhook_that_was_mended_is_not_disabled(open_nodes: Open) -> None:
    """A 410 of the old receiver doesn't disable a webhook that has another URL by now."""
    async with open_nodes() as nodes:
        outage = await outage_of(nodes, answer=410)
        async with outage.owner.journal.holding_changes():
            await outage.mend()
            outage.released.set()
            while (await outage.one.deliveries(outage.endpoint))[0].attempts < HELD:
                await trio.sleep(OFTEN_SECONDS)
        lane = outage.owner.router.registry.running(outage.endpoint.pk)
        assert lane is not None
        await until(lambda: lane.state.forgiven == 1)
        await outage.one.publish("later")
        await until(partial(outage.have_been_sent, GOOD, 1))
        assert (await outage.one.journal.webhooks.get(outage.endpoint.id)).is_active


async def test_the_next_owner_sends_at_once_what_was_forgiven(open_nodes: Open) -> None:
    """An owner that ends before it has learned of the change leaves nothing put off: its records don't do so."""
    async with open_nodes() as nodes:
        outage = await outage_of(nodes)
        async with outage.owner.journal.holding_changes():
            await outage.mend()
            outage.released.set()
            while (await outage.one.deliveries(outage.endpoint))[0].attempts < HELD:
                await trio.sleep(OFTEN_SECONDS)
            [row] = await outage.one.deliveries(outage.endpoint)
            assert row.next_attempt_at is not None
            assert row.next_attempt_at <= outage.one.clock.now()
            await nodes.stop(outage.owner)
        await until(partial(outage.have_been_sent, GOOD, 1))

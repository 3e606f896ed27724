"""What changes an endpoint and its deliveries, in exact virtual time: crashes, retries by hand, settings, deletion."""

from functools import partial
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.world import OK, HeldRunner, World, WorldSender, new_event, steady, world
from webhookd.admin.reason_text import reason_text
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import (
    BreakerState,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    Endpoint,
    Ordering,
    Outcome,
    PolicyOverrides,
    RetryOverrides,
    Trigger,
    WhenInactive,
)
from webhookd.delivery.request import Request
from webhookd.journal import EndpointChanges, EventTypeRow
from webhookd.journal.queries import retention

BAD = "https://bad.example/"
GOOD = "https://good.example/"


class Crashing(WorldSender):
    """Raises for the bad URL, as a bug would."""

    is_mended = False

    async def send(self, request: Request) -> Outcome:
        if request.url == BAD and not self.is_mended:
            raise ZeroDivisionError("a bug")
        return await super().send(request)


async def status_of(w: World, endpoint: Endpoint, index: int = 0) -> DeliveryStatus:
    return (await w.deliveries(endpoint))[index].status


async def test_a_crash_stays_with_its_endpoint(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An actor that keeps crashing is restarted, then halted, which is reported; other webhooks go on."""
    sender = Crashing()
    async with world(tmp_path, sender=sender) as w:
        bad, good = await w.endpoint(BAD), await w.endpoint(GOOD)
        published = []
        for number in range(30):
            await w.publish(f"e{number}")
            published.append(round(trio.current_time() - sender.began_at, 3))
            await trio.sleep(1)
        assert sender.times(GOOD) == published
        assert [endpoint.id for endpoint in w.router.registry.halted()] == [bad.id]
        [health] = await w.router.health([bad])
        assert (reason_text(health) or "").startswith(
            "Halted: sending crashed too often inside webhookd, last with ZeroDivisionError"
        )
        # Changing the webhook tries it at once.
        sender.is_mended = True
        await w.router.update_endpoint(bad.id, EndpointChanges(description="mended"))
        await trio.sleep(5)
        assert sender.events(BAD) == [f"e{number}" for number in range(30)]
        assert w.router.registry.halted() == []
        assert await status_of(w, good) is DeliveryStatus.SUCCEEDED


async def test_a_halted_endpoint_is_tried_again_after_a_quarter_of_an_hour(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A halted actor is tried again after 15 minutes."""
    sender = Crashing()
    async with world(tmp_path, sender=sender) as w:
        await w.endpoint(BAD)
        await w.publish("e0")
        await trio.sleep(60)
        assert w.router.registry.halted()
        sender.is_mended = True
        await trio.sleep(900)
        assert sender.events(BAD) == ["e0"]


async def test_an_inactive_endpoint_holds_in_order(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Events for a disabled webhook are sent in order once it is enabled; with `drop` they are recorded as canceled."""
    sender = WorldSender()
    async with world(tmp_path, sender=sender) as w:
        holding = await w.endpoint(GOOD, is_active=False)
        dropping = await w.endpoint(BAD, is_active=False, overrides=PolicyOverrides(when_inactive=WhenInactive.DROP))
        for number in range(5):
            await w.publish(f"e{number}")
        await trio.sleep(100)
        assert sender.sent == []
        for endpoint in (holding, dropping):
            changed = await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
            assert (changed.disabled_reason, changed.disabled_at) == (None, None)
        await w.publish("last")
        await trio.sleep(1)
        assert sender.events(GOOD) == [*(f"e{number}" for number in range(5)), "last"]
        assert sender.events(BAD) == ["last"]
        rows = await w.deliveries(dropping)
        assert [row.status for row in rows[:-1]] == [DeliveryStatus.CANCELED] * 5
        assert [row.sequence for row in rows] == [1, 2, 3, 4, 5, 6]


async def test_switched_on_again_it_is_tried_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Enabling a disabled endpoint, or changing its URL, resets the state of its outage."""
    sender = WorldSender(script=lambda sent: DeliveryError.CONNECT if sent.url == BAD else OK)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint(BAD)
        await w.publish("e0")
        await trio.sleep(500)
        [health] = await w.router.health([endpoint])
        assert health.breaker is BreakerState.OPEN
        before = len(sender.sent)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(url=GOOD))
        await trio.sleep(0.1)
        assert len(sender.sent) == before + 1
        [health] = await w.router.health([endpoint])
        assert (health.breaker, reason_text(health)) == (BreakerState.CLOSED, "Nothing queued")


async def test_failing_for_long_enough_disables(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After 120 h of failures only, and ten attempts, the endpoint is disabled as failing; the queue is held."""
    sender = WorldSender(script=lambda _: 500)
    overrides = PolicyOverrides(retry=RetryOverrides(max_age_seconds=2_592_000))
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint(overrides=overrides)
        await w.publish("e0")
        await trio.sleep(119 * 3600)
        lane = w.router.registry.lane(endpoint.pk)
        assert lane is not None
        assert lane.endpoint.is_active
        await trio.sleep(2 * 3600)
        lane = w.router.registry.lane(endpoint.pk)
        assert lane is not None
        assert (lane.endpoint.is_active, lane.endpoint.disabled_reason) == (False, DisabledReason.FAILING)
        assert await status_of(w, endpoint) is DeliveryStatus.PENDING
        [health] = await w.router.health([lane.endpoint])
        assert reason_text(health) == "Held: disabled as failing since 2025-01-01T00:00:00.000Z"


async def test_a_deleted_endpoint_is_sent_nothing_more(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A deletion cancels the queue, also after a stop in between; the request in flight ends and is on record."""
    sender = WorldSender(seconds=5.0)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(3):
            await w.publish(f"e{number}")
        await trio.sleep(1)
        await w.router.delete_endpoint(endpoint.id)
        await trio.sleep(10)
        assert sender.events() == ["e0"]
        rows = await w.deliveries(endpoint)
        assert [row.status for row in rows] == [DeliveryStatus.CANCELED] * 3
        assert (rows[0].attempts, rows[0].response_status) == (1, 200)
        with pytest.raises(Rejected) as gone:
            await w.router.retry(rows[1].id, None, force=True)
        assert gone.value.code is ErrorCode.CONFLICT
        assert (await w.publish("later")).deliveries == 0


async def test_retrying_by_hand_what_has_failed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A failed delivery that is retried is sent next, with its sequence, and with age and refusals reset."""
    sender = WorldSender(script=lambda sent: 422 if sent.event == "e0" and sent.number <= 10 else OK)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(86_400)
        failed = (await w.deliveries(endpoint))[0]
        assert (failed.status, failed.refusals) == (DeliveryStatus.FAILED, 10)
        retried = await w.router.retry(failed.id, None, force=False)
        assert (retried.status, retried.refusals, retried.sequence) == (DeliveryStatus.PENDING, 0, 1)
        assert retried.expires_at > failed.expires_at
        await trio.sleep(1)
        after = (await w.deliveries(endpoint))[0]
        assert (after.status, after.attempts) == (DeliveryStatus.SUCCEEDED, 11)
        assert (await w.detail(after.id)).attempts[-1].trigger is Trigger.MANUAL
        assert sender.sent[-1].headers["x-webhook-sequence"] == "1"


async def test_retrying_by_hand_what_has_succeeded(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A delivery that has succeeded is retried only with `force`; one in flight, or unknown, can't be retried."""
    sender = WorldSender(seconds=2.0)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(1)
        [row] = await w.deliveries(endpoint)
        with pytest.raises(Rejected, match="being sent right now"):
            await w.router.retry(row.id, None, force=True)
        await trio.sleep(2)
        with pytest.raises(Rejected, match="force"):
            await w.router.retry(row.id, None, force=False)
        await w.router.retry(row.id, None, force=True)
        await trio.sleep(5)
        assert sender.events() == ["e0", "e0"]
        with pytest.raises(Rejected) as unknown:
            await w.router.retry("dlv_unknown", None, force=False)
        assert unknown.value.code is ErrorCode.NOT_FOUND


@pytest.mark.parametrize("retried", [0, 1])
async def test_retrying_by_hand_what_is_pending(tmp_path: Path, autojump_clock: MockClock, retried: int) -> None:
    """A retry of any pending delivery ends the back-off of its queue; no delivery overtakes another."""
    sender = WorldSender(script=lambda sent: 500 if sent.event == "e0" and sent.number == 1 else OK)
    async with world(tmp_path, sender=sender, config=steady(retry_delays=(600.0,))) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(10)
        row = (await w.deliveries(endpoint))[retried]
        await w.router.retry(row.id, None, force=False)
        await trio.sleep(1)
        assert sender.events() == ["e0", "e0", "e1"]
        assert sender.times() == [0, 10, 10]


async def test_retrying_by_hand_what_is_parked(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A parked delivery is sent now and stays parked."""
    sender = WorldSender(script=lambda sent: 409 if sent.event == "e0" and sent.number <= 3 else OK)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(40)
        [row] = await w.deliveries(endpoint)
        assert row.status is DeliveryStatus.PARKED
        at = len(sender.sent)
        await w.router.retry(row.id, None, force=False)
        await trio.sleep(0.1)
        assert len(sender.sent) == at + 1
        assert await status_of(w, endpoint) is DeliveryStatus.SUCCEEDED


async def test_retrying_by_hand_what_retention_removes_meanwhile(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A delivery that retention deletes between the look-up and the change is not found, which is no crash."""
    writes = HeldRunner()
    async with world(tmp_path, writes=writes) as w:
        endpoint = await w.endpoint()
        await w.publish("e1")
        await trio.sleep(1)
        [row] = await w.deliveries(endpoint)
        writes.hold()
        removed = w.journal.transactions.submit(
            partial(retention.prune, before=w.clock.now() + 1, rows=100), insists=True
        )
        refused: list[Rejected] = []
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_retry_refused, w, row.id, refused)
            await wait_all_tasks_blocked()  # the row was there, and the change waits behind its removal
            writes.free()
        assert (await removed.wait()).rows > 0
        assert [error.code for error in refused] == [ErrorCode.NOT_FOUND]


async def _retry_refused(w: World, delivery_id: str, refused: list[Rejected]) -> None:
    with pytest.raises(Rejected) as caught:
        await w.router.retry(delivery_id, None, force=True)
    refused.append(caught.value)


async def test_a_retry_by_hand_is_the_probe_of_an_open_breaker(tmp_path: Path, autojump_clock: MockClock) -> None:
    """While the breaker is open a retry by hand is sent at once; for a disabled webhook it is held."""
    answers = {"ok": False}
    sender = WorldSender(script=lambda _: OK if answers["ok"] else 500)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(500)
        [health] = await w.router.health([endpoint])
        assert health.breaker is BreakerState.OPEN
        answers["ok"] = True
        before = len(sender.sent)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=False))
        await w.router.retry((await w.deliveries(endpoint))[0].id, None, force=False)
        await trio.sleep(1)
        assert len(sender.sent) == before
    async with world(tmp_path, sender=sender) as w:
        sender.sent.clear()
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await trio.sleep(1)
        assert sender.events() == ["e0", "e1"]


async def test_settings_take_effect_for_what_is_queued(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An ordering that is changed while deliveries wait applies to the next request."""
    sender = WorldSender(seconds=1.0)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(20):
            await w.publish(f"e{number}")
        await trio.sleep(3.5)
        assert len(sender.sent) == 4
        overrides = PolicyOverrides(ordering=Ordering.NONE, concurrency=16)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(overrides=overrides))
        await trio.sleep(2)
        assert len(sender.sent) == 20
        assert sender.most_in_flight[endpoint.url] == 16


async def test_the_catalogue_decides_what_is_taken(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A type that isn't in the catalogue is refused until it is added; webhookd's own are always refused."""
    async with world(tmp_path) as w:
        for name in ("order.paid", "webhook.disabled", "webhook.test"):
            with pytest.raises(Rejected) as refused:
                await w.publish("e", type=name)
            assert refused.value.code is ErrorCode.UNKNOWN_EVENT_TYPE
        await w.journal.event_types.put(EventTypeRow(name="order.paid"), 0.0, entry=None, condition=None)
        assert not (await w.publish("e", type="order.paid")).duplicate
        await w.journal.event_types.delete("order.paid", entry=None, condition=None)
        with pytest.raises(Rejected):
            await w.publish("e2", type="order.paid")


async def test_endpoints_reach_their_organizations(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An event of an organization reaches its endpoints and those without one; an event without one only the latter."""
    sender = WorldSender()
    async with world(tmp_path, sender=sender) as w:
        await w.endpoint("https://none.example/")
        await w.endpoint("https://acme.example/", organization_id="acme")
        await w.endpoint("https://other.example/", organization_id="other")
        assert (await w.publish("a", organizationId="acme")).deliveries == 2
        assert (await w.publish("n")).deliveries == 1
        await trio.sleep(1)
        assert sender.events("https://acme.example/") == ["a"]
        assert sender.events("https://none.example/") == ["a", "n"]
        assert sender.events("https://other.example/") == []


async def test_an_id_of_the_producers_own_is_taken_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A repeated id, in the same batch or long after, gets the first answer and causes no request."""
    async with world(tmp_path) as w:
        await w.endpoint()
        event = {"type": "user.created", "data": {}, "id": "mine"}
        tickets = [w.router.publish(new_event(event)) for _ in range(2)]
        answers = [await ticket.wait() for ticket in tickets]
        await trio.sleep(60)
        answers.append(await w.publish("mine"))
        await trio.sleep(60)
    assert [(answer.deliveries, answer.duplicate) for answer in answers] == [(1, False), (1, True), (1, True)]
    assert w.sender.events() == ["mine"]


async def test_nobodys_receivers_take_all_requests(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Slow receivers of one organization don't delay another organization's delivery."""
    sender = WorldSender(seconds_of=lambda sent: 0.1 if sent.url == GOOD else 1000.0)
    overrides = PolicyOverrides(ordering=Ordering.NONE, concurrency=256, timeout_seconds=30)
    async with world(tmp_path, sender=sender) as w:
        await w.endpoint(GOOD, organization_id="good")
        for number in range(3):
            await w.endpoint(f"https://hang.example/{number}", organization_id="hanging", overrides=overrides)
        for number in range(300):
            await w.publish(f"e{number}", organizationId="hanging")
        await wait_all_tasks_blocked()
        assert w.router.registry.slots.taken == 342
        assert w.router.registry.slots.waiting > 0
        began_at = trio.current_time()
        await w.publish("other", organizationId="good")
        await trio.sleep(1)
        assert sender.times(GOOD)[0] == pytest.approx(began_at - sender.began_at, abs=0.2)

"""One endpoint's deliveries in exact virtual time: order, retries, parking, breaker, pauses, expiry, keys and pace."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.world import OK, Answer, Sent, WorldSender, new_event, steady, world
from webhookd.admin.reason_text import reason_text
from webhookd.base.models import (
    BreakerState,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    Ordering,
    Outcome,
    PolicyOverrides,
    PublishResult,
    RateLimit,
    RetryOverrides,
    Trigger,
)
from webhookd.delivery.request import Cancelable, Done, Request
from webhookd.dispatch.router import SWEEP_SECONDS
from webhookd.journal import EndpointChanges, Ticket


def failing(times: dict[str, int], answer: Answer = 500) -> WorldSender:
    """Return a sender that fails the first attempts of the named events, as many as each number says."""
    return WorldSender(script=lambda sent: answer if sent.number <= times.get(sent.event, 0) else OK)


async def test_deliveries_leave_in_sequence_one_at_a_time(autojump_clock: MockClock) -> None:
    """In strict order each request is sent after the answer to the previous one, and each is on record."""
    sender = WorldSender(seconds=0.2)
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(20):
            await w.publish(f"e{number}")
        await trio.sleep(10)
        assert sender.events() == [f"e{number}" for number in range(20)]
        assert sender.most_in_flight[endpoint.url] == 1
        rows = await w.deliveries(endpoint)
        assert [row.sequence for row in rows] == list(range(1, 21))
        assert {row.status for row in rows} == {DeliveryStatus.SUCCEEDED}
        assert [int(sent.headers["x-webhook-sequence"]) for sent in sender.sent] == list(range(1, 21))
        detail = await w.detail(rows[3].id)
        [attempt] = detail.attempts
        assert (attempt.number, attempt.trigger, attempt.response_status) == (1, Trigger.AUTO, 200)
        assert attempt.duration_seconds == pytest.approx(0.2)
        assert detail.message.body == sender.sent[3].body


async def test_a_fault_holds_the_line_on_the_schedule(autojump_clock: MockClock) -> None:
    """A failing endpoint is tried again after 5 s, 30 s and 2 min; no delivery overtakes another."""
    sender = failing({"e0": 3})
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(3):
            await w.publish(f"e{number}")
        await trio.sleep(1000)
        assert sender.times() == [0, 5, 35, 155, 155, 155]
        assert sender.events() == ["e0", "e0", "e0", "e0", "e1", "e2"]
        first = (await w.deliveries(endpoint))[0]
        assert (first.attempts, first.refusals, first.status) == (4, 0, DeliveryStatus.SUCCEEDED)
        errors = [attempt.error for attempt in (await w.detail(first.id)).attempts]
        assert errors == [DeliveryError.HTTP_5XX] * 3 + [None]


async def test_the_last_delay_repeats(autojump_clock: MockClock) -> None:
    """After the end of the list of delays each wait is the last of them."""
    sender = failing({"e0": 8})
    overrides = PolicyOverrides(retry=RetryOverrides(delays=(1.0, 2.0)), breaker_threshold=1000)
    async with world(None, sender=sender) as w:
        await w.endpoint(overrides=overrides)
        await w.publish("e0")
        await trio.sleep(100)
        assert sender.times() == [0, 1, 3, 5, 7, 9, 11, 13, 15]


async def test_a_refused_message_is_parked_and_lets_the_others_pass(autojump_clock: MockClock) -> None:
    """After three refusals a delivery is retried outside the queue, until it has the most refusals allowed."""
    sender = failing({"bad": 1000}, 422)
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("bad")
        await w.publish("good")
        await trio.sleep(36)
        assert sender.events() == ["bad", "bad", "bad", "good"]
        assert sender.times() == [0, 5, 35, 35]
        assert (await w.deliveries(endpoint))[0].status is DeliveryStatus.PARKED
        await w.publish("later")
        await trio.sleep(86_400)
        bad, *others = await w.deliveries(endpoint)
        assert {row.status for row in others} == {DeliveryStatus.SUCCEEDED}
        assert (bad.status, bad.attempts, bad.refusals) == (DeliveryStatus.FAILED, 10, 10)
        assert (bad.error, bad.response_status) == (DeliveryError.REFUSED, 422)


async def test_five_faults_open_the_breaker_and_one_probe_closes_it(autojump_clock: MockClock) -> None:
    """While the breaker is open nothing is sent but one probe at the end of each back-off."""
    sender = failing({"e0": 6}, DeliveryError.CONNECT)
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(500)
        [health] = await w.router.health([endpoint])
        assert health.breaker is BreakerState.OPEN
        assert (reason_text(health) or "").startswith("Circuit open after 5 faults, last: connect; next probe in")
        await trio.sleep(3600)
        # 5 s, 30 s, 2 min, 5 min, 10 min to the probe, which fails, 15 min to the next.
        assert sender.times() == [0, 5, 35, 155, 455, 1055, 1955, 1955]
        [health] = await w.router.health([endpoint])
        assert (health.breaker, health.consecutive_failures) == (BreakerState.CLOSED, 0)


async def test_an_open_breaker_survives_a_restart(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A restart keeps the state of an outage, and doesn't try the endpoint before the back-off ends."""
    sender = failing({"e0": 5}, DeliveryError.TIMEOUT)
    async with world(tmp_path, sender=sender) as w:
        await w.endpoint()
        await w.publish("e0")
        await trio.sleep(460)
        assert len(sender.sent) == 5
    second = WorldSender()
    async with world(tmp_path, sender=second) as w:
        await trio.sleep(590)
        assert second.sent == []
        await trio.sleep(10)
        assert second.events() == ["e0"]


async def test_a_throttling_receiver_pauses_the_whole_endpoint(autojump_clock: MockClock) -> None:
    """A 429 delays the whole queue by its Retry-After, and isn't a refusal; then the queue goes on in order."""
    answers: list[Answer] = [
        Outcome(duration_seconds=0.0, status=429, headers=(("Retry-After", "60"),)),
        Outcome(duration_seconds=0.0, status=503, headers=(("retry-after", "garbage"),)),
    ]
    sender = WorldSender(script=lambda sent: answers[sent.number - 1] if sent.event == "e0" and sent.number < 3 else OK)
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(30)
        [health] = await w.router.health([endpoint])
        assert reason_text(health) == "Paused by Retry-After until 2025-01-01T00:01:00.000Z"
        await trio.sleep(1000)
        assert sender.times() == [0, 60, 90, 90]
        first = (await w.deliveries(endpoint))[0]
        assert (first.attempts, first.refusals, first.status) == (3, 0, DeliveryStatus.SUCCEEDED)


async def test_410_disables_the_webhook_and_fails_the_delivery(autojump_clock: MockClock) -> None:
    """A receiver that answered 410 gets no more requests; later events are held."""
    sender = WorldSender(script=lambda _: 410)
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        for number in range(3):
            await w.publish(f"e{number}")
        await trio.sleep(3600)
        assert sender.events() == ["e0"]
        first, *rest = await w.deliveries(endpoint)
        assert (first.status, first.error) == (DeliveryStatus.FAILED, DeliveryError.GONE)
        assert {row.status for row in rest} == {DeliveryStatus.PENDING}
        lane = w.router.registry.lane(endpoint.pk)
        assert lane is not None
        assert (lane.endpoint.is_active, lane.endpoint.disabled_reason) == (False, DisabledReason.GONE)


@pytest.mark.parametrize(("wish", "reason"), [("abort", None), ("disable", DisabledReason.RECEIVER)])
async def test_a_receiver_may_decide(autojump_clock: MockClock, wish: str, reason: DisabledReason | None) -> None:
    """`webhook-delivery: abort` fails the delivery, `disable` disables the webhook, whatever the status."""
    answer = Outcome(duration_seconds=0.0, status=500, headers=(("Webhook-Delivery", wish),))
    sender = WorldSender(script=lambda sent: answer if sent.event == "e0" else OK)
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(1)
        lane = w.router.registry.lane(endpoint.pk)
        assert lane is not None
        assert lane.endpoint.disabled_reason is reason
        assert sender.events() == (["e0", "e1"] if wish == "abort" else ["e0"])
        status = (await w.deliveries(endpoint))[0].status
        assert status is (DeliveryStatus.FAILED if wish == "abort" else DeliveryStatus.PENDING)


async def test_a_delivery_that_is_too_old_fails(autojump_clock: MockClock) -> None:
    """A delivery to an endpoint that always fails ends only by its age, and its error is `expired`."""
    sender = WorldSender(script=lambda _: DeliveryError.DNS)
    async with world(None, sender=sender, config=steady(max_age_seconds=600)) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(601)
        [row] = await w.deliveries(endpoint)
        assert (row.status, row.error, row.completed_at) == (
            DeliveryStatus.FAILED,
            DeliveryError.EXPIRED,
            row.expires_at,
        )


async def test_by_key_only_a_keys_own_line_waits(autojump_clock: MockClock) -> None:
    """With `ordering: key` a refused delivery delays only its own key."""
    sender = failing({"a1": 1}, 400)
    sender.seconds = 1.0
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=Ordering.KEY, concurrency=3))
        for event, key in (("a1", "a"), ("a2", "a"), ("b1", "b"), ("b2", "b"), ("n1", None), ("n2", None)):
            await w.publish(event, key=key)
        await trio.sleep(60)
        first_sent = {sent.event: sent.at for sent in reversed(sender.sent)}
        assert first_sent["a1"] == first_sent["b1"] == first_sent["n1"] == 0
        assert first_sent["b2"] == first_sent["n2"] == 1
        assert first_sent["a2"] >= 7  # a1: refused at 1, again at 6, answered at 7
        assert sender.most_in_flight[endpoint.url] == 3


async def test_without_order_up_to_concurrency_are_in_flight(autojump_clock: MockClock) -> None:
    """With `ordering: none` a slow delivery delays no other, and `concurrency` isn't exceeded."""
    sender = WorldSender(seconds=1.0)
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=Ordering.NONE, concurrency=4))
        for number in range(40):
            await w.publish(f"e{number}")
        await trio.sleep(11)
        assert len(sender.sent) == 40
        assert sender.most_in_flight[endpoint.url] == 4
        assert {row.status for row in await w.deliveries(endpoint)} == {DeliveryStatus.SUCCEEDED}


async def test_a_rate_limit_paces(autojump_clock: MockClock) -> None:
    """A token bucket spaces the requests, and the health has the reason for the wait."""
    sender = WorldSender()
    async with world(None, sender=sender) as w:
        limit = RateLimit(per_second=2.0, burst=1)
        endpoint = await w.endpoint(overrides=PolicyOverrides(rate_limit=limit))
        for number in range(6):
            await w.publish(f"e{number}")
        await trio.sleep(1.2)
        [health] = await w.router.health([endpoint])
        assert reason_text(health) == "Waiting for a rate token"
        await trio.sleep(10)
        assert sender.times() == pytest.approx([0, 0.5, 1, 1.5, 2, 2.5], abs=0.002)


async def test_a_backlog_that_ends_while_no_slot_is_free_is_over(autojump_clock: MockClock) -> None:
    """The bucket saves tokens for a burst from the last record on, though another endpoint has the only slot then."""
    slow, paced = "https://slow.example/", "https://paced.example/"
    sender = WorldSender(seconds_of=lambda sent: {"first": 1.0, "slow": 14.0}.get(sent.event, 0.0))
    async with world(None, sender=sender, config=steady(max_in_flight=1)) as w:
        await w.endpoint(slow, organization_id="org_slow")
        limit = RateLimit(per_second=1.0, burst=5)
        await w.endpoint(paced, organization_id="org_paced", overrides=PolicyOverrides(rate_limit=limit))
        await w.publish("first", organizationId="org_paced")
        await w.publish("slow", organizationId="org_slow")
        await trio.sleep(12)
        for number in range(5):
            await w.publish(f"e{number}", organizationId="org_paced")
        await trio.sleep(12)
        assert sender.times(slow) == [1]
        assert sender.times(paced) == [0, 15, 15, 15, 15, 15]


async def test_the_window_never_holds_the_backlog(autojump_clock: MockClock) -> None:
    """However long the queue is, a lane holds about a hundred deliveries; all are sent in order."""
    sender = WorldSender()
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint(is_active=False)
        for number in range(1000):
            await w.publish(f"e{number}")
        assert sender.sent == []
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        await trio.sleep(0.5)
        lane = w.router.registry.lane(endpoint.pk)
        assert lane is not None
        assert len(lane.queue) <= 100
        await trio.sleep(10)
        assert sender.events() == [f"e{number}" for number in range(1000)]


async def test_a_canceled_request_is_interrupted_and_sent_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A stop during a request records an interrupted attempt, which is neither a refusal nor a fault."""
    sender = WorldSender(seconds=5.0)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(1)
    second = WorldSender()
    async with world(tmp_path, sender=second) as w:
        await trio.sleep(1)
        assert [sent.number for sent in second.sent] == [2]
        [row] = await w.deliveries(endpoint)
        attempts = (await w.detail(row.id)).attempts
        assert [attempt.error for attempt in attempts] == [DeliveryError.INTERRUPTED, None]
        assert (row.attempts, row.refusals, row.status) == (2, 0, DeliveryStatus.SUCCEEDED)
        [health] = await w.router.health([endpoint])
        assert health.consecutive_failures == 0


async def test_draining_lets_the_request_in_flight_end(autojump_clock: MockClock) -> None:
    """A drain waits for the answer in flight and its record, and sends no further request."""
    sender = WorldSender(seconds=3.0)
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(1)
        await w.router.registry.drain()
        assert trio.current_time() - sender.began_at == pytest.approx(3.0)
        await w.publish("e2")
        await trio.sleep(100)
        assert sender.events() == ["e0"]
        rows = await w.deliveries(endpoint)
        assert [row.status for row in rows] == [
            DeliveryStatus.SUCCEEDED,
            DeliveryStatus.PENDING,
            DeliveryStatus.PENDING,
        ]


async def test_a_drain_ends_although_actors_wait_for_a_slot(autojump_clock: MockClock) -> None:
    """An actor that waits for a slot when a drain begins sends nothing, and leaves when the request in flight ends."""
    sender = WorldSender(seconds=3.0)
    async with world(None, sender=sender, config=steady(max_in_flight=1)) as w:
        for name in ("a", "b", "c"):
            await w.endpoint(f"https://{name}.example/")
        await w.publish("e0")
        await trio.sleep(1)
        assert w.router.registry.slots.waiting == 2
        with trio.fail_after(60):
            await w.router.registry.drain()
        assert trio.current_time() - sender.began_at == pytest.approx(3.0)
        assert sender.events() == ["e0"]
        assert (w.router.registry.slots.waiting, w.router.registry.slots.taken) == (0, 0)


async def test_a_deleted_webhook_waits_for_no_slot(autojump_clock: MockClock) -> None:
    """An actor that waits for a slot leaves at once when its webhook is deleted, and the slot is another's."""
    busy, deleted, other = (f"https://{name}.example/" for name in ("busy", "deleted", "other"))
    sender = WorldSender(seconds=3.0)
    async with world(None, sender=sender, config=steady(max_in_flight=1)) as w:
        await w.endpoint(busy)
        await w.publish("e0")
        await trio.sleep(1)
        endpoint = await w.endpoint(deleted)
        await w.endpoint(other)
        await w.publish("e1")
        await trio.sleep(1)
        assert (w.router.registry.actors, w.router.registry.slots.waiting) == (3, 2)
        await w.router.delete_endpoint(endpoint.id)
        await trio.sleep(0.5)
        assert (w.router.registry.actors, w.router.registry.slots.waiting) == (2, 1)
        await trio.sleep(10)
        assert (sender.times(deleted), sender.times(other)) == ([], [3])


async def test_an_idle_actor_leaves_and_comes_back(autojump_clock: MockClock) -> None:
    """An actor without work returns after a while; the next event starts one, without a sweep."""
    sender = WorldSender()
    async with world(None, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(1)
        assert w.router.registry.running(endpoint.pk) is not None
        await trio.sleep(200)
        assert w.router.registry.running(endpoint.pk) is None
        await w.publish("e1")
        await trio.sleep(1)
        assert sender.events() == ["e0", "e1"]
        assert w.router.sweeps_that_found_work == 0


@pytest.mark.parametrize("ordering", [Ordering.STRICT, Ordering.NONE])
async def test_an_actor_leaves_once_the_journal_takes_no_more_records(
    tmp_path: Path, autojump_clock: MockClock, ordering: Ordering
) -> None:
    """A writer that has stopped refuses the record of a request in flight: nothing more is sent, nothing crashes."""
    sender = WorldSender(seconds=5.0)
    async with world(tmp_path, sender=sender, sweep_seconds=SWEEP_SECONDS) as w:
        endpoint = await w.endpoint(overrides=PolicyOverrides(ordering=ordering, concurrency=1))
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(1)
        w.stop_writing()
        await trio.sleep(100)  # past a sweep, which finds the pending deliveries and no actor
        assert sender.events() == ["e0"]
        assert w.router.registry.running(endpoint.pk) is None
        assert w.router.registry.crashes == 0


async def test_one_dead_endpoint_never_slows_another(autojump_clock: MockClock) -> None:
    """While each request to one receiver ends by its timeout, events for another are sent at once."""

    class Hanging(WorldSender):
        async def send(self, request: Request) -> Outcome:
            self.seconds = 100.0 if "dead" in request.url else 0.0
            return await super().send(request)

    sender = Hanging()
    async with world(None, sender=sender) as w:
        await w.endpoint("https://dead.example/")
        await w.endpoint("https://well.example/")
        published = []
        for number in range(50):
            await w.publish(f"e{number}")
            published.append(round(trio.current_time() - sender.began_at, 3))
            await trio.sleep(1)
        assert sender.times("https://well.example/") == published


async def test_what_is_queued_is_sent_before_its_producer_is_answered(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A request starts in the step that passes on the commit of its event, before the producer has its result."""

    class Noting(WorldSender):
        def start(self, request: Request, done: Done) -> Cancelable:
            were_answered.append([ticket.is_done for ticket in tickets])
            return super().start(request, done)

    were_answered: list[list[bool]] = []
    tickets: list[Ticket[PublishResult]] = []
    async with world(tmp_path, sender=Noting()) as w:
        await w.endpoint()
        await w.publish("first")  # which starts the actor
        await trio.sleep(1)
        tickets.append(w.router.publish(new_event({"type": "user.created", "data": {}})))
        await tickets[0].wait()
        assert were_answered == [[], [False]]


def test_a_sent_is_what_the_script_sees() -> None:
    """The script of the fake sender sees the event and the attempt's number, on which the tests above rely."""
    sent = Sent(0.0, "u", "e", 2, {}, b"")
    assert failing({"e": 1}).script(sent) == OK
    assert failing({"e": 2}).script(sent) == 500

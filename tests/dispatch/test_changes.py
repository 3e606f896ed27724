"""A webhook is changed while requests to it are in flight: what their answers still mean, in exact virtual time."""

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.world import OK, HeldRunner, Script, World, WorldSender, world
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import (
    BreakerState,
    DeliveryStatus,
    Endpoint,
    EndpointState,
    Ordering,
    Outcome,
    PolicyOverrides,
    RetryOverrides,
    SignatureChoice,
    SignatureForm,
)
from webhookd.base.secret import Secret
from webhookd.delivery.signing import generate_secret
from webhookd.journal import EndpointChanges
from webhookd.journal.queries import endpoints

OLD, NEW = "https://old.example/", "https://new.example/"
DELAY = 900.0
IN_FLIGHT_SECONDS = 5.0
PATIENT = RetryOverrides(delays=(DELAY,))
Change = Callable[[World, Endpoint], Awaitable[object]]


async def move(w: World, endpoint: Endpoint) -> None:
    await w.router.update_endpoint(endpoint.id, EndpointChanges(url=NEW))


async def switch(w: World, endpoint: Endpoint) -> None:
    await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=False))
    await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))


async def move_while_off(w: World, endpoint: Endpoint) -> None:
    await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=False))
    await w.router.update_endpoint(endpoint.id, EndpointChanges(url=NEW))
    await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))


async def give_header(w: World, endpoint: Endpoint) -> None:
    headers = (("authorization", Secret("Bearer new")),)
    await w.router.update_endpoint(endpoint.id, EndpointChanges(headers=headers))


async def rotate(w: World, endpoint: Endpoint) -> None:
    await w.router.rotate_secret(endpoint.id, Secret(generate_secret()), 0)


async def sign_otherwise(w: World, endpoint: Endpoint) -> None:
    signature = SignatureChoice(form=SignatureForm.OFF)
    await w.router.update_endpoint(endpoint.id, EndpointChanges(signature=signature))


async def describe(w: World, endpoint: Endpoint) -> None:
    await w.router.update_endpoint(endpoint.id, EndpointChanges(description="another"))


async def give_the_same_headers(w: World, endpoint: Endpoint) -> None:
    headers = (("authorization", Secret("Bearer old")),)
    await w.router.update_endpoint(endpoint.id, EndpointChanges(url=OLD, headers=headers, is_active=True))


async def be_refused(w: World, endpoint: Endpoint) -> None:
    def refuse(_: Endpoint) -> None:
        raise Rejected(ErrorCode.PRECONDITION_FAILED, "it has been changed since")

    with pytest.raises(Rejected):
        await w.router.update_endpoint(endpoint.id, EndpointChanges(url=NEW), condition=refuse)


MOVES = [move, move_while_off]
SAME_RECEIVER = [switch, give_header, rotate, sign_otherwise]
NO_RENEWALS = [describe, give_the_same_headers, be_refused]


def slow_first(script: Script) -> WorldSender:
    """Return a sender whose first answer to each event takes `IN_FLIGHT_SECONDS`."""
    return WorldSender(
        script=script, seconds_of=lambda sent: IN_FLIGHT_SECONDS if sent.number == 1 and sent.url == OLD else 0.0
    )


def first(answer: int | Outcome, then: int = OK) -> Script:
    return lambda sent: answer if sent.number == 1 and sent.url == OLD else then


async def webhook(w: World, **overrides: object) -> Endpoint:
    wanted = {"retry": PATIENT, "breaker_threshold": 1, **overrides}
    return await w.endpoint(OLD, overrides=PolicyOverrides(**wanted), headers={"authorization": "Bearer old"})  # type: ignore[arg-type]  # a test's own


async def remembered(w: World, endpoint: Endpoint) -> EndpointState:
    """Return the endpoint's state, which must be the same in memory and in the journal."""
    await wait_all_tasks_blocked()
    lane = w.router.registry.running(endpoint.pk)
    assert lane is not None
    stored = await w.journal.transactions.read(endpoints.state, endpoint.pk)
    assert lane.state == stored
    return stored


@pytest.mark.parametrize("change", [*MOVES, *SAME_RECEIVER])
@pytest.mark.parametrize("answer", [500, 410, 401, 422])
async def test_a_changed_webhook_is_tried_at_once(
    tmp_path: Path, autojump_clock: MockClock, change: Change, answer: int
) -> None:
    """A failure of a request in flight neither delays the next one, nor opens the breaker, nor disables the webhook."""
    sender = slow_first(first(answer))
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(2)
        await change(w, endpoint)
        await trio.sleep(1000)
        assert sender.times() == [0.0, IN_FLIGHT_SECONDS]
        assert sender.sent[1].url == (NEW if change in MOVES else OLD)
        [delivery] = await w.deliveries(endpoint)
        assert (delivery.status, delivery.attempts) == (DeliveryStatus.SUCCEEDED, 2)
        assert delivery.refusals == (answer == 422 and change not in MOVES)
        state = await w.journal.transactions.read(endpoints.state, endpoint.pk)
        assert (state.breaker, state.failing_since, state.consecutive_faults) == (BreakerState.CLOSED, None, 0)


@pytest.mark.parametrize("change", NO_RENEWALS)
async def test_a_change_of_something_else_leaves_the_back_off(
    tmp_path: Path, autojump_clock: MockClock, change: Change
) -> None:
    """After a new description, unchanged values or a refused change, a failure in flight counts as usual."""
    sender = slow_first(first(500))
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(2)
        await change(w, endpoint)
        await trio.sleep(10)
        assert (await remembered(w, endpoint)).breaker is BreakerState.OPEN
        await trio.sleep(1000)
        assert sender.times() == [0.0, IN_FLIGHT_SECONDS + DELAY]


@pytest.mark.parametrize("change", [*MOVES, *SAME_RECEIVER])
async def test_the_probe_in_flight_says_nothing_of_the_changed_webhook(
    tmp_path: Path, autojump_clock: MockClock, change: Change
) -> None:
    """Half-open, with an old probe in flight: memory and journal agree, and the next probe is sent."""
    sender = WorldSender(
        script=lambda sent: 500 if sent.number <= 2 else OK,
        seconds_of=lambda sent: IN_FLIGHT_SECONDS if sent.number == 2 else 0.0,
    )
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(DELAY + 1)  # the probe is in flight
        await change(w, endpoint)
        assert (await remembered(w, endpoint)).breaker is BreakerState.HALF_OPEN
        await trio.sleep(IN_FLIGHT_SECONDS + 1)
        assert (await remembered(w, endpoint)).breaker is BreakerState.CLOSED
        assert sender.times() == [0.0, DELAY, DELAY + IN_FLIGHT_SECONDS]


async def test_without_order_the_next_probe_waits_for_no_old_one(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A slow probe to the old URL doesn't delay one to the new URL."""
    sender = WorldSender(
        script=lambda sent: OK if sent.url == NEW else 500,
        seconds_of=lambda sent: 15.0 if sent.number == 2 and sent.url == OLD else 0.0,
    )
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w, ordering=Ordering.NONE)
        await w.publish("e1")
        await w.publish("e2")
        await trio.sleep(DELAY + 1)
        await move(w, endpoint)
        await trio.sleep(1)
        assert sender.times(NEW) == [DELAY + 1]
        await trio.sleep(20)
        assert sorted(sender.events(NEW)) == ["e1", "e2"]
        assert (await remembered(w, endpoint)).breaker is BreakerState.CLOSED


async def test_a_request_to_the_old_url_in_a_ramp_delays_no_probe(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After a recovery few requests are allowed for ten seconds; one to the old URL isn't counted at the new one."""
    sender = WorldSender(
        script=lambda sent: OK if sent.url == NEW or sent.number > 1 else 500,
        seconds_of=lambda sent: 30.0 if sent.event == "hangs" and sent.url == OLD else 0.0,
    )
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w, ordering=Ordering.NONE, concurrency=2, timeout_seconds=30.0)
        await w.publish("fails")
        await trio.sleep(DELAY + 1)  # the second attempt has succeeded, which begins the ramp
        await w.publish("hangs")
        await w.publish("waits")
        await trio.sleep(1)
        assert sender.events() == ["fails", "fails", "hangs"]
        await move(w, endpoint)
        await trio.sleep(1)
        assert sender.events(NEW) == ["waits"]


async def test_a_probe_of_the_old_url_in_a_ramp_delays_no_probe(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A webhook that fails again during the ramp, and is moved while its probe hangs, is tried at once."""
    sender = WorldSender(
        script=lambda sent: OK if sent.url == NEW or sent.number > 1 else 500,
        seconds_of=lambda sent: 25.0 if sent.event == "again" and sent.number > 1 else 0.0,
    )
    async with world(tmp_path, sender=sender) as w:
        often = RetryOverrides(delays=(3.0,))
        endpoint = await webhook(w, ordering=Ordering.NONE, concurrency=2, timeout_seconds=30.0, retry=often)
        await w.publish("fails")
        await trio.sleep(4)  # it has succeeded at 3 s, and the ramp ends at 13 s
        await w.publish("again")
        await trio.sleep(3.5)
        await w.publish("waits")
        assert sender.events(OLD) == ["fails", "fails", "again", "again"]
        await move(w, endpoint)
        await trio.sleep(1)
        assert sender.events(NEW) == ["waits"]


async def test_many_requests_to_the_old_url_end_in_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Deliveries that fail at the old URL are sent to the new one at once, and none counts as a fault."""
    sender = slow_first(first(500))
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w, ordering=Ordering.NONE, concurrency=8, breaker_threshold=2)
        for number in range(8):
            await w.publish(f"e{number}")
        await trio.sleep(2)
        await move(w, endpoint)
        await trio.sleep(IN_FLIGHT_SECONDS)
        assert sender.times(NEW) == [IN_FLIGHT_SECONDS] * 8
        assert (await remembered(w, endpoint)).last_failure_at is None


async def test_what_the_old_url_took_is_delivered(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A success of a request in flight counts, whatever its `webhook-delivery` header asks for."""
    taken = Outcome(duration_seconds=IN_FLIGHT_SECONDS, status=200, headers=(("webhook-delivery", "disable"),))
    sender = slow_first(first(taken))
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(2)
        await move(w, endpoint)
        await trio.sleep(100)
        assert sender.times() == [0.0]
        assert [row.status for row in await w.deliveries(endpoint)] == [DeliveryStatus.SUCCEEDED]
        assert (await w.journal.transactions.read(endpoints.get, endpoint.id)).is_active


@pytest.mark.parametrize(("change", "resumes_at"), [(move, IN_FLIGHT_SECONDS), (switch, IN_FLIGHT_SECONDS + 60)])
async def test_a_receivers_retry_after_is_its_own(
    tmp_path: Path, autojump_clock: MockClock, change: Change, resumes_at: float
) -> None:
    """A Retry-After of the old URL doesn't pause the new one; one of the same URL does, though it was enabled again."""
    slow_down = Outcome(duration_seconds=IN_FLIGHT_SECONDS, status=429, headers=(("retry-after", "60"),))
    sender = slow_first(first(slow_down))
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w, retry=RetryOverrides(delays=(10.0,)))
        await w.publish("e1")
        await trio.sleep(2)
        await change(w, endpoint)
        await trio.sleep(IN_FLIGHT_SECONDS)
        await remembered(w, endpoint)
        await trio.sleep(100)
        assert sender.times() == [0.0, resumes_at]


@pytest.mark.parametrize(("change", "status"), [(move, DeliveryStatus.SUCCEEDED), (switch, DeliveryStatus.FAILED)])
async def test_only_the_same_receiver_may_abort(
    tmp_path: Path, autojump_clock: MockClock, change: Change, status: DeliveryStatus
) -> None:
    """An abort by the old URL doesn't fail a delivery, which is sent to the new one; an abort by the same URL does."""
    abort = Outcome(duration_seconds=IN_FLIGHT_SECONDS, status=500, headers=(("webhook-delivery", "abort"),))
    sender = slow_first(first(abort))
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(2)
        await change(w, endpoint)
        await trio.sleep(100)
        assert [row.status for row in await w.deliveries(endpoint)] == [status]


@pytest.mark.parametrize("change", [*MOVES, *SAME_RECEIVER])
@pytest.mark.parametrize("ends_first", [True, False])
async def test_a_change_and_an_answer_that_cross(
    tmp_path: Path, autojump_clock: MockClock, change: Change, *, ends_first: bool
) -> None:
    """With a slow disk, in either order of change and record, it is tried at once; memory and journal agree."""
    writes = HeldRunner()
    sender = WorldSender(
        script=lambda sent: 500 if sent.number < 4 else OK, seconds_of=lambda sent: 1.0 if sent.number == 1 else 0.0
    )
    async with world(tmp_path, sender=sender, writes=writes) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(0.5)
        if ends_first:
            writes.hold()
            await trio.sleep(1)  # the answer has come, and its record waits
        async with trio.open_nursery() as nursery:
            writes.hold()
            nursery.start_soon(change, w, endpoint)
            await wait_all_tasks_blocked()
            await trio.sleep(1)  # the change waits, and so does what has come since
            writes.free()
        state = await remembered(w, endpoint)
        assert len(sender.sent) == 2
        assert (state.breaker, state.consecutive_faults) == (BreakerState.OPEN, 1)  # the second one's doing
        await trio.sleep(DELAY + 1)
        assert len(sender.sent) == 3


@pytest.mark.parametrize("change", [move, rotate])
async def test_a_change_whose_caller_has_left_is_still_waited_for(
    tmp_path: Path, autojump_clock: MockClock, change: Change
) -> None:
    """An answer that arrives before the change is on disk, whose caller was canceled, is settled after the change."""
    writes = HeldRunner()
    sender = WorldSender(script=lambda _: 500, seconds_of=lambda sent: 1.0 if sent.number == 1 else 0.0)
    async with world(tmp_path, sender=sender, writes=writes) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(0.5)
        async with trio.open_nursery() as nursery:
            writes.hold()
            nursery.start_soon(change, w, endpoint)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.sleep(1)  # the answer has come
                writes.free()
        state = await remembered(w, endpoint)
        assert len(sender.sent) == 2
        assert (state.breaker, state.consecutive_faults) == (BreakerState.OPEN, 1)  # the second one's doing


@pytest.mark.parametrize("change", [*MOVES, *SAME_RECEIVER])
async def test_a_restart_finds_what_the_change_made(tmp_path: Path, autojump_clock: MockClock, change: Change) -> None:
    """After a crash with an old probe in flight, the next server tries the changed webhook at once."""
    sender = WorldSender(script=lambda _: 500, seconds_of=lambda sent: IN_FLIGHT_SECONDS if sent.number == 2 else 0.0)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(DELAY + 1)
        await change(w, endpoint)
        before = await remembered(w, endpoint)
    again = WorldSender()
    async with world(tmp_path, sender=again) as w:
        assert await w.journal.transactions.read(endpoints.state, endpoint.pk) == before
        await trio.sleep(1)
        assert len(again.sent) == 1
        assert again.times()[0] < 1


async def test_what_is_in_flight_is_not_retried_by_hand(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A retry by hand of a delivery in flight is a conflict; its failure counts as usual in memory and journal."""
    sender = slow_first(first(500))
    async with world(tmp_path, sender=sender) as w:
        endpoint = await webhook(w)
        await w.publish("e1")
        await trio.sleep(2)
        [row] = await w.deliveries(endpoint)
        with pytest.raises(Rejected):
            await w.router.retry(row.id, None, force=True)
        await trio.sleep(10)
        assert (await remembered(w, endpoint)).breaker is BreakerState.OPEN
        await w.router.retry(row.id, None, force=True)
        await trio.sleep(1)
        assert sender.times() == [0.0, 12.0]
        assert (await remembered(w, endpoint)).breaker is BreakerState.CLOSED

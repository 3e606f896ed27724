"""What every store holds to, whatever is under it: the same tests on SQLite and on the store in memory.

They ask through named methods alone, so a further engine runs them as they are. What only a disk has (locks, a full
disk, kills, copies) is tested next door.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from tests import samples
from tests.journal.harness import CLOCK, IDS, VAULT, event, new_endpoint, publish
from tests.memory_store import open_memory_store
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import (
    BreakerState,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    Endpoint,
    EndpointState,
    Ordering,
    Target,
    Trigger,
)
from webhookd.base.secret import Secret
from webhookd.delivery.signing import generate_secret
from webhookd.journal import (
    DeliveriesQueued,
    DeliveryRow,
    EndpointChanges,
    Publish,
    Store,
    WebhookChanged,
    WebhookDeleted,
    Window,
    WindowRequest,
    open_store,
)

MOST = 1000
NOTHING_TO_TELL: dict[str, Any] = {"notices_of": lambda _: ()}


@pytest.fixture(params=["SQLite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Store]:
    opening: AbstractAsyncContextManager[Store] = (
        open_store(tmp_path / "journal.db", clock=CLOCK, ids=IDS)
        if request.param == "SQLite"
        else open_memory_store(IDS)
    )
    async with opening as opened, trio.open_nursery() as writing:
        await writing.start(opened.run)
        yield opened
        writing.cancel_scope.cancel()


async def add(store: Store, **fields: object) -> Endpoint:
    return await store.webhooks.create(VAULT, new_endpoint(**fields), most=MOST, entry=None)


async def window(store: Store, endpoint: Endpoint, **fields: Any) -> Window:
    asked: dict[str, Any] = {
        "endpoint_pk": endpoint.pk,
        "ordering": Ordering.STRICT,
        "limit": 50,
        "now": CLOCK.now(),
        "blocked_keys": frozenset(),
        "in_flight": frozenset(),
    }
    return await store.window(WindowRequest(**asked | fields))


async def rows(store: Store, endpoint: Endpoint) -> list[DeliveryRow]:
    page = await store.deliveries.page(
        endpoint.pk, status=None, event=None, event_id=None, since=None, until=None, limit=1000, cursor=None
    )
    return page.items[::-1]


async def record(store: Store, endpoint: Endpoint, notices: Sequence[Publish] = (), /, **fields: Any) -> None:
    """Record an attempt of the endpoint's first delivery that is to be sent."""
    [first, *_] = (await window(store, endpoint)).pending
    made = msgspec.structs.replace(
        samples.attempt_record(),
        delivery=first,
        attempt_id=f"att_{first.id}_{first.attempts}",
        number=first.attempts + 1,
        **fields,
    )
    await store.record(made, notices).wait()


async def retry(store: Store, row: DeliveryRow, now: float, *, force: bool = False) -> DeliveryRow:
    return await store.deliveries.retry(
        row.pk,
        force=force,
        now=now,
        max_age_seconds=600,
        ordering=Ordering.STRICT,
        entry=None,
        organization_id=None,
    )


async def test_sequences_follow_the_order_of_commits(store: Store) -> None:
    """An endpoint's sequences go up by one, whatever else is published; an event and its deliveries are one commit."""
    one, other = await add(store), await add(store)
    tickets = [publish(store, event(f"e{number}"), *((one, other) if number % 2 else (one,))) for number in range(40)]
    assert [(await ticket.wait()).deliveries for ticket in tickets] == [1, 2] * 20
    assert [(row.sequence, row.event_id) for row in await rows(store, one)] == [(n + 1, f"e{n}") for n in range(40)]
    assert [row.sequence for row in await rows(store, other)] == list(range(1, 21))


async def test_an_id_stores_one_event(store: Store) -> None:
    """A second event of an id is answered as the first, in its batch and later; another organization's is refused."""
    one = await add(store, organization_id="acme")
    first, again = (publish(store, event("same", organization_id="acme"), one) for _ in range(2))
    assert [(await ticket.wait()).duplicate for ticket in (first, again)] == [False, True]
    later = await publish(store, event("same", organization_id="acme"), one, one).wait()
    assert (later.id, later.deliveries, later.duplicate) == ("same", 1, True)
    with pytest.raises(Rejected, match="another organization") as refused:
        await publish(store, event("same", organization_id="other"), one).wait()
    assert refused.value.code is ErrorCode.CONFLICT
    assert [row.sequence for row in await rows(store, one)] == [1]


async def test_a_deleted_endpoint_drops_out(store: Store) -> None:
    """A target that is deleted before the commit gets nothing; it is found by its row number alone, and told of."""
    told: list[int] = []
    store.feed.follow(WebhookDeleted, lambda deleted: told.append(deleted.endpoint.pk))
    one, gone = await add(store), await add(store)
    await store.webhooks.delete(gone.id, CLOCK.now(), entry=None, condition=None)
    assert (await publish(store, event("e"), one, gone).wait()).deliveries == 1
    assert await store.webhooks.all() == [one]
    assert (await store.webhooks.by_pk(gone.pk))[1]
    assert await store.webhooks.credentials(VAULT, gone.pk, CLOCK.now()) is None
    assert await store.webhooks.state(gone.pk) == EndpointState()
    with pytest.raises(Rejected) as refused:
        await store.webhooks.get(gone.id)
    assert (refused.value.code, told) == (ErrorCode.NOT_FOUND, [gone.pk])


async def test_the_feed_is_told_in_the_order_of_commits(store: Store) -> None:
    """Who follows hears of each delivery once it is stored, before the one who published it."""
    heard: list[int] = []
    store.feed.follow(DeliveriesQueued, lambda queued: heard.extend(each.sequence for each in queued.deliveries))
    one = await add(store)
    for ticket in [publish(store, event(f"e{number}"), one) for number in range(30)]:
        await ticket.wait()
        assert heard[-1] <= len(await rows(store, one))
    assert heard == list(range(1, 31))


async def test_a_window_in_strict_order_is_the_head_of_the_queue(store: Store) -> None:
    """The first by sequence, the head's back-off not looked at; it says whether it holds everything."""
    one = await add(store)
    for number in range(5):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.PENDING, next_attempt_at=CLOCK.now() + 60, completed_at=None)
    short = await window(store, one, limit=3)
    assert ([each.sequence for each in short.pending], short.complete, short.last_sequence) == ([1, 2, 3], False, 5)
    whole = await window(store, one)
    assert ([each.sequence for each in whole.pending], whole.complete) == ([1, 2, 3, 4, 5], True)
    assert whole.next_attempt_at is None
    flying = await window(store, one, limit=3, in_flight=frozenset({short.pending[0].pk}))
    assert [each.sequence for each in flying.pending] == [2, 3, 4]


async def test_a_window_begins_at_its_floor(store: Store) -> None:
    """Below the floor nothing is looked for; a retry of what had ended is told by another edition."""
    one, now = await add(store), CLOCK.now()
    for number in range(3):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.FAILED, next_attempt_at=None, completed_at=now)
    before = await window(store, one, floor=2)
    assert [each.sequence for each in before.pending] == [2, 3]
    await retry(store, (await rows(store, one))[0], now)
    hidden = await window(store, one, floor=2)
    assert ([each.sequence for each in hidden.pending], hidden.edition != before.edition) == ([2, 3], True)
    assert [each.sequence for each in (await window(store, one)).pending] == [1, 2, 3]


async def test_a_window_by_key_leaves_blocked_keys_out(store: Store) -> None:
    """Of those without a key only what is due; of the others all but the keys that are held up."""
    one = await add(store)
    for number, key in enumerate(["a", "b", None, "a", "b"]):
        await publish(store, event(f"e{number}", key=key), one).wait()
    found = await window(store, one, ordering=Ordering.KEY, blocked_keys=frozenset({"a"}))
    assert [(each.sequence, each.ordering_key) for each in found.pending] == [(2, "b"), (3, None), (5, "b")]


async def test_a_window_without_order_is_what_is_due(store: Store) -> None:
    """The longest due comes first; the earliest later moment is told."""
    one, now = await add(store), CLOCK.now()
    for number in range(4):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.PENDING, next_attempt_at=now + 60, completed_at=None)
    found = await window(store, one, ordering=Ordering.NONE)
    assert ([each.sequence for each in found.pending], found.next_attempt_at) == ([2, 3, 4], now + 60)
    later = await window(store, one, ordering=Ordering.NONE, now=now + 61)
    assert [each.sequence for each in later.pending] == [2, 3, 4, 1]


async def test_parked_and_expired_deliveries_are_apart(store: Store) -> None:
    """A parked one is there once it is due; one whose age has passed is neither pending nor parked any more."""
    one, now = await add(store), CLOCK.now()
    await publish(store, event("parks"), one).wait()
    await publish(store, event("expires"), one, max_age_seconds=30).wait()
    await record(store, one, status=DeliveryStatus.PARKED, next_attempt_at=now + 10, completed_at=None)
    before = await window(store, one)
    assert ([each.sequence for each in before.pending], before.parked, before.next_attempt_at) == ([2], (), now + 10)
    after = await window(store, one, now=now + 40)
    assert (after.pending, [each.sequence for each in after.parked]) == ((), [1])
    assert [each.sequence for each in after.expired] == [2]
    assert after.next_expiry_at is not None
    expired = await store.deliveries.expire([after.expired[0].pk], now + 40, **NOTHING_TO_TELL)
    assert [(row.event_id, row.status, row.error) for row in expired] == [
        ("expires", DeliveryStatus.FAILED, DeliveryError.EXPIRED)
    ]
    assert await store.deliveries.expire([after.expired[0].pk], now + 40, **NOTHING_TO_TELL) == []


async def test_a_record_is_attempt_delivery_and_state_together(store: Store) -> None:
    """What an attempt made of its delivery and its endpoint is there at once, with the events that tell of it."""
    one, watcher = await add(store), await add(store)
    await publish(store, event("e"), one).wait()
    state = EndpointState(breaker=BreakerState.OPEN, consecutive_faults=5, retry_at=CLOCK.now() + 30)
    target = Target(endpoint_pk=watcher.pk, status=DeliveryStatus.PENDING, max_age_seconds=60)
    notice = store.notice(event("told"), (target,))
    due_at = CLOCK.now() + 5
    await record(
        store,
        one,
        [notice],
        status=DeliveryStatus.PENDING,
        refusals=1,
        backoff_step=2,
        next_attempt_at=due_at,
        completed_at=None,
        endpoint=state,
    )
    [row] = await rows(store, one)
    assert (row.attempts, row.refusals, row.next_attempt_at) == (1, 1, due_at)
    assert await store.webhooks.state(one.pk) == state
    assert [row.event_id for row in await rows(store, watcher)] == ["told"]
    detail = await store.deliveries.get(row.id, None)
    assert [(attempt.number, attempt.id) for attempt in detail.attempts] == [(1, f"att_{row.id}_0")]
    [again] = (await window(store, one)).pending
    assert (again.attempts, again.backoff_step) == (1, 2)


async def test_what_has_ended_keeps_its_state(store: Store) -> None:
    """An attempt that ends after its endpoint was deleted is on record; the delivery stays canceled."""
    one = await add(store)
    await publish(store, event("e"), one).wait()
    [flying] = (await window(store, one)).pending
    await store.webhooks.delete(one.id, CLOCK.now(), entry=None, condition=None)
    assert await store.deliveries.backlog() == [one.pk]
    assert await store.deliveries.cancel(one.pk, CLOCK.now(), 10) == 1
    assert await store.deliveries.cancel(one.pk, CLOCK.now(), 10) == 0
    late = msgspec.structs.replace(samples.attempt_record(), delivery=flying, number=1)
    await store.record(late).wait()
    [row] = await rows(store, one)
    assert (row.status, row.attempts) == (DeliveryStatus.CANCELED, 1)
    assert await store.deliveries.backlog() == []


async def test_a_retry_keeps_the_sequence(store: Store) -> None:
    """What has ended is pending again in its place; what has succeeded only where that is forced."""
    one, now = await add(store), CLOCK.now()
    await publish(store, event("first"), one).wait()
    await publish(store, event("second"), one).wait()
    await record(store, one, status=DeliveryStatus.SUCCEEDED, next_attempt_at=None, completed_at=now)
    done = (await rows(store, one))[0]
    with pytest.raises(Rejected) as refused:
        await retry(store, done, now)
    assert refused.value.code is ErrorCode.CONFLICT
    assert (await retry(store, done, now, force=True)).status is DeliveryStatus.PENDING
    head = (await window(store, one)).pending[0]
    assert (head.sequence, head.trigger, head.expires_at) == (1, Trigger.MANUAL, now + 600)


async def test_a_retry_goes_before_all_that_no_order_puts_before_it(store: Store) -> None:
    """Behind however many that are due, one retried by hand is the first of a window, and is in it once."""
    one, now = await add(store), CLOCK.now()
    for number in range(8):
        await publish(store, event(f"e{number}", key="k" if number == 6 else None), one).wait()
    for last in (7, 6):
        await retry(store, (await rows(store, one))[last], now + 1)

    async def first(ordering: Ordering) -> list[int]:
        found = await window(store, one, ordering=ordering, limit=3, now=now + 2)
        return [delivery.sequence for delivery in found.pending]

    assert await first(Ordering.NONE) == [7, 8, 1, 2, 3]
    assert await first(Ordering.KEY) == [8, 1, 2, 3]  # a key keeps its order
    assert await first(Ordering.STRICT) == [1, 2, 3]
    everything = await window(store, one, ordering=Ordering.NONE, limit=20, now=now + 2)
    assert [delivery.sequence for delivery in everything.pending] == [7, 8, 1, 2, 3, 4, 5, 6]
    assert [each.sequence for each in (await window(store, one, ordering=Ordering.NONE)).pending] == list(range(1, 7))


async def test_a_retry_behind_a_back_off_ends_it(store: Store) -> None:
    """In strict order the head carries the back-off for all behind it: a retry of a later one makes the head due."""
    one, now = await add(store), CLOCK.now()
    for number in range(2):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.PENDING, next_attempt_at=now + 600, completed_at=None)
    await retry(store, (await rows(store, one))[1], now)
    assert [each.next_attempt_at for each in (await window(store, one)).pending] == [now, now]


async def test_a_change_and_what_it_renews_are_one(store: Store) -> None:
    """Another URL ends the back-off of what is queued and the outage, and who follows is told with both."""
    heard: list[WebhookChanged] = []
    one, now = await add(store), CLOCK.now()
    store.feed.follow(WebhookChanged, heard.append)
    await publish(store, event("e"), one).wait()
    outage = EndpointState(breaker=BreakerState.OPEN, consecutive_faults=9, retry_at=now + 900, failing_since=now)
    await record(
        store, one, status=DeliveryStatus.PENDING, next_attempt_at=now + 900, completed_at=None, endpoint=outage
    )
    changes = EndpointChanges(url="https://other.example/")
    after = await store.webhooks.update(VAULT, one.id, changes, now + 1, entry=None, condition=None)
    assert (after.url, after.updated_at > one.updated_at) == ("https://other.example/", True)
    [changed] = heard
    assert changed.forgiveness is not None
    assert await store.webhooks.state(one.pk) == changed.forgiveness.state != outage
    assert (await window(store, one)).pending[0].next_attempt_at == changed.forgiveness.due_at == now + 1


async def test_a_condition_is_asked_in_the_change(store: Store) -> None:
    """What a condition refuses changes nothing, and the condition sees what was submitted before."""
    one, seen = await add(store), list[str]()

    def refuse(endpoint: Endpoint) -> None:
        seen.append(endpoint.description)
        raise Rejected(ErrorCode.PRECONDITION_FAILED, "no")

    async def change(description: str, **fields: Any) -> None:
        changes = EndpointChanges(description=description)
        await store.webhooks.update(VAULT, one.id, changes, CLOCK.now(), entry=None, **{"condition": None} | fields)

    await change("first")
    with pytest.raises(Rejected):
        await change("second", condition=refuse)
    with pytest.raises(Rejected):
        await store.webhooks.delete(one.id, CLOCK.now(), entry=None, condition=refuse)
    assert (seen, (await store.webhooks.get(one.id)).description) == (["first", "first"], "first")


async def test_a_rotated_secret_overlaps(store: Store) -> None:
    """Both secrets sign until the overlap ends; the newer one is the first."""
    one, now, secret = await add(store), CLOCK.now(), Secret(generate_secret())
    before = await store.webhooks.credentials(VAULT, one.pk, now)
    assert before is not None
    await store.webhooks.rotate(
        VAULT, one.id, now, secret=secret, secret_hint="…", overlap_seconds=60, entry=None, condition=None
    )
    during = await store.webhooks.credentials(VAULT, one.pk, now + 59)
    after = await store.webhooks.credentials(VAULT, one.pk, now + 61)
    assert during is not None
    assert after is not None
    assert (during.secret, during.previous_secret) == (secret, before.secret)
    assert (after.secret, after.previous_secret) == (secret, None)


async def test_a_webhook_is_disabled_once(store: Store) -> None:
    """The first reason stays, and what tells of it is in the same commit."""
    one, watcher, now = await add(store), await add(store), CLOCK.now()
    target = Target(endpoint_pk=watcher.pk, status=DeliveryStatus.PENDING, max_age_seconds=60)

    async def disable(reason: DisabledReason, at: float) -> Endpoint:
        def tell(endpoint: Endpoint) -> Sequence[Publish]:
            return [store.notice(event(f"told-{reason}"), (target,))] if endpoint.disabled_at == at else []

        return await store.webhooks.disable(one.pk, reason, at, tell).wait()

    first = await disable(DisabledReason.GONE, now)
    assert (first.is_active, first.disabled_reason) == (False, DisabledReason.GONE)
    assert await disable(DisabledReason.FAILING, now + 1) == first
    assert [row.event_id for row in await rows(store, watcher)] == [f"told-{DisabledReason.GONE}"]


async def test_a_quota_is_of_an_organization(store: Store) -> None:
    """The webhook after the last is refused to its organization; what belongs to none has no quota."""
    for organization_id in ("acme", None, None, "other"):
        await store.webhooks.create(VAULT, new_endpoint(organization_id=organization_id), most=1, entry=None)
    with pytest.raises(Rejected) as refused:
        await store.webhooks.create(VAULT, new_endpoint(organization_id="acme"), most=1, entry=None)
    assert refused.value.code is ErrorCode.QUOTA_EXCEEDED


async def test_a_clock_that_was_set_moves_what_waits(store: Store) -> None:
    """Times of the queue and of the endpoint's state move together; what is submitted afterwards isn't moved."""
    one, now = await add(store), CLOCK.now()
    await publish(store, event("e"), one).wait()
    state = EndpointState(paused_until=now + 60)
    await record(store, one, status=DeliveryStatus.PENDING, next_attempt_at=now + 60, completed_at=None, endpoint=state)
    before = (await window(store, one)).pending[0]
    moving = store.webhooks.move_times(3600.0, lambda _: None)
    later = publish(store, event("later"), one)
    await moving.wait()
    await later.wait()
    moved, new = (await window(store, one, now=now + 1800)).pending
    assert moved.next_attempt_at == pytest.approx(now + 3660, abs=0.01)
    assert moved.expires_at == pytest.approx(before.expires_at + 3600, abs=0.01)
    assert new.next_attempt_at < now + 600
    assert (await store.webhooks.state(one.pk)).paused_until == pytest.approx(now + 3660, abs=0.01)


async def test_health_facts_count_what_waits(store: Store) -> None:
    """What is pending and parked is counted, with the oldest event and the next moment at which something is due."""
    one, now = await add(store), CLOCK.now()
    for number in range(3):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.PARKED, next_attempt_at=now + 60, completed_at=None)
    [(state, queue)] = (await store.webhooks.health_facts({one.pk: Ordering.STRICT})).values()
    assert (queue.queued, queue.parked) == (2, 1)
    assert queue.next_attempt_at is not None
    assert queue.next_attempt_at < now + 60
    assert state == await store.webhooks.state(one.pk)
    assert [row.sequence for row in await store.deliveries.queue(one.pk, 10)] == [2, 3, 1]

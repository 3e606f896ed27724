"""The rules for publishing, windows, attempts and retries that every store holds to, on SQLite and in memory.

The tests use only the store's methods, so another engine runs them unchanged. What only a disk has (locks, a full
disk, kills, copies) is tested in the other modules of this directory.
"""

import msgspec
import pytest

from tests import samples
from tests.journal.harness import CLOCK, VAULT, event, publish
from tests.journal.store_calls import NO_NOTICES, add, record, retry, rows, submitted, window
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import BreakerState, DeliveryError, DeliveryStatus, EndpointState, Ordering, Target, Trigger
from webhookd.journal import DeliveriesQueued, EndpointChanges, Floors, Store, WebhookDeleted


async def test_sequences_follow_the_order_of_commits(store: Store) -> None:
    """An endpoint's sequences go up by one, whatever else is published; an event and its deliveries are one commit."""
    one, other = await add(store), await add(store)
    tickets = [publish(store, event(f"e{number}"), *((one, other) if number % 2 else (one,))) for number in range(40)]
    assert [(await ticket.wait()).deliveries for ticket in tickets] == [1, 2] * 20
    assert [(row.sequence, row.event_id) for row in await rows(store, one)] == [(n + 1, f"e{n}") for n in range(40)]
    assert [row.sequence for row in await rows(store, other)] == list(range(1, 21))


async def test_an_id_stores_one_event(store: Store) -> None:
    """A second event with an id gets the first one's answer, now and later; another organization's is refused."""
    one = await add(store, organization_id="acme")
    first, again = (publish(store, event("same", organization_id="acme"), one) for _ in range(2))
    assert [(await ticket.wait()).duplicate for ticket in (first, again)] == [False, True]
    later = await publish(store, event("same", organization_id="acme"), one, one).wait()
    assert (later.id, later.deliveries, later.duplicate) == ("same", 1, True)
    with pytest.raises(Rejected, match="another organization") as refused:
        await publish(store, event("same", organization_id="other"), one).wait()
    assert refused.value.code is ErrorCode.CONFLICT
    assert [row.sequence for row in await rows(store, one)] == [1]


async def test_a_deleted_endpoint_gets_no_delivery(store: Store) -> None:
    """A target that is deleted before the commit gets nothing, is found only by its row number, and is in the feed."""
    deleted_pks: list[int] = []
    store.feed.follow(WebhookDeleted, lambda deleted: deleted_pks.append(deleted.endpoint.pk))
    one, gone = await add(store), await add(store)
    await store.webhooks.delete(gone.id, CLOCK.now(), entry=None, condition=None)
    assert (await publish(store, event("e"), one, gone).wait()).deliveries == 1
    assert await store.webhooks.all() == [one]
    assert (await store.webhooks.by_pk(gone.pk))[1]
    assert await store.webhooks.credentials(VAULT, gone.pk, CLOCK.now()) is None
    assert await store.webhooks.state(gone.pk) == EndpointState()
    with pytest.raises(Rejected) as refused:
        await store.webhooks.get(gone.id)
    assert (refused.value.code, deleted_pks) == (ErrorCode.NOT_FOUND, [gone.pk])


async def test_the_feed_is_in_the_order_of_commits(store: Store) -> None:
    """A follower gets each delivery once it is stored, and before its publisher gets the result."""
    sequences: list[int] = []
    store.feed.follow(DeliveriesQueued, lambda queued: sequences.extend(each.sequence for each in queued.deliveries))
    one = await add(store)
    for ticket in [publish(store, event(f"e{number}"), one) for number in range(30)]:
        await ticket.wait()
        assert sequences[-1] <= len(await rows(store, one))
    assert sequences == list(range(1, 31))


async def test_a_window_in_strict_order_is_the_head_of_the_queue(store: Store) -> None:
    """It has the first deliveries by sequence, also if the head isn't due, and says whether it has all of them."""
    one = await add(store)
    for number in range(5):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.PENDING, next_attempt_at=CLOCK.now() + 60, completed_at=None)
    short = await window(store, one, limit=3)
    assert ([each.sequence for each in short.pending], short.complete, short.last_sequence) == ([1, 2, 3], False, 5)
    whole = await window(store, one)
    assert ([each.sequence for each in whole.pending], whole.complete) == ([1, 2, 3, 4, 5], True)
    assert whole.next_attempt_at is None
    rest = await window(store, one, limit=3, in_flight=frozenset({short.pending[0].pk}))
    assert [each.sequence for each in rest.pending] == [2, 3, 4]


async def test_a_window_begins_at_its_floors(store: Store) -> None:
    """No delivery below a floor of the queue's edition is found; a retry of one that has ended changes the edition."""
    one, now = await add(store), CLOCK.now()
    for number in range(3):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.FAILED, next_attempt_at=None, completed_at=now)
    edition = (await window(store, one)).edition
    before = await window(store, one, floors=Floors(edition=edition, fresh=3))
    assert ([each.sequence for each in before.pending], before.edition) == ([3], edition)
    await retry(store, (await rows(store, one))[0], now)
    after = await window(store, one, floors=Floors(edition=edition, fresh=3))
    assert ([each.sequence for each in after.pending], after.edition != edition) == ([1, 2, 3], True)
    hidden = await window(store, one, floors=Floors(edition=after.edition, fresh=3))
    assert [each.sequence for each in hidden.pending] == [3]
    # A change that forgives ends back-offs: what backed off is fresh now.
    changes = EndpointChanges(url="https://other.example/")
    await store.webhooks.update(VAULT, one.id, changes, now, entry=None, condition=None)
    assert (await window(store, one)).edition != after.edition


async def test_a_window_by_key_leaves_blocked_keys_out(store: Store) -> None:
    """It has those without a key that are due, and all others except those with a blocked key."""
    one = await add(store)
    for number, key in enumerate(["a", "b", None, "a", "b"]):
        await publish(store, event(f"e{number}", key=key), one).wait()
    found = await window(store, one, ordering=Ordering.KEY, blocked_keys=frozenset({"a"}))
    assert [(each.sequence, each.ordering_key) for each in found.pending] == [(2, "b"), (3, None), (5, "b")]


async def test_a_window_without_order_has_what_is_due(store: Store) -> None:
    """The longest due comes first, and the window has the earliest later due time."""
    one, now = await add(store), CLOCK.now()
    for number in range(4):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.PENDING, next_attempt_at=now + 60, completed_at=None)
    found = await window(store, one, ordering=Ordering.NONE)
    assert ([each.sequence for each in found.pending], found.next_attempt_at) == ([2, 3, 4], now + 60)
    later = await window(store, one, ordering=Ordering.NONE, now=now + 61)
    assert [each.sequence for each in later.pending] == [2, 3, 4, 1]


async def test_parked_and_expired_deliveries_are_apart(store: Store) -> None:
    """A parked delivery is in the window once it is due; an expired one is neither pending nor parked."""
    one, now = await add(store), CLOCK.now()
    await publish(store, event("parks"), one).wait()
    await publish(store, event("expires"), one, max_age_seconds=30).wait()
    await record(store, one, status=DeliveryStatus.PARKED, next_attempt_at=now + 10, completed_at=None)
    before = await window(store, one)
    assert ([each.sequence for each in before.pending], before.parked, before.next_attempt_at) == ([2], (), now + 10)
    after = await window(store, one, now=now + 40)
    assert (after.pending, [each.sequence for each in after.parked]) == ((), [1])
    assert [each.sequence for each in after.expired] == [2]
    much_later = await window(store, one, now=now + 4000)
    assert (much_later.parked, [each.sequence for each in much_later.expired]) == ((), [2, 1])
    expired = await store.deliveries.expire([after.expired[0].pk], now + 40, **NO_NOTICES)
    assert [(row.event_id, row.status, row.error) for row in expired] == [
        ("expires", DeliveryStatus.FAILED, DeliveryError.EXPIRED)
    ]
    assert await store.deliveries.expire([after.expired[0].pk], now + 40, **NO_NOTICES) == []


async def test_a_record_is_attempt_delivery_and_state_together(store: Store) -> None:
    """An attempt, the state of its delivery and endpoint, and the events about it are stored together."""
    one, watcher = await add(store), await add(store)
    await publish(store, event("e"), one).wait()
    state = EndpointState(breaker=BreakerState.OPEN, consecutive_faults=5, retry_at=CLOCK.now() + 30)
    target = Target(endpoint_pk=watcher.pk, status=DeliveryStatus.PENDING, max_age_seconds=60)
    notice = store.notice(event("notice"), (target,))
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
    assert [row.event_id for row in await rows(store, watcher)] == ["notice"]
    detail = await store.deliveries.get(row.id, None)
    assert [(attempt.number, attempt.id) for attempt in detail.attempts] == [(1, f"att_{row.id}_0")]
    [again] = (await window(store, one)).pending
    assert (again.attempts, again.backoff_step) == (1, 2)


async def test_a_delivery_that_has_ended_keeps_its_state(store: Store) -> None:
    """An attempt that ends after its endpoint was deleted is stored; the delivery stays canceled."""
    one = await add(store)
    await publish(store, event("e"), one).wait()
    [in_flight] = (await window(store, one)).pending
    await store.webhooks.delete(one.id, CLOCK.now(), entry=None, condition=None)
    assert await store.deliveries.backlog() == [one.pk]
    assert await store.deliveries.cancel(one.pk, CLOCK.now(), 10) == 1
    assert await store.deliveries.cancel(one.pk, CLOCK.now(), 10) == 0
    late = msgspec.structs.replace(samples.attempt_record(), delivery=in_flight, number=1)
    await submitted(store, late).wait()
    [row] = await rows(store, one)
    assert (row.status, row.attempts) == (DeliveryStatus.CANCELED, 1)
    assert await store.deliveries.backlog() == []


async def test_a_retry_keeps_the_sequence(store: Store) -> None:
    """A delivery that has ended is pending again in its place; one that has succeeded only by force."""
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


async def test_a_retried_delivery_is_first_unless_an_order_forbids_it(store: Store) -> None:
    """One retried by hand is the first of a window, however many others are due, and is in it once."""
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


@pytest.mark.parametrize("ordering", list(Ordering))
async def test_what_does_not_back_off_is_due_whatever_the_clock_says(store: Store, ordering: Ordering) -> None:
    """A delivery that was queued before the clock was set back is due now, and stands where its sequence is."""
    one, now = await add(store), CLOCK.now()
    for number in range(3):
        await publish(store, event(f"e{number}"), one).wait()
    found = await window(store, one, ordering=ordering, now=now - 600)
    assert [(each.sequence, each.next_attempt_at) for each in found.pending] == [(n, now - 600) for n in (1, 2, 3)]
    assert found.next_attempt_at is None


@pytest.mark.parametrize("ordering", list(Ordering))
async def test_a_window_has_what_backs_off_in_its_place(store: Store, ordering: Ordering) -> None:
    """Deliveries that back off and fresh ones are one queue: in sequence, or without an order by the time they are due.

    Ordered by key, one without a key is in the window only once it is due.
    """
    one, now = await add(store), CLOCK.now()
    for number, key in enumerate(["a", "b", None, "a", "b", None]):
        await publish(store, event(f"e{number}", key=key), one).wait()
    for place, due_at in enumerate([now + 60, now + 30, now + 90]):
        await record(store, one, place=place, status=DeliveryStatus.PENDING, next_attempt_at=due_at, completed_at=None)
    assert [row.sequence for row in await store.deliveries.queue(one.pk, 5)] == [1, 2, 3, 4, 5]
    [(_, facts)] = (await store.webhooks.health_facts({one.pk: ordering})).values()
    fresh_at = (await rows(store, one))[3].next_attempt_at
    assert (facts.queued, facts.next_attempt_at) == (6, now + 60 if ordering is Ordering.STRICT else fresh_at)

    async def sequences(seconds: float, **fields: int) -> list[int]:
        found = await window(store, one, ordering=ordering, now=now + seconds, **fields)
        assert found.complete == (len(found.pending) < fields.get("limit", 50))
        return [each.sequence for each in found.pending]

    expected = {
        Ordering.STRICT: ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 5, 6], [1, 2, 3]),
        Ordering.KEY: ([1, 2, 4, 5, 6], [1, 2, 3, 4, 5, 6], [1, 2, 4]),
        Ordering.NONE: ([4, 5, 6, 2, 1], [4, 5, 6, 2, 1, 3], [4, 5, 6]),
    }[ordering]
    assert await sequences(61) == expected[0]
    assert await sequences(91) == expected[1]
    assert await sequences(61, limit=3) == expected[2]


async def test_a_retry_behind_a_back_off_ends_it(store: Store) -> None:
    """In strict order all wait for the head's back-off, so a retry of a later delivery makes the head due."""
    one, now = await add(store), CLOCK.now()
    for number in range(2):
        await publish(store, event(f"e{number}"), one).wait()
    await record(store, one, status=DeliveryStatus.PENDING, next_attempt_at=now + 600, completed_at=None)
    await retry(store, (await rows(store, one))[1], now)
    assert [each.next_attempt_at for each in (await window(store, one)).pending] == [now, now]

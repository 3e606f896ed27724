"""The rules for webhooks that every store holds to: changes, secrets, quotas, a step of the clock, and health."""

from collections.abc import Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from tests.journal.harness import CLOCK, VAULT, event, new_endpoint, publish
from tests.journal.store_calls import add, record, rows, window
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import BreakerState, DeliveryStatus, DisabledReason, Endpoint, EndpointState, Ordering, Target
from webhookd.base.secret import Secret
from webhookd.delivery.signing import generate_secret
from webhookd.journal import EndpointChanges, Publish, Store, WebhookChanged


async def test_a_change_and_what_it_resets_are_one(store: Store) -> None:
    """Another URL ends the outage and the back-off of what is queued, in one commit and one change of the feed."""
    changes_seen: list[WebhookChanged] = []
    one, now = await add(store), CLOCK.now()
    store.feed.follow(WebhookChanged, changes_seen.append)
    await publish(store, event("e"), one).wait()
    outage = EndpointState(breaker=BreakerState.OPEN, consecutive_faults=9, retry_at=now + 900, failing_since=now)
    await record(
        store, one, status=DeliveryStatus.PENDING, next_attempt_at=now + 900, completed_at=None, endpoint=outage
    )
    changes = EndpointChanges(url="https://other.example/")
    after = await store.webhooks.update(VAULT, one.id, changes, now + 1, entry=None, condition=None)
    assert (after.url, after.updated_at > one.updated_at) == ("https://other.example/", True)
    [changed] = changes_seen
    assert changed.forgiveness is not None
    assert await store.webhooks.state(one.pk) == changed.forgiveness.state != outage
    [forgiven] = (await window(store, one, now=now + 2)).pending
    assert forgiven.next_attempt_at == changed.forgiveness.due_at == now + 1


async def test_an_old_attempt_brings_no_outage_back(store: Store) -> None:
    """A state from before a change that forgave something isn't stored; one that knows of the change is."""
    one, now = await add(store), CLOCK.now()
    await publish(store, event("e"), one).wait()
    outage = EndpointState(consecutive_faults=9, failing_since=now)
    failed: dict[str, Any] = {"status": DeliveryStatus.PENDING, "next_attempt_at": now, "completed_at": None}
    await record(store, one, **failed, endpoint=outage)
    assert await store.webhooks.state(one.pk) == outage
    for number in range(1, 3):
        changes = EndpointChanges(url=f"https://other.example/{number}")
        await store.webhooks.update(VAULT, one.id, changes, now + number, entry=None, condition=None)
        forgiven = await store.webhooks.state(one.pk)
        assert (forgiven.forgiven, forgiven.failing_since) == (number, None)
        await record(store, one, **failed, endpoint=replace(outage, forgiven=number - 1))
        assert await store.webhooks.state(one.pk) == forgiven
        await record(store, one, **failed, endpoint=replace(outage, forgiven=number))
        assert (await store.webhooks.state(one.pk)).consecutive_faults == 9


async def test_a_condition_is_checked_in_the_change(store: Store) -> None:
    """A change that its condition rejects has no effect; the condition gets the webhook after all earlier changes."""
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
    """Both secrets sign until the overlap ends; the newer one is the current one."""
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
    """The first reason stays, and the event about it is in the same commit."""
    one, watcher, now = await add(store), await add(store), CLOCK.now()
    target = Target(endpoint_pk=watcher.pk, status=DeliveryStatus.PENDING, max_age_seconds=60)

    async def disable(reason: DisabledReason, at: float, forgiven: int = 0) -> Endpoint:
        def notices_of(endpoint: Endpoint) -> Sequence[Publish]:
            return [store.notice(event(f"notice-{reason}"), (target,))] if endpoint.disabled_at == at else []

        return await store.webhooks.disable(one.pk, reason, at, forgiven=forgiven, notices_of=notices_of).wait()

    assert (await disable(DisabledReason.GONE, now, forgiven=1)).is_active
    first = await disable(DisabledReason.GONE, now)
    assert (first.is_active, first.disabled_reason) == (False, DisabledReason.GONE)
    assert await disable(DisabledReason.FAILING, now + 1) == first
    assert [row.event_id for row in await rows(store, watcher)] == [f"notice-{DisabledReason.GONE}"]


async def test_an_organization_has_a_quota(store: Store) -> None:
    """One webhook more than the quota is refused; webhooks of no organization have no quota."""
    for organization_id in ("acme", None, None, "other"):
        await store.webhooks.create(VAULT, new_endpoint(organization_id=organization_id), most=1, entry=None)
    with pytest.raises(Rejected) as refused:
        await store.webhooks.create(VAULT, new_endpoint(organization_id="acme"), most=1, entry=None)
    assert refused.value.code is ErrorCode.QUOTA_EXCEEDED


async def test_a_step_of_the_clock_moves_the_queue(store: Store) -> None:
    """The times of the queue and of the endpoint's state move together; later submissions don't move."""
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


async def test_health_facts_count_the_queue(store: Store) -> None:
    """They have the numbers of pending and parked deliveries, and when the next one is due."""
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

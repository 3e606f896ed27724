"""What has expired outside the windows: found for all endpoints, at its time, and without a request that is cut off."""

from pathlib import Path

import pytest
import trio
from peewee import Database
from trio.testing import MockClock

from tests.journal.engines import add_deliveries, add_events
from tests.journal.harness import Commits
from tests.world import OK, Sent, World, WorldSender, steady, world
from webhookd.base.models import DeliveryError, DeliveryStatus, Endpoint, Ordering, PolicyOverrides, RetryOverrides
from webhookd.dispatch.expiry_sweep import GRACE_SECONDS
from webhookd.journal import EndpointChanges, QueueGrown
from webhookd.journal.queries.schema import SequenceTable

REFUSED = 422
AGE, DELAY = 300.0, 3600.0


def waiting(ordering: Ordering = Ordering.NONE, **retry: object) -> PolicyOverrides:
    """Return a policy by which a refused delivery waits longer than it may be old."""
    given = {"delays": (DELAY,), "max_age_seconds": AGE, "park_after": 1, **retry}
    return PolicyOverrides(ordering=ordering, concurrency=4, retry=RetryOverrides(**given))  # type: ignore[arg-type]  # a test's own


async def lateness(w: World, endpoint: Endpoint) -> list[float]:
    """Return how late each delivery of an endpoint was recorded as expired, in seconds."""
    late = []
    for row in await w.deliveries(endpoint):
        assert (row.status, row.error) == (DeliveryStatus.FAILED, DeliveryError.EXPIRED)
        assert row.completed_at is not None
        late.append(row.completed_at - row.expires_at)
    return late


@pytest.mark.parametrize(
    ("ordering", "status"), [(Ordering.NONE, DeliveryStatus.PENDING), (Ordering.STRICT, DeliveryStatus.PARKED)]
)
@pytest.mark.parametrize("is_on_disk", [True, False])
async def test_what_waits_longer_than_its_age_expires_in_time(
    tmp_path: Path, autojump_clock: MockClock, ordering: Ordering, status: DeliveryStatus, *, is_on_disk: bool
) -> None:
    """A delivery that waits for its back-off, or is parked, expires a second late at most, and its actor ends."""
    async with world(tmp_path if is_on_disk else None, sender=WorldSender(script=lambda _: REFUSED)) as w:
        endpoint = await w.endpoint(overrides=waiting(ordering))
        for number in range(3):
            await w.publish(f"e{number}")
            await trio.sleep(10)
        assert {row.status for row in await w.deliveries(endpoint)} == {status}
        await trio.sleep(AGE)
        assert all(0 <= late <= GRACE_SECONDS + 0.01 for late in await lateness(w, endpoint))
        await trio.sleep(40)
        assert w.router.registry.actors == 0


async def test_a_request_in_flight_is_awaited(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A delivery that expires while its request is in flight succeeds, or expires once the request has failed."""
    sender = WorldSender(seconds=20.0, script=lambda sent: OK if sent.event == "good" else REFUSED)
    async with world(tmp_path, sender=sender, config=steady(timeout_seconds=30)) as w:
        endpoint = await w.endpoint(overrides=waiting(max_age_seconds=10.0))
        await w.publish("good")
        await w.publish("bad")
        await trio.sleep(20 + 3 * GRACE_SECONDS)
        good, bad = await w.deliveries(endpoint)
        assert (good.status, bad.status, bad.error) == (
            DeliveryStatus.SUCCEEDED,
            DeliveryStatus.FAILED,
            DeliveryError.EXPIRED,
        )
        assert len(sender.sent) == 2


async def test_a_later_queue_with_a_shorter_age_is_noticed(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The sweep comes at the expiry of what was queued last, if that is the first to expire."""
    async with world(tmp_path, sender=WorldSender(script=lambda _: REFUSED)) as w:
        await w.endpoint("https://long.example/", overrides=waiting(max_age_seconds=86_400.0))
        await w.publish("e0")
        await trio.sleep(100)
        short = await w.endpoint("https://short.example/", overrides=waiting())
        await w.publish("e1")
        await trio.sleep(AGE + 2 * GRACE_SECONDS)
        assert len(await lateness(w, short)) == 1


async def test_a_maximum_age_that_is_lowered_counts_for_what_is_queued(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A delivery that was queued with a longer age expires by the new one, counted from the change."""
    async with world(tmp_path, sender=WorldSender(script=lambda _: REFUSED)) as w:
        endpoint = await w.endpoint(overrides=waiting(max_age_seconds=86_400.0))
        await w.publish("e0")
        await trio.sleep(100)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(overrides=waiting()))
        await trio.sleep(AGE + 2 * GRACE_SECONDS)
        assert len(await lateness(w, endpoint)) == 1


@pytest.mark.parametrize("engine", ["SQLite"], indirect=True)  # whose commits can be counted
async def test_many_endpoints_share_a_commit(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What expires for many endpoints at the same time isn't a commit for each of them."""
    async with world(tmp_path, sender=WorldSender(script=lambda _: REFUSED)) as w:
        endpoints = [await w.endpoint(f"https://{number}.example/", overrides=waiting()) for number in range(30)]
        await w.publish("e0")
        await w.publish("e1")
        await trio.sleep(AGE - 10)
        commits = Commits(w.journal)
        await trio.sleep(10 + 2 * GRACE_SECONDS)
        assert [len(await lateness(w, endpoint)) for endpoint in endpoints] == [2] * 30
        assert len(commits.rows) <= 2


async def test_each_is_reported_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Each expired delivery is one `delivery.failed`, whether the sweep or its actor has recorded it."""

    def script(sent: Sent) -> int:
        return OK if "watcher" in sent.url else REFUSED

    async with world(tmp_path, sender=WorldSender(script=script)) as w:
        await w.endpoint("https://watcher.example/", events=("delivery.failed",))
        await w.endpoint("https://none.example/", overrides=waiting())
        await w.endpoint("https://strict.example/", overrides=waiting(Ordering.STRICT, park_after=9))
        for number in range(3):
            await w.publish(f"e{number}")
        await trio.sleep(AGE + 10)
        assert len(w.sender.events("https://watcher.example/")) == 6


@pytest.mark.parametrize("engine", ["PostgreSQL"], indirect=True)
async def test_what_another_node_has_queued_expires_in_time(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Of a queue that grew elsewhere it is known how old its deliveries may be, and no window has this one."""
    async with world(tmp_path) as w:
        endpoint = await w.endpoint(overrides=waiting())
        await trio.sleep(2 * AGE)  # the sweep knows that nothing is queued

        def queue_elsewhere(database: Database) -> None:
            now = w.clock.now()
            times = {"next_attempt_at": now + DELAY, "created_at": now, "expires_at": now + AGE}
            add_deliveries(database, endpoint.pk, add_events(database, 1), backoff_step=1, **times)
            # With a later time the actor would correct the queue, and have all of it looked at.
            own = SequenceTable.endpoint_pk == endpoint.pk
            SequenceTable.update(last_expires_at=now + AGE).where(own).execute(database)

        await w.journal.transactions.write(queue_elsewhere)
        w.journal.feed.announce(QueueGrown(endpoint.pk))
        await trio.sleep(AGE + GRACE_SECONDS + 1)
        assert all(0 <= late <= GRACE_SECONDS + 0.01 for late in await lateness(w, endpoint))

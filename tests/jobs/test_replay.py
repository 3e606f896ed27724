"""Recovers and replays in exact virtual time: matches, order, progress, stops, restarts, and new events meanwhile."""

from functools import partial
from pathlib import Path

import pytest
import trio
from peewee import Database
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.journal.harness import CLOCK, add_endpoint, running
from tests.world import OK, HeldRunner, World, WorldSender, steady, world
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import (
    DeliveryStatus,
    Endpoint,
    PolicyOverrides,
    RateLimit,
    ReplayKind,
    ReplayStatus,
    Trigger,
    WhenInactive,
)
from webhookd.jobs.replay import selection
from webhookd.journal import EndpointChanges, QueuedAs, ReplayRow
from webhookd.journal.queries import replays
from webhookd.journal.queries.schema import DeliveryTable, EventTable


async def ask(
    w: World,
    endpoint: Endpoint,
    kind: ReplayKind,
    *,
    since: float = 0.0,
    until: float | None = None,
    events: tuple[str, ...] = (),
) -> ReplayRow:
    wanted = selection(endpoint, kind, since=since, until=w.clock.now() + 1 if until is None else until, events=events)
    counted = (await w.journal.replays.match(wanted)).count
    row = await w.router.replayer.start(endpoint, wanted)
    assert row.matched == counted
    return row


async def progress(w: World, row: ReplayRow) -> ReplayRow:
    return await w.journal.transactions.read(replays.get, row.endpoint_pk, row.id)


async def test_recover_sends_what_failed_again_in_sequence(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Every failed delivery of the range is sent again with its sequence, age and refusals reset; no other is."""
    mended = {"is": False}
    sender = WorldSender(script=lambda sent: OK if mended["is"] or sent.event.startswith("good") else 410)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("good")
        for number in range(3):
            await w.publish(f"bad{number}")
            await trio.sleep(1)
            await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        assert [row.status for row in await w.deliveries(endpoint)][1:] == [DeliveryStatus.FAILED] * 3
        mended["is"] = True
        sender.sent.clear()
        row = await ask(w, endpoint, ReplayKind.RECOVER)
        await trio.sleep(1)
        after = await progress(w, row)
        assert (after.matched, after.queued, after.status) == (3, 3, ReplayStatus.DONE)
        assert sender.events() == ["bad0", "bad1", "bad2"]
        assert [sent.headers["x-webhook-sequence"] for sent in sender.sent] == ["2", "3", "4"]
        deliveries = await w.deliveries(endpoint)
        assert {each.status for each in deliveries} == {DeliveryStatus.SUCCEEDED}
        assert (await w.detail(deliveries[1].id)).attempts[-1].trigger is Trigger.RECOVER
        again = await ask(w, endpoint, ReplayKind.RECOVER)
        assert again.matched == 0


async def test_replay_makes_new_deliveries_at_the_end(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A replay of a time range sends its events again, with their ids, as new deliveries at the end of the queue."""
    sender = WorldSender()
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint(events=("user.*", "subscription.renewed"))
        published = []
        for number in range(6):
            kind = ("user.created", "subscription.renewed", "subscription.created")[number % 3]
            await w.publish(f"e{number}", type=kind)
            published.append(w.clock.now())
            await trio.sleep(10)
        sender.sent.clear()
        row = await ask(w, endpoint, ReplayKind.REPLAY, since=published[1], until=published[5])
        await trio.sleep(1)
        assert sender.events() == ["e1", "e3", "e4"]
        assert [sent.headers["x-webhook-sequence"] for sent in sender.sent] == ["5", "6", "7"]
        assert (await progress(w, row)).status is ReplayStatus.DONE
        rows = await w.deliveries(endpoint)
        assert len({each.id for each in rows}) == len(rows) == 7
        assert (await w.detail(rows[-1].id)).attempts[0].trigger is Trigger.REPLAY
        narrowed = await ask(w, endpoint, ReplayKind.REPLAY, events=("subscription.*",))
        assert narrowed.matched == 2


async def test_a_new_webhook_is_given_its_past(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Events from before a webhook was created are replayed to it, those of its organization only."""
    sender = WorldSender()
    async with world(tmp_path, sender=sender) as w:
        await w.publish("mine", organizationId="acme")
        await w.publish("theirs", organizationId="other")
        await w.publish("nobodys")
        mine = await w.endpoint("https://mine.example/", organization_id="acme")
        everyones = await w.endpoint("https://all.example/")
        await ask(w, mine, ReplayKind.REPLAY)
        await ask(w, everyones, ReplayKind.REPLAY)
        await trio.sleep(1)
        assert sender.events("https://mine.example/") == ["mine"]
        assert sender.events("https://all.example/") == ["mine", "theirs", "nobodys"]


async def test_a_replay_keeps_the_rate_and_lets_live_events_pass(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A replay is sent at the endpoint's rate; it doesn't affect another endpoint, and new events queue after it."""
    sender = WorldSender()
    async with world(tmp_path, sender=sender) as w:
        slow = await w.endpoint("https://slow.example/", overrides=PolicyOverrides(rate_limit=RateLimit(per_second=20)))
        await w.endpoint("https://live.example/")
        for number in range(400):
            await w.publish(f"e{number}")
        await trio.sleep(100)
        sender.sent.clear()
        began = trio.current_time()
        await ask(w, slow, ReplayKind.REPLAY)
        for number in range(20):
            await trio.sleep(0.5)
            await w.publish(f"live{number}")
        await trio.sleep(60)
        live = [sent for sent in sender.sent if sent.url == "https://live.example/"]
        assert [round(sent.at + sender.began_at - began, 3) for sent in live] == [0.5 * n for n in range(1, 21)]
        replayed = sender.times("https://slow.example/")
        assert len(replayed) == 420
        for at in replayed:
            assert sum(at <= other < at + 1 for other in replayed) <= 21
        order = [event for event in sender.events("https://slow.example/") if event.startswith("e")]
        assert order == [f"e{number}" for number in range(400)]


async def test_a_restart_goes_on_and_repeats_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After a stop of the server a replay goes on from its position; each event is queued once."""
    async with world(tmp_path) as w:
        endpoint = await w.endpoint(is_active=False)
        for number in range(1300):
            await w.publish(f"e{number}")
        wanted = selection(endpoint, ReplayKind.REPLAY, since=0.0, until=w.clock.now() + 1, events=())
        matched = await w.journal.transactions.read(replays.match, wanted)
        row = await w.journal.transactions.write(replays.start, wanted, matched, "rpl_1", w.clock.now())
        queued_as = QueuedAs(at=w.clock.now(), max_age_seconds=3600, status=DeliveryStatus.PENDING)
        half = await w.journal.transactions.write(replays.step, row.id, wanted, queued_as, w.ids)
        assert (half.queued, half.status) == (replays.A_STEP, ReplayStatus.RUNNING)
    async with world(tmp_path) as w:
        await trio.sleep(5)
        after = await progress(w, row)
        assert (after.matched, after.queued, after.status) == (1300, 1300, ReplayStatus.DONE)
        [health] = await w.router.health([endpoint])
        assert health.queued == 2600


async def test_a_webhook_has_a_bounded_number_of_replays(tmp_path: Path) -> None:
    """The seventeenth replay is refused while sixteen run; once one is stopped, another can start."""
    async with running(tmp_path / "journal.db") as store:
        one, other = await add_endpoint(store), await add_endpoint(store)
        wanted = [selection(each, ReplayKind.REPLAY, since=0.0, until=CLOCK.now(), events=()) for each in (one, other)]
        matched = await store.replays.match(wanted[0])

        async def start(number: int, endpoint: Endpoint) -> ReplayRow:
            asked = wanted[endpoint is other]
            return await store.replays.start(asked, matched, f"rpl_{number}", 0.0, endpoint=endpoint, entry=None)

        for number in range(replays.MOST_RUNNING):
            await start(number, one)
        with pytest.raises(Rejected) as refused:
            await start(99, one)
        assert refused.value.code is ErrorCode.CONFLICT
        assert (await start(100, other)).status is ReplayStatus.RUNNING
        await store.replays.stop(one, "rpl_0", None)
        assert (await start(101, one)).status is ReplayStatus.RUNNING


async def test_organizations_take_turns(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However many replays an organization has started, another's waits for one step of them at a time."""
    async with world(tmp_path) as w:
        many = await w.endpoint(organization_id="many", is_active=False)
        few = await w.endpoint(organization_id="few", is_active=False)
        for number in range(replays.A_STEP + 50):
            await w.publish(f"m{number}", organizationId="many")
            await w.publish(f"f{number}", organizationId="few")
        last = (await w.deliveries(few))[-1].pk
        for number, endpoint in enumerate((many, many, few)):
            wanted = selection(endpoint, ReplayKind.REPLAY, since=0.0, until=w.clock.now() + 1, events=())
            matched = await w.journal.transactions.read(replays.match, wanted)
            await w.journal.transactions.write(replays.start, wanted, matched, f"rpl_{number}", w.clock.now())
    async with world(tmp_path) as w:
        await trio.sleep(5)
        queued = {
            endpoint.organization_id: sorted(row.pk for row in await w.deliveries(endpoint) if row.pk > last)
            for endpoint in (many, few)
        }
        assert len(queued["many"]) == 2 * len(queued["few"]) == 2 * (replays.A_STEP + 50)
        before = [pk for pk in queued["many"] if pk < queued["few"][-1]]
        assert len(before) <= 2 * replays.A_STEP


async def test_a_stopped_replay_queues_no_more(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A stop keeps what was queued and queues no more; a second stop is no error, an unknown id is."""
    async with world(tmp_path) as w:
        endpoint = await w.endpoint(is_active=False)
        for number in range(600):
            await w.publish(f"e{number}")
        wanted = selection(endpoint, ReplayKind.REPLAY, since=0.0, until=w.clock.now() + 1, events=())
        matched = await w.journal.transactions.read(replays.match, wanted)
        row = await w.journal.transactions.write(replays.start, wanted, matched, "rpl_1", w.clock.now())
        queued_as = QueuedAs(at=w.clock.now(), max_age_seconds=3600, status=DeliveryStatus.PENDING)
        await w.journal.transactions.write(replays.step, row.id, wanted, queued_as, w.ids)
        stopped = await w.journal.replays.stop(endpoint, row.id, None)
        assert (stopped.queued, stopped.status) == (replays.A_STEP, ReplayStatus.STOPPED)
        await ask(w, endpoint, ReplayKind.RECOVER)
        await trio.sleep(1)
        assert (await w.journal.replays.stop(endpoint, row.id, None)).queued == replays.A_STEP
        with pytest.raises(Rejected) as unknown:
            await w.journal.replays.stop(endpoint, "rpl_unknown", None)
        assert unknown.value.code is ErrorCode.NOT_FOUND


async def test_a_stopped_replay_may_be_removed_at_once(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A replay that is stopped and deleted by retention while its next step waits for the disk ends without a crash."""
    writes = HeldRunner()
    async with world(tmp_path, writes=writes) as w:
        endpoint = await w.endpoint(is_active=False)
        for number in range(2):
            await w.publish(f"e{number}")
        row = await ask(w, endpoint, ReplayKind.REPLAY)
        writes.hold()
        w.journal.transactions.submit(partial(replays.stop, endpoint_pk=endpoint.pk, replay_id=row.id), insists=True)
        w.journal.transactions.submit(partial(replays.prune, before=w.clock.now() + 1), insists=True)
        await wait_all_tasks_blocked()
        writes.free()
        await wait_all_tasks_blocked()
        assert len(await w.deliveries(endpoint)) == 2
        # The next one is carried out at once; after a crash it would have to wait for a restart.
        row = await ask(w, endpoint, ReplayKind.REPLAY)
        await trio.sleep(0.05)
        assert (await progress(w, row)).status is ReplayStatus.DONE


async def test_deleting_the_webhook_ends_its_replays(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A replay of a deleted webhook is stopped and queues nothing."""
    async with world(tmp_path) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await w.router.delete_endpoint(endpoint.id)
        row = await ask(w, endpoint, ReplayKind.REPLAY)
        await trio.sleep(1)
        assert (await progress(w, row)).status is ReplayStatus.STOPPED


async def test_a_replay_to_a_webhook_that_drops_is_canceled(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Deliveries replayed to a disabled webhook are held, or recorded as canceled if it drops events."""
    sender = WorldSender()
    async with world(tmp_path, sender=sender, config=steady()) as w:
        dropping = await w.endpoint(is_active=False, overrides=PolicyOverrides(when_inactive=WhenInactive.DROP))
        await w.publish("e0")
        await ask(w, dropping, ReplayKind.REPLAY)
        await trio.sleep(1)
        assert [row.status for row in await w.deliveries(dropping)] == [DeliveryStatus.CANCELED] * 2
        assert sender.sent == []


async def test_what_fails_again_is_not_met_again(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A recover whose deliveries fail at once ends: it doesn't match them again."""
    sender = WorldSender(script=lambda _: 410)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(1)
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True))
        row = await ask(w, endpoint, ReplayKind.RECOVER)
        await trio.sleep(10)
        assert (await progress(w, row)).status is ReplayStatus.DONE
        assert sender.events() == ["e0", "e0"]


async def test_a_step_looks_at_a_bounded_number_of_rows(tmp_path: Path, autojump_clock: MockClock) -> None:
    """If matches are rare, a step of the writer looks at a bounded number of rows, and none is missed."""
    async with world(tmp_path) as w:
        everyones = await w.endpoint("https://all.example/", events=("user.deleted",), is_active=False)
        acmes = await w.endpoint("https://acme.example/", events=("user.deleted",), organization_id="acme")
        between = 2 * replays.SCANNED_A_STEP + 10
        await w.publish("first", type="user.deleted", organizationId="acme")
        await w.journal.transactions.write(add_events, w.clock.now(), between)
        await w.publish("last", type="user.deleted", organizationId="acme")
        # Of an organization its own events are looked at, which are half of them.
        for endpoint, progress_made in ((everyones, [1, 1, 2]), (acmes, [1, 2])):
            wanted = selection(endpoint, ReplayKind.REPLAY, since=0.0, until=w.clock.now() + 1, events=())
            matched = await w.journal.transactions.read(replays.match, wanted)
            assert (matched.count, matched.last - matched.first) == (2, between + 1)
            row = await w.journal.transactions.write(
                replays.start, wanted, matched, f"rpl_{endpoint.pk}", w.clock.now()
            )
            queued_as = QueuedAs(at=w.clock.now(), max_age_seconds=3600, status=DeliveryStatus.PENDING)
            queued = []
            while row.status is ReplayStatus.RUNNING:
                row = await w.journal.transactions.write(replays.step, row.id, wanted, queued_as, w.ids)
                queued.append(row.queued)
            assert queued == progress_made


async def test_a_recover_looks_at_a_bounded_number_of_rows(tmp_path: Path, autojump_clock: MockClock) -> None:
    """If few of many failed deliveries match, a recover finds them all, in several steps."""
    async with world(tmp_path) as w:
        endpoint = await w.endpoint(is_active=False)
        between = 2 * replays.SCANNED_A_STEP
        await w.journal.transactions.write(add_failed, endpoint.pk, between)
        wanted = selection(endpoint, ReplayKind.RECOVER, since=0.0, until=w.clock.now(), events=("user.deleted",))
        matched = await w.journal.transactions.read(replays.match, wanted)
        row = await w.journal.transactions.write(replays.start, wanted, matched, "rpl_1", w.clock.now())
        queued_as = QueuedAs(at=w.clock.now(), max_age_seconds=3600, status=DeliveryStatus.PENDING)
        queued = []
        while row.status is ReplayStatus.RUNNING:
            row = await w.journal.transactions.write(replays.step, row.id, wanted, queued_as, w.ids)
            queued.append(row.queued)
        assert (matched.count, queued) == (2, [1, 1, 2])


def add_events(database: Database, at: float, count: int) -> None:
    """Store events of another type, every second of the same organization."""
    rows = [
        {
            "id": f"between{number}",
            "type": "user.created",
            "organization_id": "acme" if number % 2 else None,
            "timestamp": at,
            "accepted_at": at,
            "deliveries": 0,
            "body": b"{}",
        }
        for number in range(count)
    ]
    for start in range(0, count, 1000):
        EventTable.insert_many(rows[start : start + 1000]).execute(database)


def add_failed(database: Database, endpoint_pk: int, count: int) -> None:
    """Store failed deliveries: the first and the last are of one type, all others of another."""
    rows = [
        {
            "id": f"failed{number}",
            "endpoint_pk": endpoint_pk,
            "event_pk": 1,
            "event_type": "user.created" if 0 < number < count else "user.deleted",
            "sequence": number + 1,
            "status": "failed",
            "trigger": "auto",
            "attempts": 1,
            "refusals": 1,
            "backoff_step": 0,
            "created_at": 1.0,
            "expires_at": 2.0,
        }
        for number in range(count + 1)
    ]
    for start in range(0, count + 1, 1000):
        DeliveryTable.insert_many(rows[start : start + 1000]).execute(database)

"""Operational events and test deliveries: which webhook gets which event, once, and none about its own deliveries."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest
import trio
from peewee import Database
from trio.testing import MockClock

from tests.journal.harness import Commits
from tests.world import OK, World, WorldSender, steady, world
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import DeliveryError, DeliveryStatus, PolicyOverrides, RetryOverrides, Trigger
from webhookd.dispatch.reporter import ROWS_PER_EXPIRY
from webhookd.journal import EndpointChanges, InlineRunner, Store

T = TypeVar("T")
WATCHER = "https://watcher.example/"
OWN = ("webhook.failing", "webhook.recovered", "webhook.disabled", "delivery.failed")


def told(sender: WorldSender) -> list[dict[str, object]]:
    """Return what the watcher was sent, once each."""
    bodies = {sent.event: json.loads(sent.body) for sent in sender.sent if sent.url == WATCHER}
    return [{"type": body["type"], **body["data"]} for body in bodies.values()]


async def watched(w: World, organization_id: str | None = None) -> None:
    await w.endpoint(WATCHER, events=OWN, organization_id=organization_id)


async def test_an_outage_is_warned_of_once_and_its_end_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """After a day of failures `webhook.failing` comes once; the first success then brings `webhook.recovered`."""
    is_down = {"yes": True}
    sender = WorldSender(script=lambda sent: 500 if sent.url != WATCHER and is_down["yes"] else OK)
    async with world(tmp_path, sender=sender) as w:
        await watched(w)
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(86_000)
        assert told(sender) == []
        await trio.sleep(10_000)
        [warning] = told(sender)
        assert (warning["type"], warning["webhookId"]) == ("webhook.failing", endpoint.id)
        assert warning["failingSince"] == "2025-01-01T00:00:00.000Z"
        assert warning["lastError"] == "HTTP 500"
        is_down["yes"] = False
        await trio.sleep(3600)
        await w.publish("e1")
        await trio.sleep(10)
        assert [each["type"] for each in told(sender)] == ["webhook.failing", "webhook.recovered"]


async def test_a_short_outage_is_nobodys_business(tmp_path: Path, autojump_clock: MockClock) -> None:
    """An outage that ends before the warning causes no operational event."""
    sender = WorldSender(script=lambda sent: 500 if sent.url != WATCHER and sent.number < 8 else OK)
    async with world(tmp_path, sender=sender) as w:
        await watched(w)
        await w.endpoint()
        await w.publish("e0")
        await trio.sleep(20_000)
        assert told(sender) == []


async def test_disabling_is_told(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A 410 causes an event about the failed delivery and one about the disabled webhook."""
    sender = WorldSender(script=lambda sent: 410 if sent.url != WATCHER else OK)
    async with world(tmp_path, sender=sender) as w:
        await watched(w)
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(10)
        failed, disabled = told(sender)
        assert failed["type"] == "delivery.failed"
        assert (failed["eventId"], failed["event"], failed["error"]) == ("e0", "user.created", "gone")
        assert (disabled["type"], disabled["webhookId"]) == ("webhook.disabled", endpoint.id)
        assert disabled["disabledReason"] == "gone"


@pytest.mark.parametrize(("answer", "error"), [(422, "refused"), (DeliveryError.CONNECT, "expired")])
async def test_a_failed_delivery_is_told_of(
    tmp_path: Path, autojump_clock: MockClock, answer: int | DeliveryError, error: str
) -> None:
    """Exhausted refusals and age both end in `delivery.failed`."""
    sender = WorldSender(script=lambda sent: answer if sent.url != WATCHER else OK)
    async with world(tmp_path, sender=sender, config=steady(max_age_seconds=50_000)) as w:
        await watched(w)
        await w.endpoint()
        await w.publish("e0")
        await trio.sleep(60_000)
        [failed] = told(sender)
        assert (failed["type"], failed["error"]) == ("delivery.failed", error)


async def test_what_tells_of_a_queue_that_expires_is_bounded(tmp_path: Path, autojump_clock: MockClock) -> None:
    """However many webhooks subscribe and deliveries expire, no commit has more than some hundred events."""
    watchers, expired = 40, 60
    async with world(tmp_path, config=steady(max_age_seconds=100)) as w:
        await w.endpoint(is_active=False)
        for number in range(expired):
            await w.publish(f"e{number}")
        for number in range(watchers):
            await w.endpoint(f"https://watcher{number}.example/", events=("delivery.failed",), is_active=False)
        commits = Commits(w.journal)
        await trio.sleep(150)
        assert sum(commits.rows) > expired * watchers
        assert max(commits.rows) < 3 * ROWS_PER_EXPIRY


class Looking(InlineRunner):
    """Compares, after each commit, what has failed or was disabled with the operational events about it."""

    def __init__(self) -> None:
        self.journal: Store | None = None
        self.seen: list[tuple[int, int]] = []

    async def run(self, function: Callable[[], T]) -> T:
        result = await super().run(function)
        if self.journal is not None:
            self.seen.append(await self.journal.transactions.read(happened_and_told))
        return result


HAPPENED_AND_TOLD = """
    SELECT (SELECT count(*) FROM deliveries WHERE status = 'failed')
        + (SELECT count(*) FROM endpoints WHERE NOT is_active)
        + (SELECT count(*) FROM endpoint_state WHERE warned_at IS NOT NULL),
        (SELECT count(*) FROM events WHERE type IN ('delivery.failed', 'webhook.disabled', 'webhook.failing'))
"""


def happened_and_told(database: Database) -> tuple[int, int]:
    rows: Any = database.execute_sql(HAPPENED_AND_TOLD)  # type: ignore[no-untyped-call]  # peewee's stubs
    [(happened, told)] = rows
    return happened, told


async def test_an_event_is_in_the_commit_of_what_it_tells_of(tmp_path: Path, autojump_clock: MockClock) -> None:
    """No commit holds a failure, an expiry, a warning or a disabling without its event, nor an event without it."""
    answers = {"a": 410, "b": 422, "c": 500}
    looking = Looking()
    sender = WorldSender(script=lambda sent: answers.get(sent.url[8], OK))
    config = steady(max_age_seconds=100_000, max_refusals=1, warn_after_seconds=1000)
    async with world(tmp_path, sender=sender, config=config, writes=looking) as w:
        looking.journal = w.journal
        await watched(w)
        for name in answers:
            await w.endpoint(f"https://{name}.example/")
        for number in range(3):
            await w.publish(f"e{number}")
            await trio.sleep(50)
        await trio.sleep(80_000)
        await trio.sleep(80_000)
    assert [happened for happened, told in looking.seen if happened != told] == []
    # Three deliveries to each of three, one of which is disabled and one warned of.
    assert looking.seen[-1] == (11, 11)


async def test_nothing_is_told_of_what_tells(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A subscriber that refuses everything gets events about others, none about its own operational deliveries."""
    overrides = PolicyOverrides(retry=RetryOverrides(max_refusals=1))
    sender = WorldSender(script=lambda _: 422)
    async with world(tmp_path, sender=sender) as w:
        await w.endpoint(WATCHER, events=OWN, overrides=overrides)
        await w.endpoint(overrides=overrides)
        await w.publish("e0")
        await trio.sleep(10_000)
        assert [each["type"] for each in told(sender)] == ["delivery.failed"]


async def test_a_star_does_not_cover_them_and_organizations_hold(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Only webhooks that name them get them: of the same organization as the webhook they are about, or of none."""
    sender = WorldSender(script=lambda sent: 410 if sent.url == "https://gone.example/" else OK)
    async with world(tmp_path, sender=sender) as w:
        await w.endpoint("https://star.example/", organization_id="acme")
        await w.endpoint("https://other.example/", events=OWN, organization_id="other")
        await watched(w, "acme")
        await w.endpoint("https://gone.example/", organization_id="acme")
        await w.publish("e0", organizationId="acme")
        await trio.sleep(10)
        assert {each["type"] for each in told(sender)} == {"delivery.failed", "webhook.disabled"}
        assert sender.events("https://star.example/") == ["e0"]
        assert sender.events("https://other.example/") == []


async def test_a_test_is_sent_beside_the_line(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A test is sent at once, also with an open breaker, has no sequence, and doesn't change the endpoint's state."""
    sender = WorldSender(script=lambda sent: OK if sent.headers["x-webhook-event"] == "webhook.test" else 500)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        await w.publish("e0")
        await trio.sleep(500)
        [before] = await w.router.health([endpoint])
        detail = await w.router.tester.test(endpoint)
        [after] = await w.router.health([endpoint])
        assert after == before
        sent = sender.sent[-1]
        assert (sent.headers["x-webhook-attempt"], "x-webhook-sequence" in sent.headers) == ("1", False)
        assert json.loads(sent.body)["type"] == "webhook.test"
        [attempt] = detail.attempts
        assert (attempt.trigger, attempt.response_status) == (Trigger.TEST, 200)
        assert (detail.row.status, detail.row.sequence) == (DeliveryStatus.SUCCEEDED, 0)
        with pytest.raises(Rejected) as refused:
            await w.router.retry(detail.row.id, None, force=True)
        assert refused.value.code is ErrorCode.CONFLICT
        await w.router.update_endpoint(endpoint.id, EndpointChanges(is_active=False))
        assert (await w.router.tester.test(endpoint)).row.status is DeliveryStatus.SUCCEEDED


async def test_a_test_that_fails_shows_how(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A test of an unreachable receiver returns the error; a 410 to a test doesn't disable the webhook."""
    sender = WorldSender(script=lambda _: 410)
    async with world(tmp_path, sender=sender) as w:
        endpoint = await w.endpoint()
        detail = await w.router.tester.test(endpoint)
        assert (detail.attempts[0].error, detail.row.status) == (DeliveryError.GONE, DeliveryStatus.FAILED)
        lane = w.router.registry.lane(endpoint.pk)
        assert lane is not None
        assert lane.endpoint.is_active

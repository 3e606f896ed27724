"""What people and fate do to a server while it lives: events, changes of endpoints, retries, clocks, full disks."""

from collections.abc import Awaitable, Callable

import msgspec
import trio

from tests.simulation.life import Life, limit_pages
from tests.simulation.model import PARK_AFTER, Subject, Submission, World
from webhookd.delivery.signing import secret_hint
from webhookd.envelope import decode_event
from webhookd.errors import Rejected
from webhookd.hidden import Secret
from webhookd.ids import Prefix
from webhookd.journal import EndpointChanges, Journal, NewEndpoint, deliveries, endpoints
from webhookd.models import (
    BreakerState,
    DeliveryStatus,
    EndpointState,
    Ordering,
    PolicyOverrides,
    RateLimit,
    ReplayKind,
    RetryOverrides,
)
from webhookd.replayer import selection

TYPES = ("user.created", "user.deleted", "organization.created")
MOST_ENDPOINTS = 6
MOST_EVENTS = 150
LONG_AGO = -10.0
SECRET = "whsec_" + "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="


async def revive(world: World, journal: Journal) -> None:
    """Ask the journal how the endpoints are after a restart, and hold it to what had been acknowledged."""
    stored = {endpoint.id: endpoint for endpoint in await journal.read(endpoints.all)}
    for subject in world.subjects.values():
        subject.flying.clear()
        endpoint = stored.get(subject.id)
        if endpoint is None:
            if subject.created and not subject.deleting:
                world.blame(f"{subject.id} is gone")
            subject.deleted_at = trio.current_time()
            continue
        if subject.deleted_at is not None:
            world.blame(f"{subject.id} was deleted and is back")
        subject.deleting = False
        subject.overrides = endpoint.overrides
        subject.inactive_at = None if endpoint.is_active else trio.current_time()
        if _may_have_lost_answers(world, subject):
            _trust(subject, await journal.read(endpoints.state, endpoint.pk))


def _may_have_lost_answers(world: World, subject: Subject) -> bool:
    """Whether a crash came before an endpoint's last answers were on disk, so that only the journal knows its state."""
    since = world.unsaved_since.get(world.life - 1)
    return since is not None and any(
        request.endpoint_id == subject.id and request.ended_at is not None and request.ended_at > since
        for request in world.requests
    )


def _trust(subject: Subject, state: EndpointState) -> None:
    subject.faults = state.consecutive_faults
    subject.opened_at = None if state.breaker is BreakerState.CLOSED else LONG_AGO
    subject.open_until = state.retry_at or 0.0
    subject.paused_at = None if state.paused_until is None else LONG_AGO
    subject.paused_until = state.paused_until or 0.0


class Chaos:
    """The outside of one life."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life
        self._dice = world.dice

    async def produce(self) -> None:
        """Publish events in bursts, some with ids, some of those again."""
        while True:
            await trio.sleep(self._dice.choice((0.0, 0.01, 0.5, 3.0, 45.0)))
            for _ in range(self._dice.choice((1, 1, 3, 12))):
                await self._publish()

    async def _publish(self) -> None:
        world, dice = self._world, self._dice
        named = [name for name in world.submissions if name.startswith("e-")]
        event_id: str | None
        if named and (dice.random() < 0.15 or len(world.submissions) > MOST_EVENTS):
            event_id = dice.choice(named)
            submission = world.submissions[event_id]
        else:
            number = len(world.submissions)
            data = f'{{"n": {number},  "x":"{dice.getrandbits(32):x}"}}'.encode()
            submission = Submission(data, dice.choice(TYPES), dice.choice((None, "k1", "k2", "k3")))
            event_id = f"e-{number}" if dice.random() < 0.6 else None
            if event_id is not None:
                world.submissions[event_id] = submission
        document: dict[str, object] = {"type": submission.type, "data": msgspec.Raw(submission.data)}
        if event_id is not None:
            document["id"] = event_id
        if submission.key is not None:
            document["orderingKey"] = submission.key
        before, was_acked = self._matching(submission.type), submission.acked is not None
        try:
            await self._life.router.room()
            ticket = self._life.router.publish(decode_event(msgspec.json.encode(document), max_bytes=262_144))
            result = await ticket.wait()
        except Rejected as refused:
            world.note(f"refused {event_id} {refused.code}")
            return
        if world.is_dead:
            return
        world.note(f"ack {result}")
        if was_acked and not result.duplicate:
            world.blame(f"{result.id} was acknowledged before and is no duplicate now")
        if submission.acked is not None and submission.acked != result.deliveries:
            world.blame(f"{result.id} had {submission.acked} deliveries and has {result.deliveries}")
        if not result.duplicate:
            submission.wanted = before & self._matching(submission.type)
        submission.acked = result.deliveries
        world.submissions[result.id] = submission

    def _matching(self, event_type: str) -> set[str]:
        """Return the endpoints that must get an event: they are there, and nobody is deleting them."""
        return {
            subject.id
            for subject in self._world.subjects.values()
            if subject.created
            and not subject.deleting
            and subject.deleted_at is None
            and any(name in {"*", event_type, event_type.partition(".")[0] + ".*"} for name in subject.events)
        }

    async def operate(self) -> None:
        """Create, change, switch, delete, retry and replay."""
        while len(self._alive()) < self._dice.randint(1, MOST_ENDPOINTS):
            await self._attempt(self._create)
        deeds = [self._create, self._delete, self._move, self._replay, *[self._change] * 2]
        deeds += [*[self._switch] * 3, *[self._retry] * 3]
        while True:
            await trio.sleep(self._dice.choice((0.01, 1.0, 4.0, 15.0)))
            await self._attempt(self._dice.choice(deeds))

    async def _attempt(self, deed: Callable[[], Awaitable[None]]) -> None:
        try:
            await deed()
        except Rejected as refused:
            self._world.note(f"no: {refused.code}")

    def _alive(self) -> list[Subject]:
        return [
            subject
            for subject in self._world.subjects.values()
            if subject.created and not subject.deleting and subject.deleted_at is None
        ]

    def _any(self) -> Subject | None:
        alive = self._alive()
        return self._dice.choice(alive) if alive else None

    async def _create(self) -> None:
        dice = self._dice
        if len(self._alive()) >= MOST_ENDPOINTS:
            return
        number = len(self._world.subjects)
        ordering = dice.choice(list(Ordering))
        overrides = PolicyOverrides(
            ordering=ordering,
            concurrency=dice.choice((1, 2, 5)),
            rate_limit=self._limit(),
            timeout_seconds=dice.choice((1.0, 5.0)),
            retry=RetryOverrides(
                delays=(3.0, 5.0, 10.0), jitter=0.2, max_refusals=dice.choice((2, 10)), park_after=PARK_AFTER
            ),
            breaker_threshold=dice.choice((2, 3)),
        )
        subject = Subject(
            self._life.ids.new(Prefix.WEBHOOK),
            f"https://r{number}.example/",
            dice.choice((("*",), ("user.*",), ("user.created", "organization.created"))),
            overrides,
            ordering,
        )
        self._world.subjects[subject.id] = subject
        new = NewEndpoint(
            id=subject.id,
            url=subject.url,
            events=subject.events,
            secret=Secret(SECRET),
            secret_hint=secret_hint(SECRET),
            created_at=self._world.clock.now(),
            overrides=overrides,
        )
        await self._life.router.create_endpoint(new)
        if not self._world.is_dead:
            subject.created = True
            self._world.note(f"created {subject.id} {overrides}")

    def _limit(self) -> RateLimit | None:
        chosen = self._dice.choice((None, None, 1.0, 5.0))
        return None if chosen is None else RateLimit(per_second=chosen, burst=self._dice.choice((1, 3)))

    async def _delete(self) -> None:
        subject = self._any()
        if subject is None or self._dice.random() < 0.6:
            return
        subject.deleting = True
        await self._life.router.delete_endpoint(subject.id)
        if not self._world.is_dead:
            subject.deleted_at = trio.current_time()
            self._world.note(f"deleted {subject.id}")

    async def _switch(self) -> None:
        subject = self._any()
        if subject is None:
            return
        on = subject.inactive_at is not None
        if on:
            subject.inactive_at = None
            subject.forgive()
        await self._life.router.update_endpoint(subject.id, EndpointChanges(is_active=on))
        if self._world.is_dead:
            return
        if on:
            subject.forgive()
        subject.inactive_at = None if on else trio.current_time()
        self._world.note(f"switched {subject.id} {on}")

    async def _change(self) -> None:
        """Change the pace."""
        subject = self._any()
        if subject is None:
            return
        overrides = msgspec.structs.replace(
            subject.overrides, rate_limit=self._limit(), concurrency=self._dice.choice((1, 2, 5))
        )
        # Between the two the looser rule holds.
        subject.overrides = msgspec.structs.replace(overrides, rate_limit=None)
        await self._life.router.update_endpoint(subject.id, EndpointChanges(overrides=overrides))
        await trio.sleep(1.0)
        subject.overrides = overrides
        subject.version += 1
        self._world.note(f"changed {subject.id} {overrides}")

    async def _move(self) -> None:
        subject = self._any()
        if subject is None:
            return
        subject.forgive()
        number = len(self._world.subjects) + self._dice.randint(1000, 9999)
        await self._life.router.update_endpoint(subject.id, EndpointChanges(url=f"https://r{number}.example/"))
        subject.forgive()

    async def _retry(self) -> None:
        subject = self._any()
        if subject is None:
            return
        known = [request.delivery for request in self._world.requests if request.endpoint_id == subject.id]
        if not known:
            return
        delivery = self._dice.choice(known)
        force = self._dice.random() < 0.2
        self._world.by_hand.add(delivery)
        row = await self._life.router.retry(delivery, None, force=force)
        self._world.note(f"retried {row.id}")

    async def _replay(self) -> None:
        subject = self._any()
        if subject is None:
            return
        endpoint = next(e for e in await self._life.journal.read(endpoints.all) if e.id == subject.id)
        kind = self._dice.choice(list(ReplayKind))
        now = self._world.clock.now()
        if kind is ReplayKind.RECOVER:
            page = await self._life.journal.read(
                deliveries.page,
                endpoint.pk,
                status=DeliveryStatus.FAILED,
                event=None,
                event_id=None,
                since=None,
                until=None,
                limit=1000,
                cursor=None,
            )
            self._world.by_hand |= {row.id for row in page.items}
        wanted = selection(endpoint, kind, since=now - 20, until=now + 1, events=())
        await self._life.router.replayer.start(endpoint, wanted)
        self._world.note(f"{kind} {subject.id}")

    async def trouble(self) -> None:
        """Set the clock, fill the disk."""
        world, dice = self._world, self._dice
        while True:
            await trio.sleep(dice.uniform(2, 60))
            if dice.random() < 0.5:
                seconds = dice.choice((-120.0, -5.0, -0.5, 0.5, 30.0, 600.0))
                world.clock.jump(seconds)
                world.note(f"clock {seconds}")
            else:
                world.note("disk full")
                limit_pages(self._life.journal, dice.randint(0, 3))
                world.full_since = trio.current_time()
                await trio.sleep(dice.uniform(0.1, 15))
                limit_pages(self._life.journal, None)
                world.note("disk has room")
                await trio.sleep(3)
                world.full_since = None

"""What operators do to a running server: endpoints, their policies and secrets, retries, replays, the catalogue.

During a change, a request is allowed if either the old or the new setting allows it.
"""

from collections.abc import Awaitable, Callable
from functools import partial

import msgspec
import trio

from tests.simulation import audit
from tests.simulation.life import Life
from tests.simulation.model import EXTRA_TYPE, PARK_AFTER, Signing, Subject, World
from webhookd.base.errors import Rejected
from webhookd.base.event_types import OperationalEvent
from webhookd.base.ids import Prefix
from webhookd.base.models import (
    DeliveryStatus,
    Ordering,
    PolicyOverrides,
    RateLimit,
    ReplayKind,
    RetryOverrides,
    WhenInactive,
)
from webhookd.base.secret import Secret
from webhookd.delivery.signing import generate_secret, secret_hint
from webhookd.jobs.replay import selection
from webhookd.journal import EndpointChanges, EventTypeRow, NewEndpoint
from webhookd.journal.queries import deliveries, endpoints

MOST_ENDPOINTS = 6
OLD_RETRIES = 4  # at the same time
SETTLING_SECONDS = 1.0


class Operators:
    """The operators of one life."""

    def __init__(self, world: World, life: Life) -> None:
        self._world = world
        self._life = life
        self._dice = world.dice

    async def run(self) -> None:
        """Create, change, enable, disable, delete, retry and replay; first retry what retention may delete now."""
        await self._retry_old()
        while len(self._alive()) < self._dice.randint(1, MOST_ENDPOINTS):
            await self._attempt(self._create)
        actions = [
            self._create,
            self._delete,
            self._move,
            self._move,
            self._replay,
            self._rotate,
            self._rotate,
            self._list_type,
        ]
        actions += [*[self._change] * 3, *[self._switch] * 3, *[self._retry] * 3]
        while True:
            await trio.sleep(self._dice.choice((0.01, 1.0, 4.0, 15.0)))
            await self._attempt(self._dice.choice(actions))

    async def _attempt(self, action: Callable[[], Awaitable[None]]) -> None:
        try:
            await action()
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
        dice, world = self._dice, self._world
        if len(self._alive()) >= MOST_ENDPOINTS:
            return
        number = len(world.subjects)
        ordering = dice.choice(list(Ordering))
        overrides = PolicyOverrides(
            ordering=ordering,
            concurrency=dice.choice((1, 2, 5)),
            rate_limit=self._limit(),
            timeout_seconds=dice.choice((1.0, 5.0)),
            retry=RetryOverrides(
                delays=(3.0, 5.0, 10.0),
                jitter=0.2,
                max_refusals=dice.choice((2, 10)),
                max_age_seconds=dice.choice((None, None, 90.0)),
                park_after=PARK_AFTER,
            ),
            breaker_threshold=dice.choice((2, 3)),
            when_inactive=dice.choice((None, None, WhenInactive.DROP)),
        )
        events: tuple[str, ...] = dice.choice((("*",), ("user.*",), ("user.created", "organization.created")))
        if dice.random() < 0.5:
            events += tuple(OperationalEvent)
        secret = generate_secret(dice.randbytes)
        subject = Subject(
            self._life.ids.new(Prefix.WEBHOOK), f"https://r{number}.example/", events, overrides, ordering
        )
        subject.secrets.append(Signing(secret, world.clock.steady()))
        world.subjects[subject.id] = subject
        new = NewEndpoint(
            id=subject.id,
            url=subject.url,
            events=subject.events,
            secret=Secret(secret),
            secret_hint=secret_hint(secret),
            created_at=world.clock.now(),
            overrides=overrides,
        )
        await self._life.router.create_endpoint(new)
        if not world.is_dead:
            subject.created = True
            subject.enabled_since = trio.current_time()
            world.note(f"created {subject.id} {overrides}")

    def _limit(self) -> RateLimit | None:
        chosen = self._dice.choice((None, None, 1.0, 5.0))
        return None if chosen is None else RateLimit(per_second=chosen, burst=self._dice.choice((1, 3)))

    async def _delete(self) -> None:
        subject = self._any()
        if subject is None or self._dice.random() < 0.6:
            return
        subject.deleting = True
        subject.expect_nothing()
        await self._life.router.delete_endpoint(subject.id)
        if not self._world.is_dead:
            subject.deleted_at = trio.current_time()
            self._world.note(f"deleted {subject.id}")

    async def _switch(self) -> None:
        subject = self._any()
        if subject is None:
            return
        on = subject.disabled_at is not None
        if on:
            subject.disabled_at = None
            subject.begin_change()
        else:
            subject.enabled_since = None
            subject.expect_nothing()
            subject.has_dropped = subject.has_dropped or subject.drops
        steady_at = self._world.clock.steady()
        try:
            await self._life.router.update_endpoint(subject.id, EndpointChanges(is_active=on))
        finally:
            if on:
                subject.end_change()
        if self._world.is_dead:
            return
        if on:
            # As after a pause, a single request is sent first.
            subject.paused_at, subject.paused_until = subject.change_began_at, steady_at
            subject.enabled_since = subject.touched_at = trio.current_time()
            await self._expect_request(subject)
        subject.disabled_at = None if on else trio.current_time()
        self._world.note(f"switched {subject.id} {on}")

    async def _change(self) -> None:
        """Change ordering, rate limit, concurrency, retry delays, or whether a disabled webhook drops events."""
        subject, dice = self._any(), self._dice
        if subject is None:
            return
        before = subject.overrides
        delays = dice.choice((before.retry.delays, (3.0, 5.0, 10.0), (1.0, 20.0)))
        ordering = dice.choice((subject.ordering, *Ordering))
        overrides = msgspec.structs.replace(
            before,
            ordering=ordering,
            rate_limit=dice.choice((before.rate_limit, self._limit())),
            concurrency=dice.choice((1, 2, 5)),
            retry=msgspec.structs.replace(before.retry, delays=delays),
            when_inactive=dice.choice((before.when_inactive, None, WhenInactive.DROP)),
        )
        if overrides.when_inactive is WhenInactive.DROP or before.when_inactive is WhenInactive.DROP:
            subject.has_dropped = True  # from now on only events that arrive while it is surely enabled are expected
        shorter = [min(values) for values in zip(delays or (), before.retry.delays or (), strict=False)]
        retry = msgspec.structs.replace(before.retry, delays=tuple(shorter))
        most = max(overrides.concurrency or 0, before.concurrency or 0)
        subject.overrides = msgspec.structs.replace(overrides, rate_limit=None, concurrency=most, retry=retry)
        subject.expect_nothing()  # a request in flight that holds the queue up may do so no longer
        subject.is_settling = True  # one of the two may have a rate limit, with which there is no ramp
        subject.order(Ordering.NONE)
        try:
            await self._life.router.update_endpoint(subject.id, EndpointChanges(overrides=overrides))
        except Rejected:
            overrides, ordering = before, before.ordering or Ordering.STRICT
        await trio.sleep(SETTLING_SECONDS)
        subject.is_settling = False
        subject.overrides = overrides
        subject.order(ordering)
        subject.version += 1
        self._world.note(f"changed {subject.id} {overrides}")

    async def _rotate(self) -> None:
        subject, world = self._any(), self._world
        if subject is None:
            return
        secret = generate_secret(self._dice.randbytes)
        overlap = self._dice.choice((0.0, 8.0, 60.0))
        now = world.clock.steady()
        # Until the new secret is on disk, which may be after a crash, either of them may sign.
        old = [signing for signing in subject.secrets if signing.until is None or signing.until > now]
        subject.begin_change()
        new = Signing(secret, float("inf"))
        subject.secrets.append(new)
        certain_since = [signing.since for signing in old]
        for signing in old:
            signing.since = float("inf")
        try:
            await self._life.router.rotate_secret(subject.id, Secret(secret), overlap)
        except Rejected:
            subject.secrets.remove(new)
            for signing, since in zip(old, certain_since, strict=True):
                signing.since = since
            raise
        finally:
            subject.end_change()
        if world.is_dead:
            return
        new.since = now = world.clock.steady()
        for signing in old[-1:]:
            signing.since, signing.until = now, now + overlap
        for signing in old[:-1]:
            signing.until = now
        world.note(f"rotated {subject.id} {overlap}")

    async def _list_type(self) -> None:
        """Add a type to the catalogue, or remove it."""
        world = self._world
        is_known = world.catalogue[EXTRA_TYPE]
        world.catalogue[EXTRA_TYPE] = None
        if is_known is not True:
            row = EventTypeRow(name=EXTRA_TYPE)
            await self._life.journal.event_types.put(row, world.clock.now(), entry=None, condition=None)
        else:
            await self._life.journal.event_types.delete(EXTRA_TYPE, entry=None, condition=None)
        if not world.is_dead:
            world.catalogue[EXTRA_TYPE] = is_known is not True

    async def _move(self) -> None:
        """Change the URL of a webhook, preferably of one with a request in flight."""
        in_flight = [subject for subject in self._alive() if subject.in_flight]
        subject = self._dice.choice(in_flight) if in_flight else self._any()
        if subject is None:
            return
        subject.begin_change(is_move=True)
        number = len(self._world.subjects) + self._dice.randint(1000, 9999)
        url = f"https://r{number}.example/"
        try:
            await self._life.router.update_endpoint(subject.id, EndpointChanges(url=url))
            subject.url = url
        finally:
            subject.end_change()
        if not self._world.is_dead and subject.disabled_at is None and subject.enabled_since is not None:
            await self._expect_request(subject)

    async def _expect_request(self, subject: Subject) -> None:
        """Expect that a pending delivery is sent at once, unless something else can hold it up."""
        began_at = trio.current_time()
        waiting = await self._life.journal.transactions.read(audit.waiting, subject.id)
        is_held_up = self._world.is_crowded or self._world.full_since is not None
        if subject.overrides.retry.max_age_seconds is None and not is_held_up and not self._world.is_dead:
            known = [request for request in self._world.requests if request.at >= began_at]
            if subject.paused_at is None or subject.paused_until <= self._world.clock.steady():
                # A delivery that was answered may not have been recorded yet.
                waiting -= {request.delivery for request in self._world.requests if request.is_delivered}
                subject.expect_request(set() if known else waiting)

    async def _retry(self) -> None:
        subject = self._any()
        if subject is None:
            return
        known = [request.delivery for request in self._world.requests if request.endpoint_id == subject.id]
        if known:
            await self._retry_by_hand(self._dice.choice(known))

    async def _retry_old(self) -> None:
        """Retry all deliveries that retention may delete by age now, several at a time, while it does so."""
        old = {name for name, submission in self._world.submissions.items() if submission.may_be_deleted}
        known = list(dict.fromkeys(request.delivery for request in self._world.requests if request.event in old))
        self._dice.shuffle(known)
        async with trio.open_nursery() as nursery:
            for _ in range(OLD_RETRIES):
                nursery.start_soon(self._retry_each, known)

    async def _retry_each(self, known: list[str]) -> None:
        while known:
            await self._attempt(partial(self._retry_by_hand, known.pop()))
            await trio.sleep(self._dice.choice((0.0, 0.01)))

    async def _retry_by_hand(self, delivery: str) -> None:
        force = self._dice.random() < 0.2
        was_by_hand = delivery in self._world.by_hand
        self._world.by_hand.add(delivery)
        try:
            row = await self._life.router.retry(delivery, None, force=force)
        except Rejected:
            if not was_by_hand:
                self._world.by_hand.discard(delivery)
            raise
        self._world.note(f"retried {row.id}")

    async def _replay(self) -> None:
        subject = self._any()
        if subject is None:
            return
        endpoint = next(e for e in await self._life.journal.transactions.read(endpoints.all) if e.id == subject.id)
        kind = self._dice.choice(list(ReplayKind))
        now = self._world.clock.now()
        if kind is ReplayKind.RECOVER:
            page = await self._life.journal.transactions.read(
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

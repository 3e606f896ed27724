"""The environment of a server: clocks that are set, suspends, a full disk, and the time between two lives."""

import trio

from tests.simulation.life import RETENTION_DAYS, Life, limit_pages
from tests.simulation.model import DAY, UNOBSERVED_SECONDS, YEAR, Subject, World
from webhookd.base.models import BreakerState, DisabledReason, EndpointState, Ordering
from webhookd.journal import Store
from webhookd.journal.queries import endpoints, event_types

LONG_AGO = -10.0
STEPS = (-YEAR, -DAY, -120.0, -5.0, -0.5, 0.5, 30.0, 600.0, DAY, YEAR)
FAR_STEPS = (-YEAR, -YEAR, -DAY, -600.0, 600.0, DAY, YEAR)
DELETED_SECONDS = (RETENTION_DAYS - 1) * DAY
SLEEPS = (5.0, 40.0, 3600.0)


async def disturb(world: World, life: Life) -> None:
    """Set the clock, suspend the machine, or fill the disk, sometimes with a crash while it is full or soon after."""
    dice = world.dice
    while True:
        await trio.sleep(dice.uniform(2, 60))
        roll = dice.random()
        if roll < 0.4 or (world.is_about_time and roll < 0.7):
            seconds = dice.choice(STEPS)
            world.clock.jump(seconds)
            world.note(f"clock {seconds}")
        elif roll < 0.5 or world.is_about_time:
            seconds = dice.choice(SLEEPS)
            world.clock.suspend(seconds)
            world.note(f"asleep {seconds}")
        else:
            world.note("disk full")
            limit_pages(life.journal, dice.randint(0, 3))
            world.full_since = world.was_full_at = trio.current_time()
            for subject in world.subjects.values():
                subject.expect_nothing()
            if dice.random() < 0.3:
                world.fuse = dice.randint(1, 300)
            await trio.sleep(dice.uniform(0.1, 15))
            limit_pages(life.journal, None)
            world.note("disk has room")
            await trio.sleep(3)
            world.full_since = None


def between_lives(world: World) -> None:
    """Let time pass without a server, and sometimes set the clock meanwhile."""
    dice, clock = world.dice, world.clock
    now = trio.current_time()
    # A server that did not read the clock after a change has not noticed the change.
    unobserved = [seconds for at, seconds in clock.jumps if at > now - UNOBSERVED_SECONDS]
    if dice.random() < (0.6 if world.is_about_time else 0.3):
        seconds = dice.choice(FAR_STEPS)
        clock.jump(seconds)
        unobserved.append(seconds)
        world.note(f"clock {seconds} with no server")
    if dice.random() < 0.2:
        clock.suspend(dice.choice((30.0, 600.0)))
    clock.is_set = bool(clock.jumps) and clock.jumps[-1][0] >= world.life_began_at
    world.life_began_at = now
    if any(abs(seconds) > 1 for seconds in unobserved):
        world.unobserved = max(world.unobserved, *map(abs, unobserved))
    # A server that starts with its clock a year ahead takes finished deliveries for a year old.
    for submission in world.submissions.values():
        if clock.now() - submission.wall_at > DELETED_SECONDS:
            submission.may_be_deleted = True
    world.deletes_before.append(clock.now() - DELETED_SECONDS)


async def resume(world: World, journal: Store) -> None:
    """Check after a restart that the journal has every acknowledged change, and update the model from it."""
    stored = {endpoint.id: endpoint for endpoint in await journal.transactions.read(endpoints.all)}
    types = {row.name for row in await journal.transactions.read(event_types.all)}
    for name, is_known in world.catalogue.items():
        if is_known is not None and is_known is not (name in types):
            state = "missing from" if is_known else "still in"
            world.report(f"{name} is {state} the catalogue after an acknowledged change")
        world.catalogue[name] = name in types
    for subject in world.subjects.values():
        subject.in_flight.clear()
        endpoint = stored.get(subject.id)
        if endpoint is None:
            if subject.created and not subject.deleting:
                world.report(f"{subject.id} is missing")
            subject.deleted_at = trio.current_time()
            continue
        if subject.deleted_at is not None:
            world.report(f"{subject.id} was deleted and exists again")
        if endpoint.disabled_reason is DisabledReason.FAILING:
            world.report(f"{subject.id} was disabled as failing after minutes of failures")
        subject.deleting = False
        subject.overrides = endpoint.overrides
        ordering = endpoint.overrides.ordering or Ordering.STRICT
        if ordering is not subject.ordering:
            subject.order(ordering)
        subject.disabled_at = None if endpoint.is_active else trio.current_time()
        subject.enabled_since = trio.current_time() if endpoint.is_active else None
        subject.touched_at = trio.current_time()
        subject.is_settling = False  # the journal has the current policy
        subject.recovered_at = None  # the progress of the ramp depends on a clock that may have been set
        subject.url = endpoint.url
        subject.change_ended_at, subject.is_moving = min(subject.change_ended_at, trio.current_time()), False
        subject.expect_nothing()
        subject.has_dropped = subject.has_dropped or subject.drops
        _sign(world, subject, endpoint.secret_hint, endpoint.previous_secret_expires_at)
        if world.clock.is_set or _may_have_lost_answers(world, subject):
            _trust(world, subject, await journal.transactions.read(endpoints.state, endpoint.pk))


def _sign(world: World, subject: Subject, hint: str, expires_at: float | None) -> None:
    """Set which secrets sign, by the newest secret in the journal and the end of the overlap that it has."""
    now = world.clock.steady()
    newest = subject.secrets[-1]
    if not newest.secret.rstrip("=").endswith(hint[-4:]):
        subject.secrets.pop()
        if newest.since != float("inf"):
            world.report(f"{subject.id} has lost an acknowledged rotation of its secret")
    for signing in subject.secrets[:-2]:
        signing.until = now if signing.until is None else min(signing.until, now)
    for signing in subject.secrets:
        signing.since = min(signing.since, now)
    subject.secrets[-1].until = None
    left = 0.0 if expires_at is None else expires_at - world.clock.now()
    for signing in subject.secrets[:-1][-1:]:
        signing.until = now + left
        if world.unobserved:  # with the clock set back the overlap may begin again, if the secret is still stored
            signing.since = float("inf")


def _may_have_lost_answers(world: World, subject: Subject) -> bool:
    """Whether a crash may have lost an endpoint's last answers, so that only the journal knows its state."""
    since = world.unsaved_since.get(world.life - 1)
    return since is not None and any(
        request.endpoint_id == subject.id and request.ended_at is not None and request.ended_at > since
        for request in world.requests
    )


def _longest_delay(subject: Subject) -> float:
    """Return the longest wait of an endpoint's present settings: no wait from before a change lasts longer."""
    retry = subject.overrides.retry
    assert retry.delays is not None
    assert retry.jitter is not None
    return max(retry.delays) * (1 + retry.jitter) + 1


def _trust(world: World, subject: Subject, state: EndpointState) -> None:
    """Take over the failure state that the journal has."""
    subject.faults = state.consecutive_faults
    now, steady = world.clock.now(), world.clock.steady()
    # With the clock set back, a wait after a failure begins again now.
    ahead = max((state.last_failure_at or 0.0) - now, 0.0)
    subject.opened_at = None if state.breaker is BreakerState.CLOSED else LONG_AGO
    # A half-open breaker has waited already: its probe was cut off, and the next one may be sent at once.
    is_waiting = state.breaker is BreakerState.OPEN
    left = min((state.retry_at or 0.0) - now - ahead, _longest_delay(subject))
    subject.open_until = steady + left if is_waiting else 0.0
    subject.paused_at = None if state.paused_until is None else LONG_AGO
    subject.paused_until = steady + (state.paused_until or 0.0) - now - ahead

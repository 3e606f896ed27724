"""What fate does to a server: clocks that are set, a machine asleep, a full disk; and what a restart has to show."""

import trio

from tests.simulation.life import RETENTION_DAYS, Life, limit_pages
from tests.simulation.model import DAY, UNHEARD_SECONDS, YEAR, Subject, World
from webhookd.base.models import BreakerState, DisabledReason, EndpointState, Ordering
from webhookd.journal import Store
from webhookd.journal.queries import endpoints, event_types

LONG_AGO = -10.0
STEPS = (-YEAR, -DAY, -120.0, -5.0, -0.5, 0.5, 30.0, 600.0, DAY, YEAR)
FAR_STEPS = (-YEAR, -YEAR, -DAY, -600.0, 600.0, DAY, YEAR)
FORGOTTEN_SECONDS = (RETENTION_DAYS - 1) * DAY
SLEEPS = (5.0, 40.0, 3600.0)


async def trouble(world: World, life: Life) -> None:
    """Set the clock, suspend the machine, fill the disk, perhaps with a crash while it is full or soon after."""
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
    """Let time pass with no server, and perhaps somebody set the clock."""
    dice, clock = world.dice, world.clock
    now = trio.current_time()
    # What a server hadn't asked the time since, it hasn't heard of either.
    unheard = [seconds for at, seconds in clock.jumps if at > now - UNHEARD_SECONDS]
    if dice.random() < (0.6 if world.is_about_time else 0.3):
        seconds = dice.choice(FAR_STEPS)
        clock.jump(seconds)
        unheard.append(seconds)
        world.note(f"clock {seconds} with no server")
    if dice.random() < 0.2:
        clock.suspend(dice.choice((30.0, 600.0)))
    clock.is_set = bool(clock.jumps) and clock.jumps[-1][0] >= world.life_began_at
    world.life_began_at = now
    if any(abs(seconds) > 1 for seconds in unheard):
        world.unheard = max(world.unheard, *map(abs, unheard))
    # To a server that starts with its clock a year ahead what has ended is a year old.
    for submission in world.submissions.values():
        if clock.now() - submission.wall_at > FORGOTTEN_SECONDS:
            submission.may_be_forgotten = True
    world.forgotten_before.append(clock.now() - FORGOTTEN_SECONDS)


async def revive(world: World, journal: Store) -> None:
    """Ask the journal how the endpoints are after a restart, and hold it to what had been acknowledged."""
    stored = {endpoint.id: endpoint for endpoint in await journal.transactions.read(endpoints.all)}
    types = {row.name for row in await journal.transactions.read(event_types.all)}
    for name, is_known in world.catalogue.items():
        if is_known is not None and is_known is not (name in types):
            world.blame(f"the catalogue doesn't say of {name} what was acknowledged")
        world.catalogue[name] = name in types
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
        if endpoint.disabled_reason is DisabledReason.FAILING:
            world.blame(f"{subject.id} was disabled as failing, after minutes of failures")
        subject.deleting = False
        subject.overrides = endpoint.overrides
        ordering = endpoint.overrides.ordering or Ordering.STRICT
        if ordering is not subject.ordering:
            subject.order(ordering)
        subject.inactive_at = None if endpoint.is_active else trio.current_time()
        subject.on_since = trio.current_time() if endpoint.is_active else None
        subject.touched_at = trio.current_time()
        subject.is_settling = False  # the journal says which holds
        subject.recovered_at = None  # how far the ramp has come depends on a clock that may have been set
        subject.url = endpoint.url
        subject.change_ended_at, subject.is_moving = min(subject.change_ended_at, trio.current_time()), False
        subject.expect_nothing()
        subject.has_dropped = subject.has_dropped or subject.drops
        _sign(world, subject, endpoint.secret_hint, endpoint.previous_secret_expires_at)
        if world.clock.is_set or _may_have_lost_answers(world, subject):
            _trust(world, subject, await journal.transactions.read(endpoints.state, endpoint.pk))


def _sign(world: World, subject: Subject, hint: str, expires_at: float | None) -> None:
    """Learn which secret was on disk when the last life ended; until when the one before signs, the journal says."""
    now = world.clock.steady()
    newest = subject.secrets[-1]
    if not newest.secret.rstrip("=").endswith(hint[-4:]):
        subject.secrets.pop()
        if newest.since != float("inf"):
            world.blame(f"{subject.id} was given a secret and has the one before")
    for signing in subject.secrets[:-2]:
        signing.until = now if signing.until is None else min(signing.until, now)
    for signing in subject.secrets:
        signing.since = min(signing.since, now)
    subject.secrets[-1].until = None
    left = 0.0 if expires_at is None else expires_at - world.clock.now()
    for signing in subject.secrets[:-1][-1:]:
        signing.until = now + left
        if world.unheard:  # with the clock set back the overlap may begin anew, if the secret is still kept
            signing.since = float("inf")


def _may_have_lost_answers(world: World, subject: Subject) -> bool:
    """Whether a crash came before an endpoint's last answers were on disk, so that only the journal knows its state."""
    since = world.unsaved_since.get(world.life - 1)
    return since is not None and any(
        request.endpoint_id == subject.id and request.ended_at is not None and request.ended_at > since
        for request in world.requests
    )


def _trust(world: World, subject: Subject, state: EndpointState) -> None:
    subject.faults = state.consecutive_faults
    now, steady = world.clock.now(), world.clock.steady()
    # With the clock set back, what a failure brought about is waited for from now on.
    ahead = max((state.last_failure_at or 0.0) - now, 0.0)
    subject.opened_at = None if state.breaker is BreakerState.CLOSED else LONG_AGO
    # Half-open it has waited already: the probe was cut off, and the next one may leave at once.
    is_waiting = state.breaker is BreakerState.OPEN
    subject.open_until = steady + (state.retry_at or 0.0) - now - ahead if is_waiting else 0.0
    subject.paused_at = None if state.paused_until is None else LONG_AGO
    subject.paused_until = steady + (state.paused_until or 0.0) - now - ahead

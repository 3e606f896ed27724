"""Check the journal periodically.

A webhook with pending deliveries sends them, no delivery expires early, and no webhook is disabled as failing.
"""

import trio

from tests.simulation import audit
from tests.simulation.life import Life
from tests.simulation.model import SMALL_STEPS_SECONDS, World

LOOK_SECONDS = 20.0
LONGEST_RETRY_AFTER_SECONDS = 40.0
LATENESS_SECONDS = 60.0
WORK_SECONDS = 30.0  # for a slot, a token, answers that hang


async def monitor(world: World, life: Life) -> None:
    """Check until cancelled."""
    began_at = trio.current_time()
    working_since: dict[str, float] = {}
    while True:
        await trio.sleep(LOOK_SECONDS)
        working = await life.journal.transactions.read(audit.working)
        expired, disabled = await life.journal.transactions.read(audit.given_up)
        if world.is_dead:
            return
        now = trio.current_time()
        if world.full_since is not None:
            began_at = now  # attempts wait for space to be recorded, and the next requests wait for them
        working_since = {name: working_since.get(name, now) for name in working}
        for name, since in working_since.items():
            _check_silence(world, name, max(since, began_at), now)
        for delivery, endpoint_id, event in expired:
            _check_age(world, delivery, endpoint_id, event)
        for endpoint_id in disabled:
            world.report(f"{endpoint_id} was disabled as failing after minutes of failures")


def _check_silence(world: World, endpoint_id: str, since: float, now: float) -> None:
    subject = world.subjects[endpoint_id]
    delays, jitter = subject.overrides.retry.delays or (), subject.overrides.retry.jitter or 0.0
    cap = max(*delays, LONGEST_RETRY_AFTER_SECONDS) * (1 + jitter)
    silence = now - max(since, subject.touched_at)
    if silence > cap + LATENESS_SECONDS + WORK_SECONDS and not subject.in_flight:
        world.report(f"{endpoint_id} has had pending deliveries for {silence:.0f} s and sends nothing")


def _check_age(world: World, delivery: str, endpoint_id: str, event: str) -> None:
    submission = world.submissions.get(event)
    age = world.subjects[endpoint_id].overrides.retry.max_age_seconds or 259_200.0
    if (
        world.unobserved < 1
        and submission is not None
        and world.clock.steady() - submission.at < age - SMALL_STEPS_SECONDS
    ):
        world.report(f"{delivery} expired before its maximum age")

"""Play one seed: lives of a server with producers and operators, then a last life without faults, and the audit."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from hashlib import sha256
from pathlib import Path

import msgspec
import trio
import trio._core._run as scheduler
from trio.testing import MockClock

from tests.simulation import audit
from tests.simulation.environment import between_lives, disturb, resume
from tests.simulation.life import Life, Parts, copy_files, limit_pages, living
from tests.simulation.model import World
from tests.simulation.monitor import monitor
from tests.simulation.operators import Operators
from tests.simulation.producers import Producer
from webhookd.base.models import Endpoint, ReplayKind
from webhookd.jobs.replay import selection
from webhookd.journal import EndpointChanges
from webhookd.journal.queries import endpoints

HEALING_ROUNDS = 240
RECORD_SECONDS = 1.0
FAR = 1e11


class Result(msgspec.Struct, frozen=True):
    """The result of a seed: the hash of its trace, the broken promises, the trace, and counts."""

    seed: int
    hash: str
    violations: tuple[str, ...]
    trace: tuple[str, ...]
    events: int
    requests: int
    kills: int


def play(
    seed: int,
    parts: Parts = Parts(),  # noqa: B008 - frozen
    *,
    stops_early: bool = False,
    is_about_time: bool = False,
) -> Result:
    """Play a seed to its end, or with `stops_early` to the first broken promise; return the result.

    With `is_about_time` the lives are longer, and clocks are set far more often.
    """
    world = World(seed, stops_early=stops_early, is_about_time=is_about_time)
    # Use memory if possible: the speed of the disk does not matter here.
    shared = Path("/dev/shm")  # noqa: S108
    with (
        tempfile.TemporaryDirectory(dir=shared if shared.is_dir() else None) as directory,
        _repeatable(seed),
    ):
        try:
            trio.run(_story, world, Path(directory), parts, clock=MockClock(autojump_threshold=0))
        except* Exception as errors:  # noqa: BLE001 - any error that ends the server is a finding
            world.violations += [f"the server ended with {error!r}" for error in _leaves(errors)]
    return Result(
        seed,
        sha256("\n".join(world.trace).encode()).hexdigest(),
        tuple(world.violations),
        tuple(world.trace),
        sum(submission.acked is not None for submission in world.submissions.values()),
        len(world.requests),
        len(world.unsaved_since),
    )


@contextmanager
def _repeatable(seed: int) -> Iterator[None]:
    """Make the seed decide which ready task trio runs next, in the same way as hypothesis's plug-in."""
    before = scheduler._ALLOW_DETERMINISTIC_SCHEDULING
    state = scheduler._r.getstate()
    scheduler._ALLOW_DETERMINISTIC_SCHEDULING = True  # type: ignore[misc]  # trio's own hook for this, Final by mistake
    scheduler._r.seed(seed)
    try:
        yield
    finally:
        scheduler._ALLOW_DETERMINISTIC_SCHEDULING = before  # type: ignore[misc]  # as above
        scheduler._r.setstate(state)


def _leaves(group: ExceptionGroup[Exception]) -> Iterator[Exception]:
    for error in group.exceptions:
        if isinstance(error, ExceptionGroup):
            yield from _leaves(error)
        else:
            yield error


async def _story(world: World, directory: Path, parts: Parts) -> None:
    path = directory / "0"
    with trio.CancelScope() as scope:
        world.stop = scope.cancel
        for _ in range(world.dice.randint(1, 4)):
            path = await _one_life(world, path, parts)
        world.is_healing = True
        await _last_life(world, path, parts)


async def _one_life(world: World, path: Path, parts: Parts) -> Path:
    """Run one life until a crash or a stop; return the directory of the journal after it."""
    world.is_dead = False
    world.note(f"life {world.life}")
    seconds = world.dice.uniform(60, 400) if world.is_about_time else world.dice.uniform(5, 90)
    is_killed = world.dice.random() < 0.75
    left = _directory_after(path, world.life)
    with trio.CancelScope() as scope:
        async with living(world, path, parts, resume) as life, trio.open_nursery() as outside:
            world.explode = partial(_kill, world, life, path, left, scope)
            for task in (Producer(world, life).run, Producer(world, life).run, Operators(world, life).run):
                outside.start_soon(task)
            outside.start_soon(disturb, world, life)
            outside.start_soon(monitor, world, life)
            await trio.sleep(seconds)
            if is_killed:
                world.fuse = world.dice.randint(1, 60)
                await trio.sleep(60)
            world.fuse = None
            if not world.is_dead:
                await _stop(world, life, outside.cancel_scope.cancel)
    world.fuse = None
    world.full_since = None
    _check_tasks(world, life)
    between_lives(world)
    world.life += 1
    return left if world.is_dead else path


def _directory_after(path: Path, life: int) -> Path:
    """Return the directory for the files that a crash of this life leaves."""
    return path.parent / str(life + 1)


def _kill(world: World, life: Life, path: Path, left: Path, scope: trio.CancelScope) -> None:
    copy_files(path, left)
    life.router.registry._is_draining = True  # actors that still run until they are cancelled start no attempt
    world.is_dead = True
    # On a full disk attempts wait to be recorded; else they are recorded within RECORD_SECONDS.
    since = trio.current_time() if world.full_since is None else world.full_since
    world.unsaved_since[world.life] = since - RECORD_SECONDS
    for subject in world.subjects.values():
        subject.in_flight.clear()
    world.note("killed")
    scope.cancel()


async def _stop(world: World, life: Life, end: Callable[[], None]) -> None:
    """Stop as SIGTERM does: finish the requests in flight, within some seconds."""
    world.note("stopping")
    end()
    with trio.CancelScope(shield=True):
        limit_pages(life.journal, None)
        life.journal.refuse_events()
        for connection in life.connections:
            connection.stop_taking()
        with trio.move_on_after(world.dice.choice((0, 1, 30))):
            await life.router.registry.drain()


async def _last_life(world: World, path: Path, parts: Parts) -> None:
    world.is_dead = False
    world.note("healing")
    async with living(world, path, parts, resume) as life, trio.open_nursery() as outside:
        outside.start_soon(monitor, world, life)
        for endpoint in await life.journal.transactions.read(endpoints.all):
            await _heal(world, life, endpoint)
        await _wait_for_quiet(world, life)
        for endpoint in await life.journal.transactions.read(endpoints.all):
            await audit.recovering(world, life.journal, endpoint.pk)
            wanted = selection(endpoint, ReplayKind.RECOVER, since=0, until=FAR, events=())
            await life.router.replayer.start(endpoint, wanted)
        await trio.sleep(10)
        await _wait_for_quiet(world, life)
        await life.journal.transactions.read(partial(audit.everything, world=world))
        _check_tasks(world, life)
        outside.cancel_scope.cancel()


async def _heal(world: World, life: Life, endpoint: Endpoint) -> None:
    """Enable a webhook and remove the maximum age of its deliveries."""
    subject = world.subjects[endpoint.id]
    retry = msgspec.structs.replace(endpoint.overrides.retry, max_age_seconds=None)
    overrides = msgspec.structs.replace(endpoint.overrides, retry=retry)
    if not endpoint.is_active:
        subject.disabled_at = None
        subject.begin_change()
    await life.router.update_endpoint(endpoint.id, EndpointChanges(is_active=True, overrides=overrides))
    if not endpoint.is_active:
        subject.end_change()
        subject.enabled_since = subject.touched_at = trio.current_time()


async def _wait_for_quiet(world: World, life: Life) -> None:
    for _ in range(HEALING_ROUNDS):
        if not await life.journal.transactions.read(audit.unfinished):
            return
        await trio.sleep(30)
    world.report("deliveries are still pending after two hours without faults")


def _check_tasks(world: World, life: Life) -> None:
    for entry in life.router.registry._entries.values():
        if entry.supervisor is not None and entry.supervisor.crashes:
            world.report(f"an actor crashed: {entry.supervisor.last_crash}")
    if life.router.sweeps_that_found_work:
        world.report("a wake-up was lost: only the sweep found the work")

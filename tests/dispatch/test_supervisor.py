"""Restarts, halts and kicks, in exact virtual time."""

import trio
from trio.testing import MockClock

from webhookd.dispatch.supervisor import Supervisor
from webhookd.journal.planning import unreachable


class Crashing:
    """A task that crashes on its first `crashes` runs and notes when each began."""

    def __init__(self, crashes: int) -> None:
        self.crashes = crashes
        self.started_at: list[float] = []

    async def run(self) -> None:
        self.started_at.append(round(trio.current_time(), 6))
        await trio.lowlevel.checkpoint()
        if len(self.started_at) <= self.crashes:
            raise RuntimeError("a bug")


async def test_a_crash_is_restarted_with_growing_delays(autojump_clock: MockClock) -> None:
    """Each restart waits longer than the last one, and a return ends the supervision."""
    task = Crashing(3)
    await Supervisor("t").run(task.run)
    start = task.started_at[0]
    assert [round(at - start, 3) for at in task.started_at] == [0, 0.1, 0.6, 2.6]


async def test_five_crashes_in_five_minutes_halt_it_for_a_quarter_of_an_hour(autojump_clock: MockClock) -> None:
    """The fifth crash halts the task, which is logged; the next try comes after 15 minutes."""
    task = Crashing(5)
    supervisor = Supervisor("t")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run, task.run)
        await trio.sleep(60)
        assert (supervisor.is_halted, supervisor.last_crash) == (True, "RuntimeError: a bug")
        assert len(task.started_at) == 5
    assert (supervisor.is_halted, supervisor.crashes) == (False, 5)
    assert round(task.started_at[5] - task.started_at[4], 3) == 900


async def test_a_kick_tries_a_halted_task_at_once(autojump_clock: MockClock) -> None:
    """A kick ends the wait and forgets the earlier crashes."""
    task = Crashing(5)
    supervisor = Supervisor("t")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(supervisor.run, task.run)
        await trio.sleep(60)
        supervisor.kick()
        await trio.sleep(1)
        assert len(task.started_at) == 6


async def test_an_outage_of_the_database_is_no_crash(autojump_clock: MockClock) -> None:
    """The task is tried again every second, never halted, however long it lasts; a real crash still counts."""
    began_at = trio.current_time()
    runs = 0

    async def need_the_database() -> None:
        nonlocal runs
        runs += 1
        await trio.lowlevel.checkpoint()
        if trio.current_time() - began_at < 1000:
            raise ExceptionGroup("", [unreachable(), unreachable()]) if runs % 2 else unreachable()
        if runs == 1001:
            raise ExceptionGroup("", [unreachable(), RuntimeError("a bug")])

    supervisor = Supervisor("t")
    await supervisor.run(need_the_database)
    assert (runs, supervisor.crashes) == (1002, 1)


async def test_slow_crashes_never_halt(autojump_clock: MockClock) -> None:
    """Crashes further apart than the window only cause restarts, however many."""
    runs = 0

    async def crash_slowly() -> None:
        nonlocal runs
        runs += 1
        await trio.sleep(100)
        if runs < 20:
            raise RuntimeError("a bug")

    supervisor = Supervisor("t")
    await supervisor.run(crash_slowly)
    assert (runs, supervisor.crashes) == (20, 19)


async def test_cancellation_gets_out(autojump_clock: MockClock) -> None:
    """A canceled task isn't restarted."""
    with trio.move_on_after(5) as scope:
        await Supervisor("t").run(trio.sleep_forever)
    assert scope.cancelled_caught


async def test_a_neighbour_never_notices(autojump_clock: MockClock) -> None:
    """A task that crashes and halts doesn't affect another one in the same nursery."""
    with trio.move_on_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(Supervisor("bad").run, Crashing(1000).run)
            done = trio.Event()

            async def good() -> None:
                await trio.sleep(3000)
                done.set()

            nursery.start_soon(Supervisor("good").run, good)
            await done.wait()
            nursery.cancel_scope.cancel()
    assert done.is_set()

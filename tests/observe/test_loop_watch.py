"""The watch over the event loop: a planted slow step is found, named, measured and told once.

What blocks here does so for a stated time at least; nothing is said of how long anything may take.
"""

import ctypes
import io
import json
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests.admin.inprocess import Signer, api_in_process
from tests.admin.test_metrics import exposed
from tests.patience import PATIENCE_SECONDS
from webhookd.base.clock import SystemClock
from webhookd.config import LogConfig
from webhookd.dispatch.supervisor import Supervisor
from webhookd.observe import logs
from webhookd.observe.loop_watch import BEAT_SECONDS, KEPT_SECONDS, LOG_PAUSE_SECONDS, LoopWatch, Stall, Stalls

LONG_SECONDS = 0.35


def block(seconds: float) -> None:
    """Block without the interpreter's lock, as in a system call."""
    time.sleep(seconds)


def wait_for_a_disk() -> None:
    """Block for long."""
    block(LONG_SECONDS)


def compute() -> None:
    """Use the processor."""
    end = time.thread_time() + LONG_SECONDS
    while time.thread_time() < end:
        pass


def hold_the_lock() -> None:
    """Block with the interpreter's lock, so that no other thread runs."""
    end, libc = time.perf_counter() + LONG_SECONDS, ctypes.PyDLL(None)
    while (left := end - time.perf_counter()) > 0:  # a signal ends a call
        libc.usleep(int(left * 1e6) + 1)


@pytest.fixture
def log() -> Callable[[], list[dict[str, object]]]:
    """Return a function that reads the `loop.stalled` lines so far."""
    out = io.StringIO()
    logs.configure(LogConfig(format="json"), out)
    return lambda: [line for line in map(json.loads, out.getvalue().splitlines()) if line["event"] == "loop.stalled"]


@asynccontextmanager
async def watching(stalls: Stalls) -> AsyncIterator[None]:
    """Watch the loop while the block runs."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(LoopWatch(stalls, SystemClock()).run)
        yield
        nursery.cancel_scope.cancel()


async def stalled_by(block: Callable[[], None]) -> Stalls:
    """Run a task with one step that blocks, under the watch."""
    stalls = Stalls()

    async def task() -> None:
        block()
        await trio.lowlevel.checkpoint()

    async with watching(stalls):
        await trio.sleep(BEAT_SECONDS)
        await Supervisor("planted").run(task)
        before = sum(stalls.delays.counts)
        with trio.fail_after(PATIENCE_SECONDS):
            while sum(stalls.delays.counts) < before + 2:
                await trio.sleep(BEAT_SECONDS)
    return stalls


@pytest.mark.parametrize("block", [wait_for_a_disk, compute, hold_the_lock])
async def test_a_step_that_is_long_is_told_with_its_task(
    block: Callable[[], None], log: Callable[[], list[dict[str, object]]]
) -> None:
    """The line has the task's name, the duration and the traceback, whichever thread holds the interpreter's lock."""
    stalls = await stalled_by(block)
    longest = stalls.longest()
    assert longest is not None
    assert longest.task == "planted"
    assert longest.seconds >= LONG_SECONDS
    assert longest.cpu_seconds <= longest.seconds
    line = log()[0]
    assert (line["level"], line["component"], line["task"], line["stalls"]) == ("warning", "loop", "planted", 1)
    assert line["duration_ms"] == round(longest.seconds * 1000, 1)
    assert f" in {block.__name__}" in "".join(str(line["traceback"]).splitlines()[:2])
    assert stalls.delays.total >= LONG_SECONDS - BEAT_SECONDS
    assert sum(stalls.delays.counts[7:]) >= 1  # above 100 ms


async def test_waiting_and_working_are_told_apart(log: Callable[[], list[dict[str, object]]]) -> None:
    """A step that waits has almost no CPU time; one that works has all of it."""
    waited = (await stalled_by(wait_for_a_disk)).longest()
    worked = (await stalled_by(compute)).longest()
    assert waited is not None
    assert worked is not None
    assert waited.cpu_seconds < LONG_SECONDS / 2 < worked.cpu_seconds


async def test_a_thread_that_holds_the_lock_is_told(log: Callable[[], list[dict[str, object]]]) -> None:
    """If another thread keeps the loop from running, no task is named, and the line has the places of the threads."""
    stalls = Stalls()
    async with watching(stalls):
        await trio.sleep(BEAT_SECONDS)
        await trio.to_thread.run_sync(hold_the_lock)
        with trio.fail_after(PATIENCE_SECONDS):
            while not log():
                await trio.sleep(BEAT_SECONDS)
    assert log()[0]["task"] is None
    assert log()[0]["threads"] == []


async def test_many_short_steps_delay_the_loop_too(log: Callable[[], list[dict[str, object]]]) -> None:
    """Many short steps that are long together are a stall that is logged."""
    stalls = Stalls()

    async def short() -> None:
        block(0.005)

    async with watching(stalls):
        await trio.sleep(BEAT_SECONDS)
        async with trio.open_nursery() as nursery:
            for _ in range(100):
                nursery.start_soon(short)
        with trio.fail_after(PATIENCE_SECONDS):
            # A busy machine may have caused a stall before, which is then the one in the log.
            while (longest := stalls.longest()) is None or longest.seconds < 0.3:
                await trio.sleep(BEAT_SECONDS)
    assert log()


async def test_stalls_in_a_row_are_one_line(
    autojump_clock: trio.testing.MockClock, log: Callable[[], list[dict[str, object]]]
) -> None:
    """The first stall is logged at once; those of the next ten seconds share a line about the longest."""
    stalls = Stalls()
    async with watching(stalls):
        for seconds in (0.11, 0.12, 0.2, 0.11):
            await trio.sleep(1)
            block(seconds)
        await trio.sleep(1)
        assert [line["stalls"] for line in log()] == [1]
        await trio.sleep(LOG_PAUSE_SECONDS)
        assert [line["stalls"] for line in log()] == [1, 3]
        assert float(str(log()[1]["duration_ms"])) >= 200
        await trio.sleep(10 * LOG_PAUSE_SECONDS)
        assert len(log()) == 2


async def test_the_longest_of_an_hour_is_forgotten_after_it(autojump_clock: trio.testing.MockClock) -> None:
    """A stall is kept for an hour, hides shorter ones for that time, and at most one a minute is kept."""
    stalls = Stalls()
    assert stalls.longest() is None
    for number in range(100):
        stalls.note(Stall(ended_at=number, seconds=5 - number / 100, cpu_seconds=0, task=f"t{number}"))
        await trio.sleep(1)
    first = stalls.longest()
    assert first is not None
    assert first.task == "t0"
    assert len(stalls._periods) == 2
    await trio.sleep(KEPT_SECONDS - 90)
    second = stalls.longest()
    assert second is not None
    assert second.task == "t60"
    await trio.sleep(KEPT_SECONDS)
    assert stalls.longest() is None


async def test_a_watch_that_ends_leaves_no_timer() -> None:
    """Afterwards nothing is left that could end the process."""
    await stalled_by(lambda: None)
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
    assert signal.getsignal(signal.SIGALRM) == signal.SIG_DFL


async def test_metrics_show_the_delay(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    """The histogram counts each heartbeat, and the gauge is the longest stall of the last hour."""
    async with api_in_process(tmp_path, Signer()) as api:
        stalls = api.services.stalls
        said = await exposed(api)
        assert said.value("webhookd_loop_longest_stall_seconds") == 0
        stalls.delays.observe(0.3)
        stalls.note(Stall(ended_at=0, seconds=0.3, cpu_seconds=0, task="t"))
        said = await exposed(api)
        assert said.value("webhookd_loop_longest_stall_seconds") == 0.3
        assert said.value("webhookd_loop_delay_seconds_count") == 1
        assert said.value("webhookd_loop_delay_seconds_bucket", le="0.25") == 0

"""Measures how long the event loop is blocked, and by which task.

Every request, delivery and heartbeat runs on one loop: a long step of one task delays all others. Two things measure
that. A heartbeat task measures how late it wakes up, which is how long any other task would have waited. An instrument
of trio measures each step of each task; it keeps one reference and one timestamp, at about a microsecond a step.

A traceback is taken while the loop is blocked: each heartbeat sets a kernel timer, whose signal (SIGALRM) interrupts
the loop's thread. faulthandler handles the signal without the interpreter's lock, so a call that holds the lock is
found too. It looks only at the interrupted thread, since the frames of a running thread change while they are read. It
writes to memory, never to standard error.

The longest stalls of the last hour are kept. The log has a line for each stall, or one for all within ten seconds.
"""

import faulthandler
import os
import signal
import sys
import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from time import perf_counter, thread_time
from types import FrameType

import trio

from webhookd.base.clock import Clock
from webhookd.observe.logs import get_logger
from webhookd.observe.measures import Histogram

STALL_SECONDS = 0.1
BEAT_SECONDS = 0.1
TRACE_SECONDS = 0.2  # after a heartbeat: catches some stalls from 100 ms, and every one from 200 ms
LOG_PAUSE_SECONDS = 10.0
KEPT_SECONDS = 3600.0
_PERIOD_SECONDS = 60.0
_NOTED_SECONDS = 0.02
_CPU_SECONDS = 0.005  # the maximum age of a step's initial CPU time; reading it is a system call
_TRACE_FRAMES = 30
_THREADS = 8
_DELAYS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

_log = get_logger("loop")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stall:
    """A time for which the loop was blocked; `ended_at` is in epoch seconds.

    `task` is the name of the task whose step took so long, or None if no single step did: there were many short steps,
    or the machine ran something else. `cpu_seconds` is the loop's CPU time within `seconds`, to within 5 ms.
    """

    ended_at: float
    seconds: float
    cpu_seconds: float
    task: str | None


class Stalls:
    """The delays of the loop's heartbeat since the start, and the longest stall of the last hour."""

    def __init__(self) -> None:
        self.delays = Histogram(_DELAYS)
        self._periods: deque[tuple[float, Stall]] = deque()  # when each minute began, and its longest stall

    def note(self, stall: Stall) -> None:
        """Record a stall that has just ended; call it on the loop."""
        now = trio.current_time()
        self._forget(now)
        if self._periods and now - self._periods[-1][0] < _PERIOD_SECONDS:
            began_at, longest = self._periods[-1]
            if stall.seconds > longest.seconds:
                self._periods[-1] = (began_at, stall)
        else:
            self._periods.append((now, stall))

    def longest(self) -> Stall | None:
        """Return the longest stall of the last hour, or None if none took 20 ms; call it on the loop."""
        self._forget(trio.current_time())
        return max((stall for _, stall in self._periods), key=lambda stall: stall.seconds, default=None)

    def _forget(self, now: float) -> None:
        while self._periods and now - self._periods[0][0] > KEPT_SECONDS:
            self._periods.popleft()


class LoopWatch(trio.abc.Instrument):
    """Measures its event loop while `run` runs, and reports to `stalls` and the log."""

    def __init__(self, stalls: Stalls, clock: Clock) -> None:
        self._stalls = stalls
        self._clock = clock
        self._task: trio.lowlevel.Task | None = None
        self._began = perf_counter()
        self._cpu_by = 0.0  # until when `_cpu` is new enough
        self._cpu = 0.0
        self._tracer = _Tracer()
        self._longest_step = 0.0  # since the last beat
        self._unlogged: list[tuple[Stall, str, tuple[str, ...]]] = []
        self._unlogged_stalls = 0
        self._logged_at = -LOG_PAUSE_SECONDS

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        """End the previous step, and begin this one."""
        now = perf_counter()
        if now - self._began >= _NOTED_SECONDS and self._task is not None:
            self._end_long_step(self._task, now)
        self._task = task
        self._began = now
        if now >= self._cpu_by:
            self._cpu_by = now + _CPU_SECONDS
            self._cpu = thread_time()

    def before_io_wait(self, timeout: float) -> None:  # noqa: ARG002 - trio's
        """End the last step, before the loop waits."""
        now = perf_counter()
        if now - self._began >= _NOTED_SECONDS and self._task is not None:
            self._end_long_step(self._task, now)
        self._task = None

    async def run(self) -> None:
        """Measure until canceled."""
        trio.lowlevel.add_instrument(self)
        try:
            with self._tracer.ready():
                while True:
                    self._tracer.set()
                    due, cpu = trio.current_time() + BEAT_SECONDS, thread_time()
                    await trio.sleep_until(due)
                    self._beat(max(trio.current_time() - due, 0.0), thread_time() - cpu)
        finally:
            with suppress(KeyError):  # trio has removed it if it raised
                trio.lowlevel.remove_instrument(self)

    def _end_long_step(self, task: trio.lowlevel.Task, now: float) -> None:
        seconds = now - self._began
        self._longest_step = max(self._longest_step, seconds)
        self._end(seconds, thread_time() - self._cpu, task.name, self._tracer.take(self._began))

    def _beat(self, delay: float, cpu_seconds: float) -> None:
        self._stalls.delays.observe(delay)
        trace = self._tracer.take(perf_counter() - delay)
        if delay >= _NOTED_SECONDS and self._longest_step < delay / 2:
            self._end(delay, cpu_seconds, None, trace)
        self._longest_step = 0.0
        self._log_stalls()

    def _end(self, seconds: float, cpu_seconds: float, task: str | None, trace: str) -> None:
        stall = Stall(
            ended_at=self._clock.now(),
            seconds=seconds,
            cpu_seconds=min(max(cpu_seconds, 0.0), seconds),
            task=task,
        )
        self._stalls.note(stall)
        if seconds < STALL_SECONDS:
            return
        self._unlogged_stalls += 1
        if not self._unlogged or stall.seconds > self._unlogged[0][0].seconds:
            # If the thread waited, another one may have held the interpreter's lock, and may still be near that place.
            waited = stall.cpu_seconds < stall.seconds / 2
            self._unlogged = [(stall, trace, _other_threads() if waited else ())]
        self._log_stalls()

    def _log_stalls(self) -> None:
        """Log the longest unlogged stall, unless the last line is too recent."""
        now = trio.current_time()
        if not self._unlogged or now - self._logged_at < LOG_PAUSE_SECONDS:
            return
        [(stall, trace, threads)] = self._unlogged
        _log.warning(
            "loop.stalled",
            task=stall.task,
            duration_ms=round(stall.seconds * 1000, 1),
            cpu_ms=round(stall.cpu_seconds * 1000, 1),
            stalls=self._unlogged_stalls,
            traceback=trace or None,
            threads=threads,
        )
        self._unlogged, self._unlogged_stalls, self._logged_at = [], 0, now


class _Tracer:
    """Takes the traceback of the loop's thread if the loop is blocked too long."""

    def __init__(self) -> None:
        self._file = -1
        self._due = 0.0

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Handle the timer's signal within the block."""
        self._file = os.memfd_create("tracebacks", os.MFD_CLOEXEC)
        faulthandler.register(signal.SIGALRM, file=self._file, all_threads=False, chain=False)
        try:
            yield
        finally:
            # In this order: an unhandled SIGALRM ends the process.
            signal.setitimer(signal.ITIMER_REAL, 0)
            faulthandler.unregister(signal.SIGALRM)
            os.close(self._file)
            self._file = -1

    def set(self) -> None:
        """Take a traceback after `TRACE_SECONDS`, unless this is called again before."""
        self._due = perf_counter() + TRACE_SECONDS
        signal.setitimer(signal.ITIMER_REAL, TRACE_SECONDS)

    def take(self, since: float) -> str:
        """Return and discard the traceback taken after `since` (performance counter), or an empty text."""
        if self._file < 0 or not (size := os.lseek(self._file, 0, os.SEEK_END)):
            return ""
        text = os.pread(self._file, size, 0).decode(errors="replace")
        os.ftruncate(self._file, 0)
        os.lseek(self._file, 0, os.SEEK_SET)
        return "\n".join(text.splitlines()[1 : 1 + _TRACE_FRAMES]) if since <= self._due else ""


def _other_threads() -> tuple[str, ...]:
    """Return where other threads are in webhookd's code, for up to eight of them."""
    own = threading.get_ident()
    places = (_place(frame) for ident, frame in sys._current_frames().items() if ident != own)
    return tuple(place for place in places if place is not None)[:_THREADS]


def _place(frame: FrameType | None) -> str | None:
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module == "webhookd.observe.output":
            return None
        if module.startswith("webhookd."):
            return f"{module}.{frame.f_code.co_qualname}:{frame.f_lineno}"
        frame = frame.f_back
    return None

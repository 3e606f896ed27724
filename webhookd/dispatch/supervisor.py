"""Supervision of tasks: restart a task that crashes, after growing delays, and halt one that keeps crashing.

A crash is a bug in webhookd, never the fault of a receiver. The exception of a supervised task is logged with its
traceback and goes no further, so other tasks go on. The exception is JournalError: a journal that can't be trusted ends
all tasks. Five crashes in five minutes halt a task. A halted task is tried again after fifteen minutes, or at once when
it is kicked. A task that ends because the journal's database can't be reached has not crashed, and is tried again every
second.
"""

from collections import deque
from collections.abc import Awaitable, Callable

import trio

from webhookd.base.errors import ErrorCode, JournalError, Rejected
from webhookd.observe.logs import get_logger

RESTART_DELAYS_SECONDS = (0.1, 0.5, 2.0, 10.0)
CRASHES_TO_HALT = 5
CRASH_WINDOW_SECONDS = 300.0
HALT_SECONDS = 900.0
OUTAGE_PAUSE_SECONDS = 1.0

_log = get_logger("supervisor")


class Supervisor:
    """Runs one task until it returns, and restarts it when it raises.

    `is_halted` is true from the last of a series of crashes until the next try; `crashes` counts all crashes.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_halted = False
        self.crashes = 0
        self.last_crash: str | None = None
        self._recent: deque[float] = deque(maxlen=CRASHES_TO_HALT)
        self._kicked = trio.Event()

    def kick(self) -> None:
        """Try a crashed or halted task again now, and forget its crashes; a running task isn't affected."""
        self._recent.clear()
        self._kicked.set()

    async def run(self, task: Callable[[], Awaitable[None]]) -> None:
        """Run `task` until it returns; raises only trio.Cancelled and JournalError."""
        trio.lowlevel.current_task().name = self.name  # otherwise all supervised tasks have the name of this function
        while True:
            try:
                await task()
            except Exception as error:
                if _is_journal_error(error):
                    raise
                if _is_outage(error):
                    await trio.sleep(OUTAGE_PAUSE_SECONDS)
                    continue
                self._count(error)
            else:
                return
            await self._pause()

    def _count(self, error: Exception) -> None:
        now = trio.current_time()
        self.crashes += 1
        cause = _innermost(error)
        self.last_crash = f"{type(cause).__name__}: {cause}"
        while self._recent and now - self._recent[0] > CRASH_WINDOW_SECONDS:
            self._recent.popleft()
        self._recent.append(now)
        self.is_halted = len(self._recent) == CRASHES_TO_HALT
        _log.error(
            "task.halted" if self.is_halted else "task.crashed", task=self.name, crashes=self.crashes, exc_info=error
        )

    async def _pause(self) -> None:
        step = min(len(self._recent), len(RESTART_DELAYS_SECONDS)) - 1
        delay = HALT_SECONDS if self.is_halted else RESTART_DELAYS_SECONDS[step]
        self._kicked = trio.Event()
        with trio.move_on_after(delay):
            await self._kicked.wait()
        self.is_halted = False


def _is_journal_error(error: Exception) -> bool:
    """Whether the error is a JournalError, or a group with one in it."""
    if isinstance(error, ExceptionGroup):
        return error.subgroup(JournalError) is not None
    return isinstance(error, JournalError)


def _is_outage(error: Exception) -> bool:
    """Whether the error is that the journal's database can't be reached, or a group of nothing else."""
    if isinstance(error, ExceptionGroup):
        return all(map(_is_outage, error.exceptions))
    return isinstance(error, Rejected) and error.code is ErrorCode.JOURNAL_UNREACHABLE


def _innermost(error: Exception) -> Exception:
    """Return the single error inside nested groups; a group of several stays as it is."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error

"""How the journal makes its blocking calls: in a worker thread, or in the event loop itself."""

from collections.abc import Callable
from typing import Protocol, TypeVar

import trio

T = TypeVar("T")


class Runner(Protocol):
    """Runs a blocking function; not interrupted by cancellation once it has begun."""

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, or raise what it raises."""
        ...


class ThreadRunner:
    """Runs in worker threads, at most `threads` at once, with a limit of its own."""

    def __init__(self, threads: int) -> None:
        self._limiter = trio.CapacityLimiter(threads)

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, or raise what it raises."""
        return await trio.to_thread.run_sync(function, limiter=self._limiter)


class InlineRunner:
    """Runs in the event loop itself, for tests: an autojump clock would advance while a thread works."""

    async def run(self, function: Callable[[], T]) -> T:
        """Return what `function` returns, or raise what it raises."""
        await trio.lowlevel.checkpoint()
        return function()

"""Count what is done within each step of the event loop, that is, before another task gets a turn."""

from collections.abc import Iterator
from contextlib import contextmanager

import trio


class Steps(trio.abc.Instrument):
    """Adds up what is noted within each step; `counts` has the steps in which there was something."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self._count = 0

    def note(self, count: int = 1) -> None:
        self._count += count

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._count:
            self.counts.append(self._count)
        self._count = 0


@contextmanager
def counting() -> Iterator[Steps]:
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)

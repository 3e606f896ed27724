"""Slots for the requests in flight of the whole process, shared so that one owner's slow receivers can't take all.

An owner (an organization, or a webhook without one) may take another slot while it has fewer than twice as many as are
free. One owner alone gets at most two thirds of the slots. With `n` owners that take all they can, each gets 2/(2n + 1)
of them, and half of that stays free. These are the dynamic thresholds by which switches share buffer memory among their
queues (Choudhury and Hahne, 1998). Only `acquire` waits; everything else is pure.
"""

from collections import deque
from collections.abc import Callable

import trio

CLOSED_PAUSE_SECONDS = 0.1
_TIMES_THE_FREE = 2


class Slots:
    """`most` slots; those who wait get one in the order of waiting, one owner after the other.

    While `is_open` returns False, nobody gets one: a node that may have lost its endpoints begins no request.
    """

    def __init__(self, most: int, *, is_open: Callable[[], bool] = lambda: True) -> None:
        self.most = most
        self._is_open = is_open
        self._free = most
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[trio.Event]] = {}  # owners in the order of their turns

    @property
    def taken(self) -> int:
        """How many slots are taken."""
        return self.most - self._free

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(map(len, self._waiting.values()))

    def may_take(self, owner: str) -> bool:
        """Whether an owner may take a slot now."""
        return self._has_free(owner) and self._is_open()

    def _has_free(self, owner: str) -> bool:
        return self._taken.get(owner, 0) < _TIMES_THE_FREE * self._free

    def take(self, owner: str) -> None:
        """Take a slot for an owner, which must be allowed to take one."""
        self._free -= 1
        self._taken[owner] = self._taken.get(owner, 0) + 1

    async def acquire(self, owner: str) -> None:
        """Take a slot for an owner once it may have one; if canceled, none is taken."""
        await trio.lowlevel.checkpoint_if_cancelled()
        await self._acquire_free(owner)
        try:
            while not self._is_open():  # noqa: ASYNC110 - a clock opens it, and no event
                await trio.sleep(CLOSED_PAUSE_SECONDS)
        except trio.Cancelled:
            self.release(owner)
            raise

    async def _acquire_free(self, owner: str) -> None:
        if self._has_free(owner):
            self.take(owner)
            await trio.lowlevel.cancel_shielded_checkpoint()
            return
        granted = trio.Event()
        self._waiting.setdefault(owner, deque()).append(granted)
        try:
            await granted.wait()
        except trio.Cancelled:
            if granted.is_set():
                self.release(owner)
            else:
                self._stop_waiting(owner, granted)
            raise

    def release(self, owner: str) -> None:
        """Give back an owner's slot, and grant free slots to those who wait."""
        self._free += 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        while (next_owner := next(filter(self._has_free, self._waiting), None)) is not None:
            waiting = self._waiting.pop(next_owner)
            self.take(next_owner)
            waiting.popleft().set()
            if waiting:
                self._waiting[next_owner] = waiting  # its next turn is after the others'

    def _stop_waiting(self, owner: str, granted: trio.Event) -> None:
        waiting = self._waiting[owner]
        waiting.remove(granted)
        if not waiting:
            del self._waiting[owner]

"""The requests in flight of the whole process, shared out so that nobody's slow receivers take all of them. Pure but
for the waiting.

An owner (an organization, or a webhook that belongs to none) may take another slot while it has fewer than twice as
many as are free. One that takes all it can get ends at two thirds of the slots; as slots come and go, `n` such owners
come to 2/(2n + 1) each, and half as many as each has stay free. (Dynamic thresholds, as switches share the memory of
their queues: Choudhury and Hahne, 1998.)
"""

from collections import deque

import trio

_TIMES_THE_FREE = 2


class Slots:
    """`most` slots; what waits for one gets it in the order of waiting, its owners in turn."""

    def __init__(self, most: int) -> None:
        self.most = most
        self._free = most
        self._taken: dict[str, int] = {}
        self._waiting: dict[str, deque[trio.Event]] = {}  # in the order in which owners have their turn

    @property
    def taken(self) -> int:
        """How many slots are taken."""
        return self.most - self._free

    @property
    def waiting(self) -> int:
        """How many wait for a slot."""
        return sum(map(len, self._waiting.values()))

    def acquire_nowait(self, owner: str) -> None:
        """Take a slot for an owner; trio.WouldBlock where it may not have one now."""
        if not self._may_take(owner):
            raise trio.WouldBlock
        self._take(owner)

    async def acquire(self, owner: str) -> None:
        """Take a slot for an owner once it may have one; nothing is taken where this is canceled."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._may_take(owner):
            self._take(owner)
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
                self._leave(owner, granted)
            raise

    def release(self, owner: str) -> None:
        """Give a slot back, to those that wait for one."""
        self._free += 1
        self._taken[owner] -= 1
        if not self._taken[owner]:
            del self._taken[owner]
        while (next_owner := next(filter(self._may_take, self._waiting), None)) is not None:
            waiting = self._waiting.pop(next_owner)
            self._take(next_owner)
            waiting.popleft().set()
            if waiting:
                self._waiting[next_owner] = waiting  # behind the others

    def _may_take(self, owner: str) -> bool:
        return self._taken.get(owner, 0) < _TIMES_THE_FREE * self._free

    def _take(self, owner: str) -> None:
        self._free -= 1
        self._taken[owner] = self._taken.get(owner, 0) + 1

    def _leave(self, owner: str, granted: trio.Event) -> None:
        waiting = self._waiting[owner]
        waiting.remove(granted)
        if not waiting:
            del self._waiting[owner]

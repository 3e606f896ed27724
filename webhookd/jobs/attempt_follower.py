"""The last attempts of all nodes, in memory: while a caller asks, they are read from the database once a second.

However many callers poll a node, the database is asked once for all of them, for what is new since the last time. While
this node itself has attempts to show it is asked four times a second, so that they appear at once. What is kept is
bounded; a caller that has missed some is told.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from itertools import dropwhile

import trio

from webhookd.observe.attempt_feed import MOST_KEPT, AttemptFacts, AttemptFeed, FeedPage, Place

READ_SECONDS = 1.0
OWN_SECONDS = 0.25
_BEFORE_ALL: Place = ()


class AttemptFollower:
    """Follows the attempts in the database; `read` returns those after a place, as `recent_attempts.after` does.

    `own` are the attempts of this process, by which it knows that there are new ones.
    """

    def __init__(self, read: Callable[[Place | None], Awaitable[FeedPage]], own: AttemptFeed) -> None:
        self._read = read
        self._own = own
        self._kept: deque[tuple[Place, AttemptFacts]] = deque(maxlen=MOST_KEPT)
        self._complete_after = _BEFORE_ALL
        self._last: Place | None = None
        self._read_at = -READ_SECONDS
        self._own_seen = 0
        self._one_reader = trio.Lock()

    async def after(self, place: Place | None) -> FeedPage:
        """Return the attempts after a place, or all that are kept without one; `gap` if some are not kept any more."""
        async with self._one_reader:
            if trio.current_time() - self._read_at >= self._pause_seconds():
                await self._look()
        assert self._last is not None  # noqa: S101 - set by the first look
        kept = list(self._kept if place is None else dropwhile(lambda each: each[0] <= place, self._kept))
        gap = place is not None and place < self._complete_after
        return FeedPage(attempts=kept, last=max(self._last, place or self._last), gap=gap)

    def _pause_seconds(self) -> float:
        return READ_SECONDS if self._own.last == self._own_seen else OWN_SECONDS

    async def _look(self) -> None:
        began_at, own_seen = trio.current_time(), self._own.last
        found = await self._read(self._last)
        if found.gap:
            self._kept.clear()
        is_first_of_many = self._last is None and len(found.attempts) == MOST_KEPT
        has_dropped = len(self._kept) + len(found.attempts) > MOST_KEPT
        self._kept.extend(found.attempts)
        if found.gap or has_dropped or is_first_of_many:
            self._complete_after = self._kept[0][0]
        self._last, self._read_at, self._own_seen = found.last, began_at, own_seen

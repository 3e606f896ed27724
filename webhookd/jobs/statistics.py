"""Statistics of the last hour and day, for the server, an organization or a webhook.

The counts of the current periods are in memory (`observe/statistics.py`) and are saved to the journal once a minute and
when the server stops. A crash loses at most a minute of them, and no delivery. Of several nodes each saves its own, and
shows the sum of all: its own as they are, and those of the others as they were last saved.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from copy import copy
from enum import StrEnum

import trio
from msgspec import Struct

from webhookd.base.clock import Clock
from webhookd.base.errors import Rejected
from webhookd.journal import Store, finished
from webhookd.observe.statistics import HOUR, MINUTE, QUARTER, SERVER, Counts, CountsRow, Key, RunningStatistics

ROWS_A_STEP = 1000


class Span(StrEnum):
    """The time range: an hour in minutes, or a day in quarters of an hour."""

    HOUR = "hour"
    DAY = "day"


_PERIODS = {Span.HOUR: (MINUTE, 60), Span.DAY: (QUARTER, 96)}
_HOURS = 24


class Point(Struct, frozen=True, kw_only=True):
    """One period: its start, and its counts."""

    at: int
    counts: Counts


class Series(Struct, frozen=True, kw_only=True):
    """Periods of `seconds` each, oldest first, without a gap; the last one is the current one."""

    seconds: int
    points: tuple[Point, ...]

    @property
    def total(self) -> Counts:
        """The sum of all points."""
        total = Counts()
        for point in self.points:
            total.add(point.counts)
        return total


class SavedStatistics:
    """Saves the running statistics once a minute, and reads them together with the saved ones."""

    def __init__(self, running: RunningStatistics, store: Store, clock: Clock) -> None:
        self._running = running
        self._store = store
        self._clock = clock

    async def begin(self) -> None:
        """Load the counts of the current periods that an earlier run of the server has saved."""
        self._running.adopt(await self._store.statistics.running(self._clock.now()))

    async def run(self) -> None:
        """Save the counts at the end of each minute, and once more when canceled."""
        try:
            while True:
                await trio.sleep(MINUTE - self._clock.now() % MINUTE)
                await self._save()
        finally:
            # Only submitted: the writer runs longer than this task and commits what was submitted before it ends.
            for rows in _steps(self._running.take(self._clock.now())):
                self._store.statistics.put(rows)

    async def recent(self, span: Span, organization_id: str | None) -> Series:
        """Return the last hour or day of the whole server, or of one organization."""
        subject = SERVER if organization_id is None else organization_id
        [series] = await self._series(*_PERIODS[span], [subject])
        return series

    async def of_webhooks(self, webhook_ids: Sequence[str]) -> dict[str, Series]:
        """Return the last 24 hours of webhooks, by the hour."""
        return dict(zip(webhook_ids, await self._series(HOUR, _HOURS, webhook_ids), strict=True))

    async def _series(self, seconds: int, periods: int, subjects: Sequence[str]) -> list[Series]:
        now = self._clock.now()
        last = int(now) // seconds * seconds
        starts = [last - seconds * back for back in reversed(range(periods))]
        stored, of_others = await self._store.statistics.find(seconds=seconds, starts=starts, subjects=subjects)
        held = self._running.rows(now)

        def point(at: int, subject: str) -> Point:
            key = Key(seconds, at, subject)
            # A copy: the counts in memory still change.
            counts = copy(held.get(key) or stored.get(key) or Counts())
            if key in of_others:
                counts.add(of_others[key])
            return Point(at=at, counts=counts)

        return [Series(seconds=seconds, points=tuple(point(at, subject) for at in starts)) for subject in subjects]

    async def _save(self) -> None:
        now = self._clock.now()
        steps = deque(_steps(self._running.take(now)))
        try:
            while steps:
                await finished(self._store.statistics.put(steps[0]))
                steps.popleft()
            while await self._store.statistics.prune(now, ROWS_A_STEP):
                pass
        except Rejected:  # the disk is full: the next minute tries again
            for rows in steps:
                self._running.put_back(rows)


def _steps(rows: Sequence[CountsRow]) -> Iterable[Sequence[CountsRow]]:
    """Split rows into writes that are short enough not to delay other writes."""
    return (rows[start : start + ROWS_A_STEP] for start in range(0, len(rows), ROWS_A_STEP))

"""Wall time, as epoch seconds cut to the millisecond, and waiting for a moment of it.

Every stored or compared time comes from one `Clock`, so that a simulation can drive wall time and trio's time by one
hand. A wait is chopped so that a wall clock that is set back or forth is noticed within a minute.
"""

import time
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import trio

LONGEST_WAIT_SECONDS = 60.0
TICK_SECONDS = 0.001
_YEAR_10000 = 253_402_300_800.0
VIRTUAL_EPOCH = 1_735_689_600.0  # 2025-01-01T00:00:00Z


class Clock(Protocol):
    """The source of wall time."""

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        ...


class SystemClock:
    """The machine's wall clock."""

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        return time.time_ns() // 1_000_000 / 1000


class VirtualClock:
    """Wall time that follows trio's clock, so that an autojump clock plays hours of schedule in milliseconds."""

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond; needs a running trio loop."""
        return round(VIRTUAL_EPOCH + trio.current_time(), 3)


def wait_seconds(clock: Clock, until: float) -> float:
    """Return how long to sleep now on the way to `until`: 0, or between a tick of the clock and a minute.

    Whoever slept less than a tick would find the same time again, and again.
    """
    left = until - clock.now()
    return 0.0 if left <= 0 else min(max(left, TICK_SECONDS), LONGEST_WAIT_SECONDS)


def iso(at: float) -> str:
    """Format epoch seconds as ISO-8601 UTC with milliseconds and `Z`."""
    seconds, milliseconds = divmod(round(at * 1000), 1000)
    return f"{_to_the_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=1024)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_iso(text: str) -> float:
    """Read an ISO-8601 time with a zone as epoch seconds cut to the millisecond; ValueError for anything else."""
    if "T" not in text.upper() or len(text) > 40:
        raise ValueError("expected an ISO-8601 time such as 2025-01-31T12:00:00.000Z")
    moment = datetime.fromisoformat(text.upper())
    if moment.tzinfo is None:
        raise ValueError("the time needs a zone, such as Z or +02:00")
    at = int(round(moment.timestamp() * 1000, 1)) / 1000
    if not 0 <= at < _YEAR_10000:
        raise ValueError("the time must lie between 1970 and 9999")
    return at

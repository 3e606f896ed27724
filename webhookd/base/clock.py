"""Wall time, as epoch seconds cut to the millisecond, and waiting for a moment of it.

Every stored or compared time comes from one `Clock`, so that a simulation can drive wall time and trio's time by one
hand. What is scheduled goes by a `Timeline`, which passes as steadily as the machine's boot clock and hears of a wall
clock that is set. A wait is chopped, since trio's clock stands still while the machine is suspended.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

import trio

LONGEST_WAIT_SECONDS = 60.0
TICK_SECONDS = 0.001
STEP_SECONDS = 2.0
DOUBT_SECONDS = 86_400.0
_YEAR_10000 = 253_402_300_800.0
LONGEST_TIME = 40
_A_TIME = "an ISO-8601 time with a zone, such as 2025-01-31T12:00:00.000Z"
VIRTUAL_EPOCH = 1_735_689_600.0  # 2025-01-01T00:00:00Z


class TimeError(ValueError):
    """A text that is no time; its message says what is taken instead, such as "an ISO-8601 time with a zone"."""


class Clock(Protocol):
    """The source of wall time."""

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        ...


class SteadyClock(Clock, Protocol):
    """A wall clock with a steady one beside it, which nobody can set."""

    def steady(self) -> float:
        """Seconds since some moment, those included that the machine was suspended for."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        return time.time_ns() // 1_000_000 / 1000

    def steady(self) -> float:
        """Seconds since the machine was started, those included that it was suspended for."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class VirtualClock:
    """Wall time that follows trio's clock, so that an autojump clock plays hours of schedule in milliseconds."""

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond; needs a running trio loop."""
        return round(VIRTUAL_EPOCH + trio.current_time(), 3)

    def steady(self) -> float:
        """Trio's time."""
        return trio.current_time()


class Timeline:
    """Wall time that never jumps: it passes as the steady clock does, within `STEP_SECONDS` of the wall clock.

    A clock that is set by more than that moves the timeline by the difference in one synchronous step, the first time
    that anybody asks for the time; `stepped`, if it is set, hears of the seconds first and moves what was scheduled, so
    that nothing comes early or late. Small steps are passed over. It is asked on the loop alone.
    """

    def __init__(self, clock: SteadyClock) -> None:
        self._clock = clock
        self._latest = clock.steady()
        self._base = round(clock.now() - self._latest, 3)
        self._doubted = 0.0
        self._doubted_since = 0.0
        self.stepped: Callable[[float], None] | None = None

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        steady = self._clock.steady()
        if steady < self._latest:
            # Virtual machines have moved this one back too; nothing may wait until it has caught up.
            self._base += self._latest - steady
        self._latest = steady
        seconds = round(self._clock.now() - steady - self._base, 3)
        if abs(seconds) >= STEP_SECONDS:
            self._step(seconds, steady)
        return round(steady + self._base, 3)

    def running(self) -> Callable[[], float]:
        """Return what tells the time from here on in any thread, without a look at whether the clock was set."""
        base = self._base
        return lambda: round(self._clock.steady() + base, 3)

    def trusted(self) -> float:
        """Return the time to forget by: a clock that was set forth counts once it has stayed so for a day.

        Whoever set it by mistake finds what it would have made old.
        """
        now = self.now()
        if self._clock.steady() - self._doubted_since >= DOUBT_SECONDS:
            self._doubted = 0.0
        return now - self._doubted

    def _step(self, seconds: float, steady: float) -> None:
        self._base += seconds
        self._doubted = max(self._doubted + seconds, 0.0)
        self._doubted_since = steady
        if self.stepped is not None:
            self.stepped(seconds)


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
    """Read an ISO-8601 time with a zone as epoch seconds cut to the millisecond.

    TimeError for anything else.
    """
    if "T" not in text.upper() or len(text) > LONGEST_TIME:
        raise TimeError(_A_TIME)
    try:
        moment = datetime.fromisoformat(text.upper())
        at = moment.timestamp() if moment.tzinfo is not None else None
    except (ValueError, OverflowError) as error:
        raise TimeError(_A_TIME) from error
    if at is None:
        raise TimeError("a time with its zone, such as Z or +02:00")
    at = int(round(at * 1000, 1)) / 1000
    if not 0 <= at < _YEAR_10000:
        raise TimeError("a time between 1970 and 9999")
    return at

"""Wall time, as epoch seconds truncated to the millisecond, and how long to wait for a moment.

Every stored or compared time comes from one `Clock`, so that a simulation can control wall time and trio's time
together. Schedules use a `Timeline`: it advances with the machine's boot clock, and shifts the schedules when the wall
clock is set. A long wait is split, because trio's clock stops while the machine is suspended.
"""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Protocol

LONGEST_WAIT_SECONDS = 60.0
TICK_SECONDS = 0.001
STEP_SECONDS = 2.0
DOUBT_SECONDS = 86_400.0
_NO_STEP_SECONDS = STEP_SECONDS - TICK_SECONDS
MOST_SLEW = 0.05
TOLD_SECONDS = 1.0
_YEAR_10000 = 253_402_300_800.0
LONGEST_TIME = 40
_A_TIME = "an ISO-8601 time with a zone, such as 2025-01-31T12:00:00.000Z"


class TimeError(ValueError):
    """A text is not a time; the message says what is accepted, such as "an ISO-8601 time with a zone"."""


class Clock(Protocol):
    """The source of wall time."""

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        ...


class SteadyClock(Clock, Protocol):
    """A wall clock and a steady clock, which can't be set."""

    def steady(self) -> float:
        """Seconds since an arbitrary moment, including the time for which the machine was suspended."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        return time.time_ns() // 1_000_000 / 1000

    def steady(self) -> float:
        """Seconds since the machine was started, including the time for which it was suspended."""
        return time.clock_gettime(time.CLOCK_BOOTTIME)


class DatabaseClock:
    """The time of a database that several nodes share; in between it goes on with the machine's steady clock.

    The first reading sets it. After that it runs up to 5 % faster or slower until it agrees with the last reading, and
    it never goes back, because rate limits and schedules read it. So neither a step of the machine's clock nor one of
    the database's moves anything. Before the first reading it has the machine's time. Any thread may use it.
    """

    def __init__(self, machine: SteadyClock) -> None:
        self._machine = machine
        self._lock = threading.Lock()
        self._is_set = False
        self._latest = self._since = machine.steady()
        self._offset = machine.now() - self._since
        self._correction = 0.0  # what is to be made up since `_since`

    def now(self) -> float:
        """Epoch seconds, to the millisecond."""
        return round(self.steady(), 3)

    def steady(self) -> float:
        """Epoch seconds; after the first reading two calls never differ by more than 5 % from what has passed."""
        with self._lock:
            return self._read()

    def follow(self, its_time: float, asked_at: float) -> float:
        """Take a reading: the database's clock showed `its_time` at a moment since `asked_at`, which `steady` returned.

        Return by how many seconds it was set since the last reading, if by more than one; else 0.
        """
        with self._lock:
            answered_at = self._read()
            if not self._is_set:
                self._is_set = True
                self._offset += its_time - (asked_at + answered_at) / 2
                return 0.0
            slewed = self._slewed()
            left = self._correction - slewed
            # When in between the clock was read isn't known, so the reading only bounds the difference.
            difference = min(max(left, its_time - answered_at), its_time - asked_at)
            self._since, self._offset, self._correction = self._latest, self._offset + slewed, difference
            step = difference - left
            return step if abs(step) > TOLD_SECONDS else 0.0

    def _read(self) -> float:
        at = self._machine.steady()
        if at < self._latest:
            # As in `Timeline`: time goes on from where it was.
            self._offset += self._latest - at
            self._since += at - self._latest
        self._latest = at
        return at + self._offset + self._slewed()

    def _slewed(self) -> float:
        """Return how much of the correction has been made up."""
        most = MOST_SLEW * (self._latest - self._since)
        return max(-most, min(self._correction, most))


class Timeline:
    """Wall time that advances with the steady clock, and stays within `STEP_SECONDS` of the wall clock.

    If the wall clock is set by more than that, the next call of `now` moves the timeline by the difference. Before it
    returns it calls `stepped`, if set, with the seconds: that moves the schedules by the same amount, so that nothing
    is early or late. Smaller steps are ignored. Call it on the event loop only.
    """

    def __init__(self, clock: SteadyClock) -> None:
        self._now, self._steady = clock.now, clock.steady
        self._latest = clock.steady()
        self._base = round(clock.now() - self._latest, 3)
        self._doubted = 0.0
        self._doubted_since = 0.0
        self.stepped: Callable[[float], None] | None = None

    def now(self) -> float:
        """Epoch seconds, cut to the millisecond."""
        steady = self._steady()
        if steady < self._latest:
            # Some virtual machines move even this clock back; waits must not last until it has caught up.
            self._base += self._latest - steady
        self._latest = steady
        seconds = self._now() - steady - self._base
        # Rounding takes long, and it is seldom needed to see that this is no step.
        if not -_NO_STEP_SECONDS < seconds < _NO_STEP_SECONDS and abs(seconds := round(seconds, 3)) >= STEP_SECONDS:
            self._step(seconds, steady)
        return int((steady + self._base) * 1000 + 0.5) / 1000  # a third of the time of `round`

    def running(self) -> Callable[[], float]:
        """Return a function that tells the time in any thread; it doesn't follow a wall clock that is set later."""
        base = self._base
        return lambda: round(self._steady() + base, 3)

    def trusted(self) -> float:
        """Return the time for retention: a clock that was set forward counts only once it has stayed so for a day.

        If it was set by mistake, nothing is deleted as too old.
        """
        now = self.now()
        if self._steady() - self._doubted_since >= DOUBT_SECONDS:
            self._doubted = 0.0
        return now - self._doubted

    def _step(self, seconds: float, steady: float) -> None:
        self._base += seconds
        self._doubted = max(self._doubted + seconds, 0.0)
        self._doubted_since = steady
        if self.stepped is not None:
            self.stepped(seconds)


def wait_seconds(clock: Clock, until: float) -> float:
    """Return how long to sleep before the next check of `until`: 0, or from one tick of the clock to one minute.

    After less than a tick the clock would still show the same time.
    """
    left = until - clock.now()
    return 0.0 if left <= 0 else min(max(left, TICK_SECONDS), LONGEST_WAIT_SECONDS)


@lru_cache(maxsize=1024)
def iso(at: float) -> str:
    """Format epoch seconds as ISO-8601 UTC with milliseconds and `Z`."""
    seconds, milliseconds = divmod(round(at * 1000), 1000)
    return f"{_to_the_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=1024)
def _to_the_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_iso(text: str) -> float:
    """Return an ISO-8601 time with a zone as epoch seconds, truncated to the millisecond; TimeError for other texts."""
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

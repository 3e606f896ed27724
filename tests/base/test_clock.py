"""Wall time: format, parsing and waits."""

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.virtual_clock import VirtualClock
from webhookd.base.clock import (
    LONGEST_WAIT_SECONDS,
    TICK_SECONDS,
    SystemClock,
    Timeline,
    UnsetClock,
    iso,
    parse_iso,
    wait_seconds,
)


@given(st.integers(min_value=0, max_value=253_402_300_799_999))
def test_a_time_comes_back_from_its_text(milliseconds: int) -> None:
    """Every millisecond from 1970 to 9999 is the same after it was written and read."""
    at = milliseconds / 1000
    assert parse_iso(iso(at)) == at


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2025-01-15T10:30:00Z", 1736937000.0),
        ("2025-01-15T10:30:00.123Z", 1736937000.123),
        ("2025-01-15T12:30:00.1239+02:00", 1736937000.123),
        ("2025-01-15t10:30:00z", 1736937000.0),
    ],
)
def test_times_with_a_zone_are_read(text: str, at: float) -> None:
    """ISO-8601 times with any zone are accepted, and truncated to the millisecond."""
    assert parse_iso(text) == at


@pytest.mark.parametrize(
    "text", ["", "2025-01-15", "2025-01-15T10:30:00", "1736937000", "1969-01-01T00:00:00Z", "x" * 50]
)
def test_other_texts_are_refused(text: str) -> None:
    """A time without a zone or before 1970, and a text that is not a time, are refused."""
    with pytest.raises(ValueError, match=r"."):
        parse_iso(text)


def test_the_machines_clock_is_cut_to_the_millisecond() -> None:
    """Times are whole milliseconds, so that storage and text keep them exactly."""
    now = SystemClock().now()
    assert now == round(now, 3)


async def test_a_wait_is_never_shorter_than_a_tick_of_the_clock(autojump_clock: MockClock) -> None:
    """While waiting for a moment between two ticks, the clock is read twice and not a thousand times."""
    clock = VirtualClock()
    until = clock.now() + 0.5004
    looks = 0
    while clock.now() < until:
        await trio.sleep(wait_seconds(clock, until))
        looks += 1
    assert looks == 2
    assert wait_seconds(clock, clock.now() - 5) == 0
    assert wait_seconds(clock, clock.now() + 1e-5) == TICK_SECONDS
    assert wait_seconds(clock, clock.now() + 1e6) == LONGEST_WAIT_SECONDS


class SettableClock:
    """A machine's clocks, as a test sets them."""

    wall, since_start = 1_800_000_000.0, 100.0

    def now(self) -> float:
        return self.wall

    def steady(self) -> float:
        return self.since_start


def test_a_node_keeps_its_time_when_its_clock_is_set() -> None:
    """It goes on from the time at its start, and no schedule is moved."""
    machine = SettableClock()
    clock = Timeline(UnsetClock(machine))
    moved: list[float] = []
    clock.stepped = moved.append
    machine.wall += 3600.0
    machine.since_start += 2.5
    assert clock.now() == 1_800_000_002.5
    machine.wall -= 86_400.0
    machine.since_start += 1.0
    assert clock.now() == 1_800_000_003.5
    assert moved == []

"""Wall time: format, parsing and waits."""

from dataclasses import dataclass, field

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from tests.virtual_clock import VirtualClock
from webhookd.base.clock import (
    LONGEST_WAIT_SECONDS,
    MOST_SLEW,
    TICK_SECONDS,
    DatabaseClock,
    SystemClock,
    Timeline,
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


@dataclass
class Node:
    """A clock that follows a database's, whose clock a test sets."""

    machine: SettableClock = field(default_factory=SettableClock)
    ahead: float = 0.0  # the database's clock, of the machine's at the start

    def __post_init__(self) -> None:
        self.clock = DatabaseClock(self.machine)

    @property
    def its_time(self) -> float:
        return SettableClock.wall + self.machine.since_start - SettableClock.since_start + self.ahead

    def read(self, *, takes: float = 0.0) -> float:
        """Ask for the time; the answer shows the moment at which the question arrived, and takes as long to return."""
        asked_at = self.clock.steady()
        self.machine.since_start += takes / 2
        its_time = self.its_time
        self.machine.since_start += takes / 2
        return self.clock.follow(its_time, asked_at)

    def error(self) -> float:
        return self.clock.now() - self.its_time


@pytest.mark.parametrize("ahead", [-86_400.0, -0.2, 0.0, 0.2, 86_400.0])
def test_the_first_reading_sets_a_node_to_the_time_of_the_database(ahead: float) -> None:
    """It is no step of the database's clock, and schedules begin with the right time."""
    node = Node(ahead=ahead)
    assert node.read(takes=0.004) == 0.0
    timeline = Timeline(node.clock)
    assert timeline.now() == pytest.approx(node.its_time, abs=0.001)


def test_a_step_of_the_machines_clock_moves_nothing() -> None:
    """A node goes on with its steady clock, also while the database doesn't answer."""
    node = Node()
    node.read()
    timeline = Timeline(node.clock)
    moved: list[float] = []
    timeline.stepped = moved.append
    for seconds in (3600.0, -86_400.0):
        node.machine.wall += seconds
        node.machine.since_start += 2.5
        assert timeline.now() == node.clock.now() == pytest.approx(node.its_time)
    assert moved == []


@pytest.mark.parametrize("ahead", [-3.0, -0.1, 0.1, 3.0])
def test_a_step_of_the_databases_clock_is_made_up_slowly(ahead: float) -> None:
    """By 5 % at most, and exactly; a step of more than a second is told once."""
    node = Node()
    node.read()
    timeline = Timeline(node.clock)
    timeline.stepped = lambda seconds: pytest.fail(f"all schedules were moved by {seconds} s")
    node.ahead = ahead
    steps = [node.read()]
    before, beats = timeline.now(), round(abs(ahead) / MOST_SLEW / 2)
    for beat in range(beats):
        node.machine.since_start += 2.0
        now = timeline.now()
        assert now - before == pytest.approx(2.0 * (1 + (MOST_SLEW if ahead > 0 else -MOST_SLEW)), abs=0.002), beat
        before = now
        steps.append(node.read())
    assert abs(node.error()) <= 0.001
    node.machine.since_start += 100.0
    assert abs(node.error()) <= 0.001, "it goes on at the right pace"
    assert [step for step in steps if step] == ([pytest.approx(ahead)] if abs(ahead) > 1 else [])


def test_what_an_answer_took_is_no_difference() -> None:
    """An answer that was on its way for long says little about the time, and tells of no step."""
    node = Node()
    node.read(takes=0.001)
    for takes in (5.0, 0.001, 30.0):
        assert node.read(takes=takes) == 0.0
        node.machine.since_start += 2.0
        assert abs(node.error()) <= 0.001
    node.ahead = 4.0
    assert node.read(takes=0.001) == pytest.approx(4.0, abs=0.01)
    assert node.read(takes=9.0) == 0.0, "the step is known already, and the answer doesn't contradict it"
    for _ in range(60):
        node.machine.since_start += 2.0
        node.read(takes=0.001)
    assert abs(node.error()) <= 0.002


readings = st.lists(
    st.tuples(st.floats(0, 100), st.floats(-50, 50), st.floats(0, 10), st.booleans()), min_size=1, max_size=30
)


@given(readings)
def test_a_node_never_goes_back_in_time(readings: list[tuple[float, float, float, bool]]) -> None:
    """Whatever the clocks do: the database's is set, answers take long, and the machine's steady clock goes back."""
    node = Node()
    node.read()
    before = node.clock.steady()
    for passed, step, takes, goes_back in readings:
        node.machine.since_start += -passed if goes_back else passed
        now = node.clock.steady()
        assert now >= before - 1e-6
        if not goes_back:
            assert now - before <= passed * (1 + MOST_SLEW) + 1e-6
        node.ahead += step
        node.read(takes=takes)
        before = node.clock.steady()
        assert before >= now - 1e-6

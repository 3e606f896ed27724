"""Happy Eyeballs in exact virtual time, with a scripted dialer: when each address is tried."""

from dataclasses import dataclass, field
from ipaddress import ip_address

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from webhookd.delivery.egress.addresses import interleaved
from webhookd.delivery.http.happy_eyeballs import (
    ATTEMPT_DELAY_SECONDS,
    LEAST_DELAY_SECONDS,
    MAX_AT_ONCE,
    FailedAddress,
    attempt_delay_seconds,
    most_telling,
    race,
)

NEVER = 1e6
TOGETHER = -1.0  # all of these in one turn of the scheduler, half a second after the start


@dataclass(eq=False)
class Made:
    """A connection of the fake dialer."""

    address: str
    is_closed: bool = False

    def close(self) -> None:
        self.is_closed = True


@dataclass
class Dialer:
    """The result of each address (`200`, `refused`, `tls`, `blocked`) and its seconds; and what was done."""

    script: dict[str, tuple[float, str]]
    began: dict[str, float] = field(default_factory=dict)
    canceled: dict[str, float] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0
    together: trio.Event = field(default_factory=trio.Event)

    async def connect(self, address: str) -> Made | FailedAddress[OSError]:
        seconds, comes_to = self.script[address]
        self.began[address] = trio.current_time()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            if seconds == TOGETHER:
                await self.together.wait()
            else:
                await trio.sleep(seconds)
        except trio.Cancelled:
            self.canceled[address] = trio.current_time()
            raise
        finally:
            self.at_once -= 1
        if comes_to != "200":
            error = OSError(comes_to)
            return FailedAddress(error, address, got_through=comes_to == "tls", is_final=comes_to == "blocked")
        self.made.append(Made(address))
        return self.made[-1]


@dataclass(frozen=True)
class Result:
    """The address that won, the time, and the failures before that."""

    winner: Made | None
    at: float
    lost: list[str]
    is_late: bool


def run(dialer: Dialer, seconds: float = NEVER) -> Result:
    lost: list[FailedAddress[OSError]] = []

    async def main() -> Result:
        winner = None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_set_together, dialer)
            with trio.move_on_after(seconds) as scope:
                winner = await race(list(dialer.script), dialer.connect, lost)
            nursery.cancel_scope.cancel()
        return Result(winner, trio.current_time(), [each.at for each in lost], scope.cancelled_caught)

    return trio.run(main, clock=MockClock(autojump_threshold=0))


async def _set_together(dialer: Dialer) -> None:
    await trio.sleep(0.5)
    dialer.together.set()


def began(dialer: Dialer, start: float = 0.0) -> dict[str, float]:
    first = min(dialer.began.values()) - start
    return {address: round(at - first, 6) for address, at in dialer.began.items()}


@pytest.mark.parametrize(
    ("script", "begin", "winner", "ends"),
    [
        # Nobody waits for an address that says nothing.
        ({"a": (NEVER, "200"), "b": (0.05, "200")}, {"a": 0, "b": 0.25}, "b", 0.30),
        ({"a": (NEVER, "200"), "b": (NEVER, "200"), "c": (0.1, "200")}, {"a": 0, "b": 0.25, "c": 0.5}, "c", 0.6),
        # One that fails makes the next begin at once, and the delay counts from there.
        ({"a": (0.01, "refused"), "b": (NEVER, "200"), "c": (0.1, "200")}, {"a": 0, "b": 0.01, "c": 0.26}, "c", 0.36),
        ({"a": (0.2, "tls"), "b": (0.1, "200")}, {"a": 0, "b": 0.2}, "b", 0.3),
        # One that fails after the next has begun changes nothing for those behind it.
        (
            {"a": (0.3, "refused"), "b": (NEVER, "200"), "c": (0.1, "200")},
            {"a": 0, "b": 0.25, "c": 0.5},
            "c",
            0.6,
        ),
        # The first that is connected wins, and what is quick enough is tried alone.
        ({"a": (0.2, "200"), "b": (0.0, "200")}, {"a": 0}, "a", 0.2),
        ({"a": (0.3, "200"), "b": (0.1, "200")}, {"a": 0, "b": 0.25}, "a", 0.3),
        ({"a": (0.4, "200"), "b": (0.1, "200")}, {"a": 0, "b": 0.25}, "b", 0.35),
        # One address is tried as it is.
        ({"a": (4.0, "200")}, {"a": 0}, "a", 4.0),
        ({"a": (1.0, "refused")}, {"a": 0}, None, 1.0),
        # All of them fail.
        ({"a": (0.1, "refused"), "b": (0.3, "tls")}, {"a": 0, "b": 0.1}, None, 0.4),
        ({"a": (0.5, "refused"), "b": (0.1, "refused")}, {"a": 0, "b": 0.25}, None, 0.5),
    ],
)
def test_the_next_address_begins_when_it_should(
    script: dict[str, tuple[float, str]], begin: dict[str, float], winner: str | None, ends: float
) -> None:
    """Each address is tried 250 ms after the last one, or as soon as that has failed, and the first connected wins."""
    dialer = Dialer(script)
    result = run(dialer)
    assert began(dialer) == begin
    assert (result.winner.address if result.winner else None) == winner
    assert result.at - min(dialer.began.values()) == pytest.approx(ends)


def test_the_losers_are_canceled_when_one_has_won() -> None:
    """When an address is connected those that are still being tried are canceled in the same moment."""
    dialer = Dialer({"a": (NEVER, "200"), "b": (NEVER, "200"), "c": (0.1, "200"), "d": (0.0, "200")})
    result = run(dialer)
    assert dialer.canceled == {"a": result.at, "b": result.at}
    assert [made.is_closed for made in dialer.made] == [False]
    assert "d" not in dialer.began


def test_of_two_that_are_there_in_the_same_moment_one_is_closed() -> None:
    """Two addresses that answer in one turn of the scheduler give one connection, and the other is closed."""
    dialer = Dialer({"a": (TOGETHER, "200"), "b": (TOGETHER, "200")})
    result = run(dialer)
    assert len(dialer.made) == 2
    assert result.winner is not None
    assert [made for made in dialer.made if not made.is_closed] == [result.winner]


def test_a_final_loss_ends_the_race() -> None:
    """An address that must not be dialled ends the race, and a connection to another is closed."""
    dialer = Dialer({"a": (NEVER, "200"), "b": (0.1, "blocked"), "c": (0.0, "200")})
    result = run(dialer)
    assert (result.winner, result.lost) == (None, ["b"])
    assert dialer.canceled == {"a": result.at}
    assert "c" not in dialer.began
    together = Dialer({"a": (TOGETHER, "blocked"), "b": (TOGETHER, "200")})
    assert run(together).winner is None
    assert [made.is_closed for made in together.made] == [True]


def test_the_deadline_ends_all_and_what_was_lost_is_still_there() -> None:
    """At the deadline everything is canceled, and the failures until then can be read."""
    dialer = Dialer({"a": (0.1, "tls"), "b": (NEVER, "200"), "c": (NEVER, "200")})
    result = run(dialer, 2.0)
    assert (result.winner, result.lost, result.is_late) == (None, ["a"], True)
    assert set(dialer.canceled) == {"b", "c"}
    assert dialer.at_once == 0


@pytest.mark.parametrize("seconds", [0.5, 1.0, 2.0, 5.0])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 7, 8, 16])
def test_the_last_address_has_its_turn_in_time(count: int, seconds: float) -> None:
    """However many addresses don't answer and however short the time is, the last one is connected."""
    script = {f"{number}": (NEVER, "200") for number in range(count - 1)} | {"alive": (0.01, "200")}
    dialer = Dialer(script)
    result = run(dialer, seconds)
    assert result.winner is not None
    assert not result.is_late
    assert dialer.most_at_once <= MAX_AT_ONCE


@pytest.mark.parametrize(
    ("count", "left", "delay"),
    [
        (2, 5.0, 0.25),
        (2, 2.0, 0.25),
        (2, 0.4, 0.2),
        (4, 1.0, 1 / 6),
        (16, 5.0, 1 / 6),
        (16, 0.1, LEAST_DELAY_SECONDS),
        (1, 5.0, ATTEMPT_DELAY_SECONDS),
        (3, float("inf"), ATTEMPT_DELAY_SECONDS),
    ],
)
def test_the_delay_is_shorter_where_time_is_short(count: int, left: float, delay: float) -> None:
    """250 ms, or less so that all are tried by half of the time, but never under RFC 8305's 10 ms."""
    assert attempt_delay_seconds(count, left) == pytest.approx(delay)


def test_the_most_telling_failure_is_told() -> None:
    """A blocked address is reported first, then a server that was reached and failed, then the first failure."""
    refused, reset = FailedAddress(OSError("refused"), "a"), FailedAddress(OSError("reset"), "b")
    tls, expired = (
        FailedAddress(OSError("tls"), "c", got_through=True),
        FailedAddress(OSError("expired"), "d", got_through=True),
    )
    blocked = FailedAddress(OSError("blocked"), "e", is_final=True)
    assert most_telling([refused, reset]) is refused
    assert most_telling([refused, tls, expired]) is tls
    assert most_telling([tls, refused, blocked]) is blocked


@given(
    st.lists(
        st.tuples(
            st.sampled_from([TOGETHER, 0.0, 0.01, 0.25, 0.26, 0.5, 0.75, 1.0, 3.0, NEVER]),
            st.sampled_from(["200", "refused", "tls", "blocked"]),
        ),
        min_size=1,
        max_size=16,
    ),
    st.sampled_from([0.2, 0.5, 1.0, 2.0, 5.0]),
)
def test_whatever_comes_one_connection_is_left_at_most(script: list[tuple[float, str]], seconds: float) -> None:
    """Whatever the addresses do, only the winner stays open, few are tried at once, and no task goes on."""
    dialer = Dialer({str(number): each for number, each in enumerate(script)})
    result = run(dialer, seconds)
    assert [made for made in dialer.made if not made.is_closed] == ([result.winner] if result.winner else [])
    assert dialer.most_at_once <= MAX_AT_ONCE
    assert dialer.at_once == 0
    assert list(dialer.began) == list(dialer.script)[: len(dialer.began)]


@pytest.mark.parametrize(
    ("given", "in_turn"),
    [
        ("", ""),
        ("::1 ::2 ::3 1.1.1.1", "::1 1.1.1.1 ::2 ::3"),
        ("1.1.1.1 1.1.1.2 ::1 ::2", "1.1.1.1 ::1 1.1.1.2 ::2"),
        ("::1 1.1.1.1 1.1.1.2 1.1.1.3", "::1 1.1.1.1 1.1.1.2 1.1.1.3"),
        ("1.1.1.3 1.1.1.1 1.1.1.2", "1.1.1.3 1.1.1.1 1.1.1.2"),
        ("::2 ::1", "::2 ::1"),
    ],
)
def test_the_families_take_turns(given: str, in_turn: str) -> None:
    """The resolver's first address stays the first; from there on the families alternate, each in its order."""
    found = interleaved(ip_address(address) for address in given.split())
    assert " ".join(str(address) for address in found) == in_turn

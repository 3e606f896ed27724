"""What a crash point is."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.crashpoints.arming import Place
from tests.crashpoints.site import Site

Check = Callable[[Site], Awaitable[None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One point: its name, which begins with its phase, the place, the expected outcome in words, and its check."""

    name: str
    place: Place
    expected: str
    check: Check

    @property
    def phase(self) -> str:
        """What the process is doing there."""
        return self.name.partition(".")[0]


def before(name: str, at: str, expected: str, check: Check, *, nth: int = 1, about: str = "") -> Point:
    """Return a point at which the process dies instead of making the nth call of `at`."""
    return Point(name=name, place=Place(at=at, nth=nth, about=about), expected=expected, check=check)


def after(name: str, at: str, expected: str, check: Check, *, nth: int = 1, about: str = "") -> Point:
    """Return a point at which the process dies once the nth call of `at` has returned."""
    return Point(name=name, place=Place(at=at, nth=nth, about=about, is_after=True), expected=expected, check=check)

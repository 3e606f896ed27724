"""Whether work grows with the length of its input or faster: CPU time of this thread at one length and at 8 times it.

Work that looks at each byte a bounded number of times takes 8 times as long; work that looks at each byte once for each
other byte takes 64 times. The machine's load does not count, since other threads' time is not measured, and the least
of several samples leaves out what a cache or an interrupt cost one of them.
"""

import gc
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

FACTOR = 8
MOST_GROWTH = 24.0  # three times what linear work needs, and well below the 64 of quadratic work
UNSEEN_SECONDS = 0.01  # below this a sample is too short to say how it grew
_SAMPLES = 5
_LONG_SECONDS = 0.25  # one sample of this length is exact enough


def growth(make: Callable[[int], T], work: Callable[[T], object], longest: int) -> float:
    """Return by how much `work` takes longer on an input of 8 times the length, up to the length `8 * longest`.

    Of the lengths it takes the shortest that can be measured, so that a failure shows before it takes minutes; 1.0
    where all of them take less than `UNSEEN_SECONDS`, which quadratic work doesn't at the lengths that are tried.
    """
    length = longest
    while length > FACTOR:
        length //= FACTOR
    most = 1.0
    while length <= longest:
        long = _least_seconds(work, make(FACTOR * length), enough=UNSEEN_SECONDS)
        if long >= UNSEEN_SECONDS:
            most = max(most, long / _least_seconds(work, make(length), enough=0.0))
        if most >= MOST_GROWTH:
            break
        length *= FACTOR
    return most


def calls(work: Callable[[], object]) -> int:
    """Return how many functions `work` calls, those written in C included."""
    count = 0

    def note(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
    return count


def _least_seconds(work: Callable[[T], object], given: T, *, enough: float) -> float:
    """Return the least of several samples; one that is below `enough` settles it.

    The collector of garbage has no turn in them: a look at all that the tests have left behind may take longer than
    the work. A long sample is exact enough only where a second one is as long.
    """
    taken: list[float] = []
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        while len(taken) < _SAMPLES and (len(taken) < 2 or enough <= min(taken) <= _LONG_SECONDS):
            started = time.thread_time()
            work(given)
            taken.append(time.thread_time() - started)
            if taken[-1] < enough:
                break
    finally:
        if was_enabled:
            gc.enable()
    return min(taken)

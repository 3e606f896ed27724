"""Whether work grows with the length of its input or faster: CPU time of this thread at one length and at 8 times it.

Work that looks at each byte a bounded number of times takes 8 times as long; work that looks at each byte once for each
other byte takes 64 times. The machine's load does not count, since other threads' time is not measured, and the least
of several samples leaves out what a cache or an interrupt cost one of them.
"""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

FACTOR = 8
MOST_GROWTH = 24.0  # three times what linear work needs, and well below the 64 of quadratic work
UNSEEN_SECONDS = 0.01  # below this a sample is too short to say how it grew
_SAMPLES = 5
_LONG_SECONDS = 0.25  # one sample of this length is exact enough


def growth(make: Callable[[int], T], work: Callable[[T], object], size: int) -> float:
    """Return by how much `work` takes longer on `make(8 * size)` than on `make(size)`.

    1.0 where even the long one takes less than `UNSEEN_SECONDS`: at the lengths that are tried, quadratic work doesn't.
    """
    long = _least_seconds(work, make(FACTOR * size), enough=UNSEEN_SECONDS)
    if long < UNSEEN_SECONDS:
        return 1.0
    return long / _least_seconds(work, make(size), enough=0.0)


def _least_seconds(work: Callable[[T], object], given: T, *, enough: float) -> float:
    """Return the least of several samples; the first that is below `enough` settles it."""
    least = float("inf")
    for _ in range(_SAMPLES):
        started = time.thread_time()
        work(given)
        taken = time.thread_time() - started
        least = min(least, taken)
        if least < enough or taken > _LONG_SECONDS:
            break
    return least

"""Measure whether work is linear in the length of its input: CPU time of this thread at one length and at 8 times it.

Linear work takes 8 times as long, quadratic work 64 times. The load of the machine does not count, because the time of
other threads and processes is not measured. Only work that seems to grow too fast is measured again: the minimum of
several samples excludes cache misses and interrupts.
"""

import gc
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

T = TypeVar("T")

FACTOR = 8
MOST_GROWTH = 24.0  # three times that of linear work, and well below the 64 of quadratic work
UNSEEN_SECONDS = 0.01  # a shorter sample is too inexact to measure growth
_SAMPLES = 5
_LONG_SECONDS = 0.25  # samples of this length are exact enough; two of them suffice


def growth(make: Callable[[int], T], work: Callable[[T], object], longest: int) -> float:
    """Return the factor by which `work` takes longer on an input of 8 times the length, up to the length `8 * longest`.

    It starts at the shortest length that can be measured, so that a failure shows before it takes minutes. Returns 1.0
    if all lengths take less than `UNSEEN_SECONDS`, which quadratic work does not at the lengths that are tried.
    """
    length = longest
    while length > FACTOR:
        length //= FACTOR
    most = 1.0
    while length <= longest:
        long, short = make(FACTOR * length), make(length)
        if (seconds := _least_seconds(work, long, samples=1)) >= UNSEEN_SECONDS:
            grown = seconds / _least_seconds(work, short, samples=2)
            if grown >= MOST_GROWTH and (seconds := _least_seconds(work, long)) >= UNSEEN_SECONDS:
                grown = seconds / _least_seconds(work, short)
            most = max(most, grown)
        if most >= MOST_GROWTH:
            break
        length *= FACTOR
    return most


def calls(work: Callable[[], object]) -> int:
    """Return how many functions `work` calls, including those written in C."""
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


def _least_seconds(work: Callable[[T], object], given: T, *, samples: int = _SAMPLES) -> float:
    """Return the minimum of several samples, in seconds; of long ones, two are enough.

    Garbage collection is off: traversing all objects of the test process may take longer than the work.
    """
    taken: list[float] = []
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        while len(taken) < samples and (len(taken) < 2 or min(taken) <= _LONG_SECONDS):
            started = time.thread_time()
            work(given)
            taken.append(time.thread_time() - started)
    finally:
        if was_enabled:
            gc.enable()
    return min(taken)

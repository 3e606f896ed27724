"""What retention and slow readers cost others, and that the harness which measures it notices when it is too much."""

from pathlib import Path

import pytest

from tests.retention import (
    FAULTS,
    LOG_BYTES,
    MEBIBYTE,
    QUICK_HISTORY,
    broken_of_delay,
    broken_of_log,
    finds,
    measure_delay,
    measure_log,
)


def test_retention_delays_no_commit_and_returns_the_space() -> None:
    """While a history is forgotten no commit takes much longer than without, and the file is small afterwards.

    The tests share their machine, so what counts is the longest commit without retention; 50 ms where that is less.
    """
    assert broken_of_delay(measure_delay(QUICK_HISTORY, is_noisy=True), is_noisy=True) == []


def test_a_slow_reader_does_not_let_the_log_grow() -> None:
    """A snapshot that is held keeps the log below 64 MiB, costs changes nothing, and events go on after it."""
    grown = measure_log(80 * MEBIBYTE, hold_seconds=4)
    assert broken_of_log(grown) == []
    assert grown.refused == 0
    assert grown.held_bytes < LOG_BYTES, "events came in as if nobody held on"


@pytest.mark.parametrize("fault", FAULTS[:2])
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    """Forgetting all at once, and a log that is never cut, are noticed."""
    assert finds(tmp_path, fault)

"""Retention and slow readers do not hold up the server, and the harness that checks this finds planted faults."""

from pathlib import Path

import pytest

from tests.long import long
from tests.retention import (
    FAULTS,
    LOG_BYTES,
    MEBIBYTE,
    QUICK_HISTORY,
    broken_by_deletion,
    broken_by_log,
    finds,
    measure_log,
    measure_steps,
)


def test_retention_deletes_in_bounded_steps_and_returns_the_space() -> None:
    """A history is deleted in steps of bounded size, one in each commit, and the file is small afterwards."""
    assert broken_by_deletion(measure_steps(QUICK_HISTORY)) == []


def test_a_slow_reader_does_not_let_the_log_grow() -> None:
    """While a reader holds a snapshot, the log stays below 64 MiB, changes do not wait, and no event is lost."""
    growth = measure_log(80 * MEBIBYTE)
    assert broken_by_log(growth) == []
    assert growth.refused == 0
    assert growth.held_bytes < LOG_BYTES, "events were accepted as if no reader held a snapshot"


@pytest.mark.parametrize("fault", long(FAULTS[:2], lambda fault: fault == FAULTS[0]))
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    """The harness finds a server that deletes everything in one step, and one that never truncates its log."""
    assert finds(tmp_path, fault)

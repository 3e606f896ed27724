"""What retention and slow readers cost others, and that the harness which measures it notices when it is too much."""

from pathlib import Path

import pytest

from tests.long import long
from tests.retention import (
    FAULTS,
    LOG_BYTES,
    MEBIBYTE,
    QUICK_HISTORY,
    broken_of_log,
    broken_of_steps,
    finds,
    measure_log,
    measure_steps,
)


def test_retention_shares_no_commit_with_more_than_a_step_and_returns_the_space() -> None:
    """A history is forgotten in steps of bounded size, one a commit, and the file is small afterwards."""
    assert broken_of_steps(measure_steps(QUICK_HISTORY)) == []


def test_a_slow_reader_does_not_let_the_log_grow() -> None:
    """A snapshot that is held keeps the log below 64 MiB, costs changes nothing, and events go on after it."""
    grown = measure_log(80 * MEBIBYTE)
    assert broken_of_log(grown) == []
    assert grown.refused == 0
    assert grown.held_bytes < LOG_BYTES, "events came in as if nobody held on"


@pytest.mark.parametrize("fault", long(FAULTS[:2], lambda fault: fault == FAULTS[0]))
def test_a_planted_fault_is_found(tmp_path: Path, fault: str) -> None:
    """Forgetting all at once, and a log that is never cut, are noticed."""
    assert finds(tmp_path, fault)

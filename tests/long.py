"""Which of a table's rows only a long run plays: `pytest -m slow`, or `python -m tests.full` with everything else."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def is_long_run(config: pytest.Config) -> bool:
    """Whether slow tests are among those that are asked for."""
    return bool(config.getoption("markexpr") != "not slow")


def long(rows: Iterable[T], is_long: Callable[[T], bool]) -> list[Any]:
    """Return the rows for `parametrize`, those of the long run marked as slow; a tuple is a row of several values."""
    return [
        pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=pytest.mark.slow) if is_long(row) else row
        for row in rows
    ]

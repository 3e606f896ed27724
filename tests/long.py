"""Mark rows of a table as slow: they run with `pytest -m slow` and in `python -m tests.full`."""

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import pytest

T = TypeVar("T")


def is_long_run(config: pytest.Config) -> bool:
    """Whether this run includes the slow tests."""
    return bool(config.getoption("markexpr") != "not slow")


def long(rows: Iterable[T], is_long: Callable[[T], bool]) -> list[Any]:
    """Return the rows for `parametrize`, the long ones marked as slow; a tuple is a row of several values."""
    return [
        pytest.param(*(row if isinstance(row, tuple) else (row,)), marks=pytest.mark.slow) if is_long(row) else row
        for row in rows
    ]

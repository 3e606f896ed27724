"""What reads bytes from outside without an expression: the work grows with their number, and no faster."""

import pytest

from tests.linear import calls
from webhookd.admin.publishing import _Lines
from webhookd.ingest.lines import LineSplitter

LIMIT = 262_144


@pytest.mark.parametrize("splitter", [_Lines(LIMIT), LineSplitter(LIMIT)], ids=["http", "socket"])
def test_an_empty_line_costs_no_call(splitter: _Lines | LineSplitter) -> None:
    """A body or a socket's chunk of nothing but newlines is skipped without a step for each of them."""
    assert calls(lambda: list(splitter.feed(b"\n" * 10_000))) < 50

"""Stopping a server that everybody holds on to, and that the harness which does it sees what goes wrong."""

from pathlib import Path

import pytest

from tests.shutdown import finds, stop_repeatedly

DRAIN_SECONDS = 1.0


def test_a_server_stops_whoever_holds_on(tmp_path: Path) -> None:
    """Nobody who drips, hangs or doesn't read for ever keeps it from ending after `drain_seconds`; nothing is lost."""
    stops = stop_repeatedly(tmp_path, 2, drain_seconds=DRAIN_SECONDS, seed=1)
    assert [(stop.status, stop.broken) for stop in stops] == [(0, [])] * 2
    assert all(stop.seconds >= DRAIN_SECONDS for stop in stops), "receivers that hang are given their time"


@pytest.mark.slow
def test_an_edge_that_is_not_cut_off_is_found(tmp_path: Path) -> None:
    """A server that waits for its clients for ever is noticed."""
    assert finds(tmp_path, "waits for clients")

"""A server stops although clients hold connections open, and the harness that checks this finds planted faults."""

from pathlib import Path

import pytest

from tests.shutdown import finds, stop_repeatedly

DRAIN_SECONDS = 1.0


def test_a_server_stops_although_clients_hold_connections_open(tmp_path: Path) -> None:
    """Clients that hang, send slowly or never read don't prevent a stop after `drain_seconds`, and nothing is lost."""
    stops = stop_repeatedly(tmp_path, 2, drain_seconds=DRAIN_SECONDS, seed=1)
    assert [(stop.status, stop.broken) for stop in stops] == [(0, [])] * 2
    assert all(stop.seconds >= DRAIN_SECONDS for stop in stops), "the stop did not wait for requests in flight"


@pytest.mark.slow
def test_a_server_that_waits_for_clients_is_found(tmp_path: Path) -> None:
    """The harness finds a server that waits for its clients for ever."""
    assert finds(tmp_path, "waits for clients")

"""The tests of worlds run twice: with a journal in a file, and with one on PostgreSQL.

On PostgreSQL all but a few modules are slow tests, since in some of them thousands of commits are made. A test for one
engine alone says so: `@pytest.mark.parametrize("engine", ["SQLite"], indirect=True)`.
"""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests import world
from webhookd.base.database_url import parse
from webhookd.journal import Server
from webhookd.journal.server import LeaseTimes

QUICK = {"test_actor", "test_actor_crash", "test_expiry_sweep", "test_changes"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    module = metafunc.module
    chosen = [mark for mark in metafunc.definition.iter_markers("parametrize") if mark.args[0] == "engine"]
    if chosen or not hasattr(module, "world"):
        return
    is_quick = module.__name__.rpartition(".")[2] in QUICK
    on_postgresql = pytest.param("PostgreSQL", marks=() if is_quick else pytest.mark.slow)
    metafunc.parametrize("engine", ["SQLite", on_postgresql], indirect=True)


@pytest.fixture(autouse=True)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if getattr(request, "param", "SQLite") == "SQLite":
        return
    # In virtual time leases would end at once.
    server = Server(url=parse(request.getfixturevalue("empty_database")), times=LeaseTimes().scaled(1e6))
    place_of: Callable[[Path], Server] = lambda _: server  # noqa: E731 - one world at a time
    monkeypatch.setattr(world, "PLACE_OF", place_of)

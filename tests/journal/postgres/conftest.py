"""A PostgreSQL server that a test may stop, damage and set up in its own way, and several nodes on one database."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests import world as worlds
from tests.journal.postgres.nodes import QUICK, Nodes, Open
from tests.patience import PATIENCE_SECONDS
from tests.postgres_server import PostgresServer, server_or_skip
from webhookd.journal import Server
from webhookd.journal.server import LeaseTimes


@pytest.fixture(scope="module")
def spare_server() -> Iterator[PostgresServer]:
    with server_or_skip() as server:
        yield server


@pytest.fixture
def own_server(spare_server: PostgresServer) -> Iterator[PostgresServer]:
    """A server with the usual settings; after the test it has them again, and runs."""
    settings = dict(spare_server.settings)
    access = spare_server.access.read_text()
    yield spare_server
    spare_server.stop()
    spare_server.settings = settings
    spare_server.access.write_text(access)
    spare_server.start()


@pytest.fixture
def open_nodes(empty_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Return a function that gives a test its nodes; it ends with all of them stopped."""

    @asynccontextmanager
    async def opened(times: LeaseTimes = QUICK) -> AsyncIterator[Nodes]:
        with trio.fail_after(4 * PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nodes = Nodes(empty_database, tmp_path, nursery, choose, times)
                yield nodes
                for node in nodes.all.copy():
                    await nodes.stop(node)

    def choose(server: Server) -> None:
        monkeypatch.setattr(worlds, "PLACE_OF", lambda _: server)

    return opened

"""A PostgreSQL server that a test may stop, damage and set up in its own way, and several nodes on one database."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from tests import world as worlds
from tests.journal.furnished import furnish, opened
from tests.journal.postgres.nodes import QUICK, Nodes, Open
from tests.patience import PATIENCE_SECONDS
from tests.postgres_server import PostgresServer, server_or_skip
from webhookd.base.database_url import parse
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
    return _opening(empty_database, tmp_path, monkeypatch)


@pytest.fixture
def own_database(own_server: PostgresServer) -> Iterator[str]:
    """The URL of a database on a server that the test may stop."""
    with own_server.database() as name:
        yield own_server.url(name)


@pytest.fixture
def open_own_nodes(own_database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """As `open_nodes`, on `own_database`."""
    return _opening(own_database, tmp_path, monkeypatch)


def _opening(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    @asynccontextmanager
    async def opened(times: LeaseTimes = QUICK) -> AsyncIterator[Nodes]:
        with trio.fail_after(4 * PATIENCE_SECONDS):
            async with trio.open_nursery() as nursery:
                nodes = Nodes(url, tmp_path, nursery, choose, times)
                yield nodes
                for node in nodes.all.copy():
                    await nodes.stop(node)

    def choose(server: Server) -> None:
        monkeypatch.setattr(worlds, "PLACE_OF", lambda _: server)

    return opened


@pytest.fixture(scope="session")
def furnished_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal with something in every table, which tests copy."""
    path = tmp_path_factory.mktemp("furnished") / "webhookd.db"

    async def fill() -> None:
        async with opened(path) as store:
            await furnish(store)

    trio.run(fill)
    return path


@pytest.fixture
def file(furnished_file: Path, tmp_path: Path) -> Path:
    """A journal with something in every table."""
    return Path(shutil.copy(furnished_file, tmp_path))


@pytest.fixture
def server(empty_database: str) -> Server:
    """A database without tables."""
    return Server(url=parse(empty_database))

"""A PostgreSQL server that a test may stop, damage and set up in its own way."""

from collections.abc import Iterator

import pytest

from tests.postgres_server import PostgresServer, server_or_skip


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

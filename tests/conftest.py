"""Settings of every test: a log that shows only warnings, and no time limit for a hypothesis example."""

import signal
from collections.abc import Iterator

import pytest

from tests.postgres_server import PostgresServer, server_or_skip
from webhookd.config import LogConfig
from webhookd.observe import logs


def pytest_configure(config: pytest.Config) -> None:
    """Make the tests independent of the machine's speed, and of how they were started.

    By default a hypothesis example fails after 200 ms, which only shows that the machine paused. A shell makes its
    background jobs ignore SIGINT, and so would every command that a test starts and interrupts.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.pluginmanager.hasplugin("hypothesispytest"):  # `tests.versions --quick` installs only pytest-trio
        from hypothesis import settings  # noqa: PLC0415 - not always installed

        settings.register_profile("without deadlines", deadline=None)
        settings.load_profile("without deadlines")


@pytest.fixture(autouse=True)
def quiet_log() -> None:
    logs.configure(LogConfig(level="warning", format="json"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """The PostgreSQL server of this test process; tests leave it running."""
    with server_or_skip() as server:
        yield server


@pytest.fixture
def empty_database(postgres_server: PostgresServer) -> Iterator[str]:
    """The URL of a new database without tables."""
    with postgres_server.database() as name:
        yield postgres_server.url(name)


@pytest.fixture(scope="session")
def journal_template(postgres_server: PostgresServer) -> Iterator[str]:
    """A database with the journal's tables, which each test gets a copy of."""
    from tests.journal.postgres.connections import connected  # noqa: PLC0415 - the driver isn't always installed
    from webhookd.journal.postgres.migrations import prepare  # noqa: PLC0415 - as above

    with postgres_server.database() as name:
        with connected(postgres_server.url(name)) as database:
            prepare(database, now=0.0)
        yield name


@pytest.fixture
def journal_database(postgres_server: PostgresServer, journal_template: str) -> Iterator[str]:
    """The URL of a new database with the journal's tables."""
    with postgres_server.database(journal_template) as name:
        yield postgres_server.url(name)

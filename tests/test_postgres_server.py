"""The PostgreSQL server of the tests: it ends with them, and each test has a database of its own."""

import signal
import subprocess
import sys
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.patience import PATIENCE_SECONDS, wait_until
from tests.postgres_server import CHOICE, OWNER, PostgresServer, find_programs, remove_left, server_or_skip

ROOT = Path(__file__).parents[1]
START = """
from tests.postgres_server import server_or_skip
with server_or_skip() as server:
    print(server.directory, server.pid, flush=True)
    input()
"""


def ends_with_its_test(how: signal.Signals) -> Path:
    """Start a server in a process of its own, end that, and return the server's directory once the server has ended."""
    with subprocess.Popen(
        [sys.executable, "-c", START], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            directory, pid = process.stdout.readline().split()
            assert psutil.pid_exists(int(pid))
            process.send_signal(how)
            process.wait(PATIENCE_SECONDS)
            wait_until(lambda: not psutil.pid_exists(int(pid)))
        finally:
            process.kill()
    return Path(directory)


def test_it_ends_with_the_tests(postgres_server: PostgresServer) -> None:
    """An interrupted run of the tests leaves no server and no directory."""
    assert not ends_with_its_test(signal.SIGINT).exists()


def test_it_ends_with_killed_tests(postgres_server: PostgresServer) -> None:
    """A killed run of the tests leaves no server, and a directory that a later run removes; a used one stays."""
    left = ends_with_its_test(signal.SIGKILL)
    remove_left(left.parent, seconds=PATIENCE_SECONDS)
    assert left.exists(), "it may be about to be locked"
    remove_left(left.parent, seconds=0)
    assert not left.exists()
    assert postgres_server.directory.exists()


def test_a_crash_loses_nothing_that_was_committed() -> None:
    """A server that was killed starts again with its databases, and with what they had committed."""
    with server_or_skip() as server, server.database() as name:
        with psycopg.connect(server.url(name)) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 5 AS number")
        server.kill()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(server.url(name))
        server.start()
        with psycopg.connect(server.url(name)) as connection:
            assert connection.execute("SELECT number FROM kept").fetchall() == [(5,)]


def test_each_test_has_a_database_of_its_own(postgres_server: PostgresServer) -> None:
    """A database is dropped also if the test left a connection to it; its owner is no superuser."""
    with postgres_server.database() as first, postgres_server.database() as second:
        connection = psycopg.connect(postgres_server.url(first), autocommit=True)
        connection.execute("CREATE TABLE found AS SELECT 1")
        with psycopg.connect(postgres_server.url(second)) as other:
            assert other.execute("SELECT to_regclass('found')").fetchone() == (None,)
            role = other.execute("SELECT rolname, rolsuper FROM pg_roles WHERE rolname = current_user")
            assert role.fetchone() == (OWNER, False)
    with pytest.raises(psycopg.OperationalError):
        connection.execute("SELECT 1")
    connection.close()
    with postgres_server.administer() as administrator:
        names = [name for (name,) in administrator.execute("SELECT datname FROM pg_database")]
    assert first not in names


def test_commits_are_synced(postgres_server: PostgresServer) -> None:
    """The server syncs its commits: the tests of crashes need that."""
    with postgres_server.administer() as connection:
        for setting in ("fsync", "synchronous_commit", "full_page_writes"):
            assert connection.execute(f"SHOW {setting}").fetchone() == ("on",)


def test_a_chosen_server_must_be_there(tmp_path: Path) -> None:
    """The variable decides which PostgreSQL is tested, and a wrong value doesn't skip all tests."""
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch(mode=0o755)
    assert find_programs({CHOICE: str(tmp_path)}) == tmp_path
    with pytest.raises(AssertionError, match=CHOICE):
        find_programs({CHOICE: str(tmp_path / "missing")})

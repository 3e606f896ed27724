"""Start a real PostgreSQL server for the tests, on a Unix socket in a temporary directory.

Each process that runs tests starts one at the first test that needs it, and makes a database for each test. The server
runs as a user without rights if the tests run as root, since PostgreSQL refuses root. It ends with the process that
started it, however that ends; a directory that a killed process left is removed at the next start. The variable
`WEBHOOKD_TEST_POSTGRES` names the directory of `initdb` and `postgres` to use instead of the newest on the machine.
"""

import fcntl
import itertools
import os
import re
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self
from urllib.parse import quote, urlencode

import pytest

from tests.patience import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    import psycopg

CHOICE = "WEBHOOKD_TEST_POSTGRES"
OWNER = "webhookd"
"""The role that owns each database, as a user of webhookd would set it up: it is no superuser."""

ICU_SINCE = 15
"""From this version on, text without a collation of its own is sorted by language."""

_PREFIX = "webhookd-postgres-"
_LOCK = "lock"
_MADE_SECONDS = 60  # after that long, a directory that nobody has locked was left by a killed process
_MEMORY = Path("/dev/shm")  # noqa: S108 - a database is made in a tenth of the time that a busy disk needs for it
_ROOM_BYTES = 1 << 30
_UNPRIVILEGED = "nobody"
_SETTINGS = {
    "listen_addresses": "",
    "port": "5432",  # only the name of the socket
    "max_connections": "100",
    "shared_buffers": "16MB",
    "max_wal_size": "128MB",
    "min_wal_size": "32MB",
    # Segments that a killed server leaves are removed with its directory.
    "dynamic_shared_memory_type": "mmap",
    # Each transaction of autovacuum would keep the feed of events from going on for a moment: none begins in a day.
    "autovacuum_naptime": "1d",
}


def find_programs(environ: Mapping[str, str]) -> Path | None:
    """Return the directory of the PostgreSQL that the tests use: the chosen one, else the newest of Debian's packages.

    On other systems it is the one on the PATH. Returns None if there is none, and fails for a choice that isn't there.
    """
    if chosen := environ.get(CHOICE):
        place = Path(chosen)
        assert (place / "initdb").is_file(), f"{CHOICE} must be a directory with initdb and postgres: {chosen}"
        return place
    packaged = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "initdb").is_file()]
    if packaged:
        return max(packaged, key=lambda path: int(path.parent.name))
    on_path = shutil.which("initdb", path=environ.get("PATH", ""))
    return None if on_path is None else Path(on_path).resolve().parent


class PostgresServer:
    """A PostgreSQL server in a new directory, with fsync on and text sorted by language; it runs inside `with`.

    `wrapper` is a command that replaces itself with the command after it: the server runs under it. `on_disk` keeps the
    directory out of memory.
    """

    def __init__(
        self,
        programs: Path,
        settings: Mapping[str, str] | None = None,
        *,
        wrapper: Sequence[str] = (),
        on_disk: bool = False,
    ) -> None:
        self._programs = programs
        self._wrapper = wrapper
        self._on_disk = on_disk
        self.settings = _SETTINGS | dict(settings or {})
        """The server's settings from its next start."""
        said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        found = re.search(r"(\d+)[.\w]*", said)
        assert found is not None, said
        self.version = int(found[1])
        """The major version."""
        self._numbers = itertools.count(1)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        """Create the cluster and start the server."""
        has_memory = _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM_BYTES
        parent = _MEMORY if has_memory and not self._on_disk else Path(tempfile.gettempdir())
        remove_left(parent)
        self.directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        self._lock = os.open(self.directory / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        try:
            if os.geteuid() == 0:
                shutil.chown(self.directory, _UNPRIVILEGED)
            # ICU sorts "a_" before "aa" and after "a": a query that needs the order of bytes must ask for it.
            by_language = ["--locale-provider=icu", "--icu-locale=en"] if self.version >= ICU_SINCE else []
            self._run(
                *(self._programs / "initdb", "--pgdata", self.data, "--username", "postgres"),
                *("--auth", "trust", "--encoding", "UTF8", "--locale", "C", "--no-sync", "--no-instructions"),
                *by_language,
            )
            self.start()
            with self.administer() as connection:
                connection.execute(f"CREATE ROLE {OWNER} LOGIN")
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop the server and remove its directory."""
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)
        os.close(self._lock)

    @property
    def data(self) -> Path:
        """The directory of the cluster."""
        return self.directory / "data"

    @property
    def access(self) -> Path:
        """The file that says which users need a password."""
        return self.data / "pg_hba.conf"

    @property
    def pid(self) -> int:
        """The process that ends the whole server if it ends."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        import psycopg  # noqa: PLC0415 - `tests.versions --quick` imports this module without the driver

        settings = [f"--{name}={value}" for name, value in self.settings.items()]
        with (self.directory / "log").open("ab") as log:
            self._process = _launch(
                [
                    *self._wrapper,
                    *_as_user("--pdeathsig", "QUIT"),
                    *(str(self._programs / "postgres"), "-D", str(self.data)),
                    *(f"--unix_socket_directories={self.directory}", *settings),
                ],
                log,
            )

        def accepts() -> bool:
            assert self._process is not None
            assert self._process.poll() is None, (self.directory / "log").read_text()
            with suppress(psycopg.OperationalError), self.administer():
                return True
            return False

        wait_until(accepts)

    def stop(self) -> None:
        """Stop the server as an administrator does: connections are ended, and transactions rolled back."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Stop the server as a crash does; the next start recovers what was committed."""
        self._end(signal.SIGQUIT)

    def kill_all(self) -> None:
        """Kill each process of the server with SIGKILL, and return once they are gone."""
        import psutil  # noqa: PLC0415 - as in `start`

        running = psutil.Process(self.pid).children()
        self._end(signal.SIGKILL)
        for process in running:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(running, PATIENCE_SECONDS)

    def url(self, database: str = "postgres", *, user: str = OWNER) -> str:
        """Return the URL of a database on the Unix socket."""
        place = {"host": str(self.directory), "port": self.settings["port"]}
        return f"postgresql://{quote(user)}@/{quote(database)}?{urlencode(place)}"

    @contextmanager
    def administer(self, database: str = "postgres") -> Iterator["psycopg.Connection"]:
        """Yield a connection of the superuser, each of whose statements commits."""
        import psycopg  # noqa: PLC0415 - as in `start`

        with psycopg.connect(
            self.url(database, user="postgres"), autocommit=True, connect_timeout=int(PATIENCE_SECONDS)
        ) as connection:
            yield connection

    @contextmanager
    def database(self, template: str = "template1", options: str = "") -> Iterator[str]:
        """Yield the name of a new database, a copy of a template that nobody is connected to; it is dropped after."""
        name = f"test_{next(self._numbers)}"
        with self.administer() as connection:
            connection.execute(f"CREATE DATABASE {name} OWNER {OWNER} TEMPLATE {template} {options}")
        try:
            yield name
        finally:
            # A test may have stopped the server.
            if self._process is not None:
                with self.administer() as connection:
                    connection.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(number)
            process.wait(PATIENCE_SECONDS)

    def _run(self, *command: str | Path) -> None:
        done = subprocess.run([*_as_user(), *map(str, command)], cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


def _launch(command: Sequence[str], log: BinaryIO) -> "subprocess.Popen[bytes]":
    """Start a process in a thread that lives as long: the kernel tells it of the end of the thread that started it."""
    started: Future[subprocess.Popen[bytes]] = Future()

    def run() -> None:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")
        except OSError as error:
            started.set_exception(error)
            return
        started.set_result(process)
        process.wait()

    threading.Thread(target=run, daemon=True).start()
    return started.result()


def _as_user(*options: str) -> Sequence[str]:
    """Return the command that runs another one without root's rights."""
    if os.geteuid() == 0:
        options = ("--reuid", _UNPRIVILEGED, "--regid", "nogroup", "--clear-groups", *options)
    return ("setpriv", *options) if options else ()


def remove_left(parent: Path, *, seconds: float = _MADE_SECONDS) -> None:
    """Remove the directories of test processes that were killed, if they are older than this."""
    for directory in parent.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # another user's, or another process removes it too
            if time.time() - directory.stat().st_mtime < seconds:
                continue
            descriptor = os.open(directory / _LOCK, os.O_RDWR | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(directory, ignore_errors=True)
            finally:
                os.close(descriptor)


def server_or_skip(settings: Mapping[str, str] | None = None) -> PostgresServer:
    """Return a server, which `with` starts; skip the test where PostgreSQL isn't installed."""
    programs = find_programs(os.environ)
    if programs is None:
        pytest.skip("postgresql isn't installed")
    return PostgresServer(programs, settings)

"""Opening the journal's file: its lock, its pragmas, and what its errors mean. The only place that knows apsw.

apsw brings a current SQLite: releases 3.7.0 to 3.51.2 can corrupt a WAL database when two connections write or
checkpoint at once (https://sqlite.org/wal.html#walresetbug), and a system's own library is often one of those.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw
from peewee import Database, PeeweeException
from playhouse.apsw_ext import APSWDatabase

from webhookd.errors import CommandError, JournalError, ReadTimeoutError, WebhookdError
from webhookd.journal.copies import copy_aside
from webhookd.journal.migrations import APPLICATION_ID, CURRENT_VERSION, migrate
from webhookd.logs import get_logger

T = TypeVar("T")

SQLITE_VERSION = apsw.sqlite_lib_version()

BUSY_TIMEOUT_SECONDS = 5
_CHECKPOINT_PAGES = 4000
_STEPS_BETWEEN_CLOCK_LOOKS = 5000
_FORMAT_ERRORS = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)

_log = get_logger("journal")


class JournalFullError(WebhookdError):
    """There is no room on the disk, or none that the configuration allows; SQLite has rolled back by itself."""


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock beside the journal `path`; CommandError where another process has it.

    The lock is the kernel's (flock), so a killed process leaves none behind; the file itself stays. Made by root, it
    belongs to whom the journal does, or else its directory: a command that root runs must not lock out the server.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    lock_path = path.with_name(path.name + ".lock")
    try:
        descriptor = _open_lock(lock_path, path)
    except OSError as error:
        raise CommandError(f"can't open the lock {lock_path}: {error.strerror}") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(f"the journal {path} is in use by another webhookd (lock {lock_path})") from error
        yield
    finally:
        os.close(descriptor)


def _open_lock(lock_path: Path, path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        # Exclusively, which follows no link: only what was made here is ever given away.
        descriptor = os.open(lock_path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(lock_path, flags | os.O_CREAT, 0o600)
    if os.geteuid() == 0:
        owner = (path if path.exists() else path.parent).stat()
        os.fchown(descriptor, owner.st_uid, owner.st_gid)
    return descriptor


def open_writer(path: Path, *, now: float) -> Database:
    """Open the one connection that writes and checkpoints, on a file that is made or migrated as needed.

    Before the first step of an upgrade the file is copied whole, beside itself.
    Raises JournalError for a file that is no journal, is damaged, or was written by a newer version.
    """
    if not path.exists():
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    database: Database = APSWDatabase(
        str(path),
        pragmas={
            # Before the first page is written; later it would cost a full VACUUM.
            "auto_vacuum": "INCREMENTAL",
            "journal_mode": "WAL",
            # With NORMAL a power cut loses acknowledged events.
            "synchronous": "FULL",
            "foreign_keys": "ON",
            "wal_autocheckpoint": _CHECKPOINT_PAGES,
            "cache_size": -8_000,
            "temp_store": "MEMORY",
        },
        lock_type="IMMEDIATE",
        thread_safe=False,
        timeout=BUSY_TIMEOUT_SECONDS,
    )
    with translated(path):
        refuse_foreign(path)
        database.connect()
        version = database.execute_sql("PRAGMA user_version").fetchone()[0]
        if version > CURRENT_VERSION:
            raise JournalError(
                f"the journal {path} has version {version} and this webhookd knows {CURRENT_VERSION}: run the newer one"
            )
        if version == 0:
            if database.execute_sql("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise JournalError(f"{path} is a SQLite database, but not a journal of webhookd")
            database.execute_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        elif version < CURRENT_VERSION:
            copy = copy_aside(database.connection(), path, copy_before_upgrade(path).name)
            _log.info("journal.upgrading", version=version, to=CURRENT_VERSION, copy=str(copy))
        migrate(database, version=version, now=now)
    return database


def copy_before_upgrade(path: Path) -> Path:
    """Return where a journal is copied to before its tables are brought to this program's version."""
    return path.with_name(f"{path.name}.before-v{CURRENT_VERSION}")


class Reader:
    """A connection that can only read, one query function at a time, each on one snapshot and within a time limit."""

    def __init__(self, path: Path, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._deadline = 0.0
        self._database = APSWDatabase(
            str(path),
            pragmas={"query_only": "ON", "wal_autocheckpoint": 0, "cache_size": -2_000, "temp_store": "MEMORY"},
            thread_safe=False,
            timeout=BUSY_TIMEOUT_SECONDS,
        )
        self._path = path
        with translated(path):
            self._database.connect()
            self._database.connection().set_progress_handler(self._is_late, _STEPS_BETWEEN_CLOCK_LOOKS)

    def run(self, query: Callable[[Database], T]) -> T:
        """Run `query` in one read transaction; ReadTimeoutError past the limit. Blocks."""
        self._deadline = time.monotonic() + self._limit_seconds
        with translated(self._path), self._database.atomic():
            return query(self._database)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _is_late(self) -> bool:
        return time.monotonic() > self._deadline


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise what SQLite says in webhookd's terms: JournalFullError, ReadTimeoutError, else JournalError."""
    try:
        yield
    except (PeeweeException, apsw.Error) as error:
        cause = _apsw_error(error)
        if isinstance(cause, apsw.FullError):
            raise JournalFullError(f"no room for the journal {path}") from error
        if isinstance(cause, apsw.InterruptError):
            raise ReadTimeoutError("the query took too long; ask for less") from error
        if isinstance(cause, _FORMAT_ERRORS):
            raise JournalError(f"the journal {path} is damaged or no SQLite file: {cause}") from error
        if isinstance(cause, apsw.IOError | apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError):
            raise JournalError(f"the journal {path} can't be read or written: {cause}") from error
        raise


def is_logic_error(error: Exception) -> bool:
    """Whether an error of SQLite is about a statement (a bug of ours), not about the file."""
    return isinstance(error, PeeweeException | apsw.Error)


def size_bytes(database: Database) -> int:
    """Return how much of the file holds something."""
    page_size, pages, free = (
        database.execute_sql(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    return int(page_size * (pages - free))


def refuse_foreign(path: Path, *, called: Path | None = None) -> None:
    """Look at the header before SQLite touches the file: opening a foreign database would change its journal mode.

    The error speaks of the file as `called`.
    """
    named = called or path
    with path.open("rb") as file:
        header = file.read(100)
    if not header:
        return
    if not header.startswith(b"SQLite format 3\x00") or len(header) < 100:
        raise JournalError(f"{named} is not a journal of webhookd: it is no SQLite file")
    application_id = int.from_bytes(header[68:72], "big")
    if application_id not in {APPLICATION_ID, 0}:
        raise JournalError(f"{named} is a SQLite database of another program, not a journal of webhookd")


def _apsw_error(error: BaseException | None) -> apsw.Error | None:
    while error is not None and not isinstance(error, apsw.Error):
        error = error.__cause__ or error.__context__
    return error

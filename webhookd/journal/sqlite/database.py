"""Open the journal's file: its lock, its pragmas, and the translation of SQLite's errors.

apsw brings a current SQLite: releases 3.7.0 to 3.51.2 can corrupt a WAL database when two connections write or
checkpoint at once (https://sqlite.org/wal.html#walresetbug), and a system's own library is often one of those.
"""

import errno
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

from webhookd.base.errors import CommandError, JournalError, ReadTimeoutError
from webhookd.base.files import check_file, make_directory, open_file, refusal
from webhookd.base.stages import reached
from webhookd.journal.errors import DiskError, JournalFullError
from webhookd.journal.sqlite.copies import copy_aside
from webhookd.journal.sqlite.migrations import APPLICATION_ID, CURRENT_VERSION, migrate
from webhookd.observe.logs import get_logger

T = TypeVar("T")

SQLITE_VERSION = apsw.sqlite_lib_version()

BUSY_TIMEOUT_SECONDS = 5
HURRIED_SECONDS = 0.5
_CHECKPOINT_PAGES, _FEWEST_CHECKPOINT_PAGES = 4000, 64
_PAGE_BYTES = 4096
_SIDE_FILES = ("-wal", "-shm", ".reserve")
_LOG_SHARE_OF_DISK = 16
_STEPS_BETWEEN_CLOCK_LOOKS = 5000
_UNDO_MAGIC = bytes.fromhex("d9d505f920a163d7")  # https://sqlite.org/fileformat2.html#the_rollback_journal
_FORMAT_ERRORS = (apsw.CorruptError, apsw.NotADBError, apsw.FormatError)

_log = get_logger("journal")


@contextmanager
def exclusive_lock(path: Path) -> Iterator[None]:
    """Hold the lock of the journal `path`; raises CommandError if another process holds it.

    The lock is the kernel's (flock) on a file next to the journal, so a killed process leaves no lock behind, although
    the file stays. If root makes the file, it gets the owner of the journal, or of its directory: a command that root
    runs must not lock out the server.
    """
    lock_path = path.with_name(path.name + ".lock")
    with _reachable(path):
        make_directory(path.parent, mode=0o750)
        descriptor = _open_lock(lock_path, path)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CommandError(f"the journal {path} is in use by another webhookd (lock {lock_path})") from error
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _reachable(path: Path) -> Iterator[None]:
    """Raise CommandError if the operating system denies access to the journal's file or directory."""
    try:
        yield
    except OSError as error:
        refused = Path(error.filename or path)
        raise CommandError(
            f"can't write {refused}: {refusal(error, path, 'set journal.path to another place')}"
        ) from error


def _check_surroundings(path: Path) -> None:
    """Raise an OSError for the first file or directory that the journal needs and that this user can't write.

    SQLite makes and deletes its log next to the journal. Root may have left files there, by a command or a copy.
    """
    for needed in (path.parent, *(path.with_name(path.name + end) for end in _SIDE_FILES)):
        if needed.exists() and not os.access(needed, os.W_OK, effective_ids=True):
            is_read_only = bool(os.statvfs(needed).f_flag & os.ST_RDONLY)
            code = errno.EROFS if is_read_only else errno.EACCES
            raise OSError(code, os.strerror(code), str(needed))


def _open_lock(lock_path: Path, path: Path) -> int:
    flags = os.O_RDWR | os.O_CLOEXEC
    try:
        # Exclusively, which follows no link: only a file that was made here changes its owner.
        descriptor = os.open(lock_path, flags | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return os.open(lock_path, flags | os.O_CREAT, 0o600)
    if os.geteuid() == 0:
        found = (path if path.exists() else path.parent).stat()
        owner = (found.st_uid, found.st_gid)
        # Called only if it changes something: a service's filter of system calls forbids it.
        if owner != (os.geteuid(), os.getegid()):
            os.fchown(descriptor, *owner)
    return descriptor


def open_writer(path: Path, *, now: float) -> Database:
    """Open the one connection that writes and checkpoints, on a file that is created or migrated if needed.

    Before the first step of an upgrade, the whole file is copied to one next to it. Raises CommandError for a place
    where this user can't write, and JournalError for a file that is no journal, is damaged, or was written by a newer
    version.
    """
    with _reachable(path):
        # SQLite would open a read-only file, and fail at the first write with a message of its own.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            check_file(descriptor, path)
        finally:
            os.close(descriptor)
        _check_surroundings(path)
    database: Database = APSWDatabase(
        str(path),
        pragmas={
            # Before the first page is written; later it would cost a full VACUUM.
            "auto_vacuum": "INCREMENTAL",
            "journal_mode": "WAL",
            # With NORMAL a power cut loses acknowledged events.
            "synchronous": "FULL",
            "wal_autocheckpoint": _checkpoint_pages(path),
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
            copy = copy_before_upgrade(path, version)
            back = f", or go back to what was before the upgrade: webhookd restore {copy}" if copy.exists() else ""
            raise JournalError(
                f"the journal {path} has version {version} and this webhookd knows {CURRENT_VERSION}: "
                f"run the newer one{back}"
            )
        if version == 0:
            if database.execute_sql("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                raise JournalError(f"{path} is a SQLite database, but not a journal of webhookd")
            database.execute_sql(f"PRAGMA application_id = {APPLICATION_ID}")
        elif version < CURRENT_VERSION:
            copy = copy_aside(database.connection(), path, copy_before_upgrade(path).name)
            _log.info("journal.upgrading", version=version, to=CURRENT_VERSION, copy=str(copy))
        with _sorting_in_files(database, path.parent):
            migrate(database, version=version, now=now)
        reached("migration.committed")
    return database


@contextmanager
def _sorting_in_files(database: Database, directory: Path) -> Iterator[None]:
    """Have SQLite sort in files of that directory, not in memory.

    It makes an index by sorting, and a migrated queue may have millions of rows. The system's own place for temporary
    files may be read-only.
    """
    quoted = str(directory).replace("'", "''")
    database.execute_sql(f"PRAGMA temp_store_directory = '{quoted}'").fetchall()
    database.execute_sql("PRAGMA temp_store = FILE")
    try:
        yield
    finally:
        database.execute_sql("PRAGMA temp_store = MEMORY")
        database.execute_sql("PRAGMA temp_store_directory = ''").fetchall()


def _checkpoint_pages(path: Path) -> int:
    """Return after how many pages the log is checkpointed: on a small disk its room and the file's are scarce."""
    disk = os.statvfs(path)
    fitting = disk.f_blocks * disk.f_frsize // _LOG_SHARE_OF_DISK // _PAGE_BYTES
    return min(_CHECKPOINT_PAGES, max(fitting, _FEWEST_CHECKPOINT_PAGES))


def leave_log(database: Database) -> None:
    """Leave the log unchanged when the connection closes: after a failed sync, the next one would wrongly succeed."""
    database.connection().config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)


def copy_before_upgrade(path: Path, version: int = CURRENT_VERSION) -> Path:
    """Return the path to which a journal is copied before its tables are migrated to a version."""
    return path.with_name(f"{path.name}.before-v{version}")


class ReadLimit:
    """How many seconds a query of a reader may take; shared by all readers."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._usual_seconds = seconds
        self._is_over = False

    def hurry(self, is_needed: bool) -> None:
        """Give all queries less time, also those that run already, while it is needed."""
        if not self._is_over:
            self.seconds = min(HURRIED_SECONDS, self._usual_seconds) if is_needed else self._usual_seconds

    def end(self) -> None:
        """Give queries no more time: the server is stopping."""
        self._is_over = True
        self.seconds = 0.0


class SqliteReader:
    """A connection that can only read, one query function at a time, each on one snapshot and within a time limit."""

    def __init__(self, path: Path, limit: ReadLimit) -> None:
        self._limit = limit
        self._began_at = 0.0
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
        """Run `query` in one read transaction; raises ReadTimeoutError after the limit. Blocks."""
        self._began_at = time.monotonic()
        with translated(self._path), self._database.atomic():
            return query(self._database)

    def close(self) -> None:
        """Close the connection."""
        self._database.close()

    def _is_late(self) -> bool:
        return time.monotonic() - self._began_at > self._limit.seconds


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Translate SQLite's errors: raise JournalFullError, ReadTimeoutError, DiskError or JournalError."""
    try:
        yield
    except (PeeweeException, apsw.Error) as error:
        cause = _apsw_error(error)
        if isinstance(cause, apsw.FullError) or _lacks_room_for_index(cause):
            raise JournalFullError(f"no room for the journal {path}") from error
        if isinstance(cause, apsw.InterruptError):
            raise ReadTimeoutError("the query took too long; ask for less") from error
        if isinstance(cause, _FORMAT_ERRORS):
            raise DiskError(f"the journal {path} is damaged or no SQLite file: {cause}") from error
        if isinstance(cause, apsw.IOError):
            raise DiskError(f"the journal {path} can't be read or written: {cause}") from error
        if isinstance(cause, apsw.CantOpenError | apsw.ReadOnlyError | apsw.PermissionsError):
            raise JournalError(f"the journal {path} can't be read or written: {cause}") from error
        raise


def _lacks_room_for_index(cause: apsw.Error | None) -> bool:
    """Whether the log's index, which is a shared-memory file next to it, could not be made larger."""
    return cause is not None and getattr(cause, "extendedresult", None) == apsw.SQLITE_IOERR_SHMSIZE


def is_logic_error(error: Exception) -> bool:
    """Whether an error is SQLite's about a statement, which is a bug of webhookd, and not about the file."""
    return isinstance(error, PeeweeException | apsw.Error)


def size_bytes(database: Database) -> int:
    """Return the size of the file without its free pages."""
    page_size, pages, free = (
        database.execute_sql(f"PRAGMA {name}").fetchone()[0] for name in ("page_size", "page_count", "freelist_count")
    )
    return int(page_size * (pages - free))


def refuse_foreign(path: Path, *, called: Path | None = None) -> None:
    """Raise JournalError for a file that is no journal, before SQLite opens it, which would change its journal mode.

    The error names the file `called`.
    """
    named = called or path
    with open_file(path) as file:
        header = file.read(100)
    if not header or _is_begun(path):
        return
    if not header.startswith(b"SQLite format 3\x00") or len(header) < 100:
        raise JournalError(f"{named} is not a journal of webhookd: it is no SQLite file")
    application_id = int.from_bytes(header[68:72], "big")
    if application_id not in {APPLICATION_ID, 0}:
        raise JournalError(f"{named} is a SQLite database of another program, not a journal of webhookd")


def _is_begun(path: Path) -> bool:
    """Whether a power cut interrupted SQLite's first write: its rollback journal says that the file had no page."""
    undo = path.with_name(path.name + "-journal")
    if not undo.is_file():
        return False
    with undo.open("rb") as file:
        header = file.read(20)
    return header.startswith(_UNDO_MAGIC) and header[16:] == bytes(4)


def _apsw_error(error: BaseException | None) -> apsw.Error | None:
    """Return SQLite's error among the causes of an error.

    If SQLite has rolled back by itself, as it does when the disk is full, the rollback to a savepoint fails too, and
    that error hides the first one.
    """
    found: apsw.Error | None = None
    while error is not None:
        if isinstance(error, apsw.Error) and (found is None or isinstance(found, apsw.SQLError)):
            found = error
        error = error.__cause__ or error.__context__
    return found

"""Copy a journal page by page, into a file that gets its name only once it is complete and on disk.

`Pages` uses SQLite's backup API on the writer's connection: commits of that connection between two steps are added to
the pages that are copied already, so the copy is the journal at the time of the last step. A second connection would
have to restart at each commit, or hold a snapshot, which makes the write-ahead log grow. It raises apsw's errors.
"""

import os
import time
from contextlib import suppress
from pathlib import Path

import apsw

from webhookd.base.errors import CommandError
from webhookd.base.files import refusal, sync_directory
from webhookd.base.stages import reached

STEP_SECONDS = 0.005
FIRST_STEP_PAGES = 64
_FEWEST_PAGES, _MOST_PAGES = 8, 1024
_MOST_RESTARTS = 10
_COUNTED = "SELECT name, seq FROM sqlite_sequence ORDER BY name"
_SIDES = ("-wal", "-shm", "-journal")


class UnfinishedFile:
    """A file next to `path`, of mode 0600, that becomes `path`; if root makes it, it belongs to `owner` (uid, gid)."""

    def __init__(self, path: Path, *, owner: tuple[int, int] | None = None) -> None:
        self.path = path
        self.unfinished = path.with_name(f".{path.name}.unfinished")
        try:
            # A killed process may have left one.
            self._remove()
            self._descriptor = os.open(self.unfinished, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise CommandError(f"can't write {path}: {refusal(error, path, 'name another file')}") from error
        if owner is not None and os.geteuid() == 0:
            os.fchown(self._descriptor, *owner)

    def fill(self, source: Path) -> None:
        """Copy a file into it; raises CommandError."""
        try:
            with source.open("rb") as file:
                while os.sendfile(self._descriptor, file.fileno(), None, 1 << 24):
                    pass
        except OSError as error:
            raise CommandError(f"can't copy {source} to {self.path}: {error.strerror}") from error

    def sync(self) -> None:
        """Sync what was written so far to disk."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise CommandError(f"can't write {self.path}: {error.strerror}") from error

    def finish(self, *, replace: bool) -> None:
        """Sync it and give it its name, in one step; raises CommandError for an existing file without `replace`."""
        reached("copy.filled")
        self.sync()
        try:
            if replace:
                self.unfinished.rename(self.path)
            else:
                # A rename would replace a file that another process has made meanwhile.
                os.link(self.unfinished, self.path)
            reached("copy.named")
            self.discard()
            sync_directory(self.path.parent)
        except FileExistsError as error:
            raise already_there(self.path) from error
        except OSError as error:
            raise CommandError(f"can't write {self.path}: {error.strerror}") from error

    def discard(self) -> None:
        """Delete the file if it isn't finished; may be called at any time."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
        with suppress(OSError):
            self._remove()

    def _remove(self) -> None:
        self.unfinished.unlink(missing_ok=True)
        for end in _SIDES:
            self.unfinished.with_name(self.unfinished.name + end).unlink(missing_ok=True)


class Pages:
    """Copies the pages of a database into another file; every method is called in the writer's thread.

    `counters` are the last row numbers that were assigned, as of the last step.
    """

    def __init__(self, source: apsw.Connection, path: Path) -> None:
        self._source = source
        # Not synced here, which would block the writer. Without a journal: an unfinished copy is deleted.
        self._target = apsw.Connection(str(path))
        try:
            self._target.execute("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").fetchall()
            self._backup = self._target.backup("main", source, "main")
        except BaseException:
            self._target.close()
            raise
        self._at_once = FIRST_STEP_PAGES
        self._restarts = 0
        self.copied = 0
        self.total = 0
        self.last_seconds = 0.0
        self.page_bytes = int(next(source.execute("PRAGMA page_size"))[0])
        self.counters: list[tuple[object, ...]] = []

    def step(self, pages: int | None = None) -> bool:
        """Copy `pages` pages, or as many as take some 5 ms; return True once all are copied.

        Raises CommandError if another program keeps writing to the journal.
        """
        began = time.perf_counter()
        done = self._backup.step(self._at_once if pages is None else pages)
        took = self.last_seconds = time.perf_counter() - began
        # It grows slowly: the last pages may have been in memory, and the next ones may not be.
        fitting = min(int(self._at_once * STEP_SECONDS / max(took, 1e-5)), self._at_once * 2)
        self._at_once = min(max(fitting, _FEWEST_PAGES), _MOST_PAGES)
        before, self.total = self.copied, self._backup.page_count
        self.copied = self.total - self._backup.remaining
        if self.copied < before:
            self._restarts += 1
            if self._restarts > _MOST_RESTARTS:
                raise CommandError("another program keeps writing to the journal: stop it and try again")
        if done:
            self.counters = counters(self._source)
        return bool(done)

    def close(self) -> None:
        """End the copying, complete or not."""
        self._backup.close(force=True)
        self._target.close()


def counters(connection: apsw.Connection) -> list[tuple[object, ...]]:
    """Return the last row number of each table, which grows with each event, delivery and audited change."""
    return list(connection.execute(_COUNTED))


def copy_aside(source: apsw.Connection, journal: Path, name: str) -> Path:
    """Copy a whole journal that nobody else uses to a file next to it, and replace an existing one; blocks."""
    status = journal.stat()
    file = UnfinishedFile(journal.with_name(name), owner=(status.st_uid, status.st_gid))
    try:
        pages = Pages(source, file.unfinished)
        try:
            pages.step(-1)
        finally:
            pages.close()
        file.finish(replace=True)
    finally:
        file.discard()
    return file.path


def already_there(path: Path) -> CommandError:
    """Return the error for a file that exists."""
    return CommandError(f"{path} is there already: take another name, or --force to replace it")

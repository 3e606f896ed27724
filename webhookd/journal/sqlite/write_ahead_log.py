"""The write-ahead log: only the writer checkpoints it, and keeps it short.

Each commit makes it longer. A checkpoint copies it into the file, and it starts from the beginning once no reader needs
its old part, so its length depends on readers. Against a long log there are three measures, the mildest first: it is
cut when no reader is in the way, webhookd's own readers get less time, and while another program's reader prevents the
cut, `is_long` makes events wait.
"""

from pathlib import Path

from peewee import Database

from webhookd.journal.errors import JournalFullError
from webhookd.journal.sqlite.database import BUSY_TIMEOUT_SECONDS, ReadLimit, translated

MEBIBYTE = 1024 * 1024
MOST_BYTES = 64 * MEBIBYTE  # its upper bound
CUT_BYTES = 24 * MEBIBYTE
HURRY_BYTES = 32 * MEBIBYTE
LONG_BYTES = 40 * MEBIBYTE


class WriteAheadLog:
    """The log of the writer's database; every method but `cut_soon` blocks, and is called in the writer's thread."""

    def __init__(self, database: Database, path: Path, limit: ReadLimit) -> None:
        self.is_long = False
        self._database = database
        self._path = path
        self._file = path.with_name(path.name + "-wal")
        self._limit = limit
        self._is_to_be_cut = False

    @property
    def size_bytes(self) -> int:
        """The size of the file, which may be more than the log's content."""
        return self._file.stat().st_size

    def cut_soon(self) -> None:
        """Cut it after the next commit, whatever its length."""
        self._is_to_be_cut = True

    def after_commit(self) -> None:
        """Cut it if that is due, and check whether readers keep it long."""
        size = self.size_bytes
        if (self._is_to_be_cut or size > CUT_BYTES) and self.cut():
            size = 0
        self._limit.hurry(size > HURRY_BYTES)
        self.is_long = size > LONG_BYTES

    def cut(self) -> bool:
        """Copy it into the file and empty it, if no reader is in the way and there is room; return whether it is cut.

        It doesn't wait for readers, because no commit could be made meanwhile. If it fails, no commit is lost.
        """
        try:
            self._database.execute_sql("PRAGMA busy_timeout = 0").fetchall()
            is_cut = self._checkpoint("TRUNCATE")
        except JournalFullError:
            is_cut = False
            self._is_to_be_cut = True  # tried again after the next commit
        finally:
            self._database.execute_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_SECONDS * 1000}").fetchall()
        if is_cut:
            self._is_to_be_cut = False
        return is_cut

    def _checkpoint(self, mode: str) -> bool:
        """Copy the log into the file; return whether all of it was copied, with no reader in the way."""
        with translated(self._path):
            [[is_blocked, _, _]] = self._database.execute_sql(f"PRAGMA wal_checkpoint({mode})").fetchall()
        return not is_blocked

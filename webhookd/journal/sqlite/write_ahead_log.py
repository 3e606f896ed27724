"""The write-ahead log: checkpointed by the writer alone, cut as soon as no reader is in the way, and kept short.

A commit grows it; a checkpoint brings it into the file, and it begins anew once no reader needs its old part. So its
length depends on readers. In the order of what they cost nobody: it is cut where it can be, webhookd's own readers are
given less time, and where another program's reader holds on, `is_long` says that events have to wait.
"""

from pathlib import Path

from peewee import Database

from webhookd.journal.sqlite.database import BUSY_TIMEOUT_SECONDS, JournalFullError, ReadLimit, translated

MEBIBYTE = 1024 * 1024
MOST_BYTES = 64 * MEBIBYTE  # what it stays below
CUT_BYTES = 24 * MEBIBYTE
HURRY_BYTES = 32 * MEBIBYTE
LONG_BYTES = 40 * MEBIBYTE


class WriteAheadLog:
    """The log of the database that the writer has open; every method but `cut_soon` blocks and is for its turn."""

    def __init__(self, database: Database, path: Path, limit: ReadLimit) -> None:
        self.is_long = False
        self._database = database
        self._path = path
        self._file = path.with_name(path.name + "-wal")
        self._limit = limit
        self._is_to_be_cut = False

    @property
    def size_bytes(self) -> int:
        """How long the file is, which is no shorter than what it holds."""
        return self._file.stat().st_size

    def cut_soon(self) -> None:
        """Have it cut after the next commit whatever its length."""
        self._is_to_be_cut = True

    def after_commit(self) -> None:
        """Cut it where that is due, and see whether readers let it grow."""
        size = self.size_bytes
        if (self._is_to_be_cut or size > CUT_BYTES) and self.cut():
            size = 0
        self._limit.hurry(size > HURRY_BYTES)
        self.is_long = size > LONG_BYTES

    def cut(self) -> bool:
        """Bring it into the file and empty it, unless a reader is in the way or there is no room; whether it is cut.

        Not waiting for readers, which would keep everybody from the disk. Nothing is taken back of what was committed.
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
        """Put the log into the file; return whether all of it went, with no reader in the way."""
        with translated(self._path):
            [[is_blocked, _, _]] = self._database.execute_sql(f"PRAGMA wal_checkpoint({mode})").fetchall()
        return not is_blocked

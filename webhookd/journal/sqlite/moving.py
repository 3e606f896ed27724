"""A journal's file as the source or the target of a move.

As the target it is a file under an unfinished name, which gets its own name, in one step, once all of it is verified
and on disk. Until then it has no version either.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from peewee import Database
from playhouse.apsw_ext import APSWDatabase

from webhookd.base.errors import CommandError, JournalError
from webhookd.journal.audit_entries import Chain
from webhookd.journal.moved_tables import NOT_UTF8, NUL, NUMBERED, Column, Kind, MovedRow, MovedTable, named
from webhookd.journal.sqlite.bulk import MOST_ROWS, BulkInsert
from webhookd.journal.sqlite.copies import UnfinishedFile
from webhookd.journal.sqlite.database import exclusive_lock, translated
from webhookd.journal.sqlite.inspection import Inspection, inspect, verified
from webhookd.journal.sqlite.migrations import APPLICATION_ID, CURRENT_VERSION, migrate

_MOST_BYTES = 1 << 20
"""So many bytes of rows are written together at most, or one row."""
_LOGS = ("-wal", "-journal")
# The types that SQLite may have stored a value as; it stores a whole REAL as an integer, and returns it as REAL.
_STORED_AS = {
    Kind.INTEGER: {"integer"},
    Kind.BOOLEAN: {"integer"},
    Kind.REAL: {"real"},
    Kind.TEXT: {"text"},
    Kind.BLOB: {"blob"},
}


class FileSide:
    """A journal's file, open for a move."""

    def __init__(self, path: Path, database: Database) -> None:
        self.name = str(path)
        self.database = database
        self.attempts = "attempts"

    def count(self, table: MovedTable) -> int:
        """Return how many rows a table has."""
        [(number,)] = self._run(f'SELECT count(*) FROM "{table.name}"')  # noqa: S608 - names of tables
        assert isinstance(number, int)  # noqa: S101 - it counts
        return number

    def rows(self, table: MovedTable) -> Iterator[MovedRow]:
        """Yield the rows of a table in the order of its key; SQLite reads each when it is asked for it."""
        return self._run(_select(table, _quoted(table.names())))

    def last_numbers(self) -> Mapping[str, int]:
        """Return the last number that was given out, for each of `NUMBERED`; 0 for none."""
        found = {str(name): number for name, number in self._run("SELECT name, seq FROM sqlite_sequence")}
        return {table: int(str(found.get(table, 0))) for table in NUMBERED}

    def _run(self, sql: str, values: Sequence[object] = ()) -> Iterator[MovedRow]:
        rows: Iterator[MovedRow] = self.database.connection().execute(sql, values)
        return rows


class FileSource(FileSide):
    """A journal's file that is only read."""

    def __init__(self, path: Path, database: Database, inspection: Inspection) -> None:
        super().__init__(path, database)
        self._inspection = inspection

    def examine(self) -> None:
        """Read the whole file; JournalError if it is damaged."""
        if complaints := self._inspection.bad_pages():
            raise JournalError(f"nothing was moved: {self.name} is damaged: {' '.join(complaints[0].split())}")

    def unfit(self, table: MovedTable) -> Iterator[tuple[str, str]]:
        """Yield the values that PostgreSQL would refuse: where each is, and what it holds."""
        key, columns = len(table.key), table.columns
        for row in self._run(_select(table, f"{_quoted(table.key)}, {', '.join(map(_examined, columns))}")):
            for column, value in zip(columns, row[key:], strict=True):
                if (what := _wrong(column, value)) is not None:
                    yield f"{named(table.key, list(row[:key]))}: {column.name}", what


def _examined(column: Column) -> str:
    """Return what is read of a column to examine its values: a text's bytes, or how the value is stored."""
    name = f'"{column.name}"'
    is_text = column.kind is Kind.TEXT
    return (
        f"CASE typeof({name}) WHEN 'text' THEN CAST({name} AS BLOB) ELSE typeof({name}) END"
        if is_text
        else (f"typeof({name})")
    )


def _wrong(column: Column, value: object) -> str | None:
    if isinstance(value, bytes):
        if 0 in value:
            return NUL
        try:
            value.decode()
        except UnicodeDecodeError:
            return NOT_UTF8
        return None
    if value == "null" or value in _STORED_AS[column.kind]:
        return None
    return f"a value stored as {value}, which is no {column.kind}"


class FileTarget(FileSide):
    """A new journal's file, under an unfinished name until `finish`."""

    def __init__(self, path: Path, file: UnfinishedFile, database: Database, now: float, *, is_again: bool) -> None:
        super().__init__(path, database)
        self._path = path
        self._file = file
        self._now = now
        self._is_again = is_again

    def check(self, mark: str) -> bool:  # noqa: ARG002 - an unfinished file is no journal, whatever it was to become
        """Return whether a move was cut off here."""
        return self._is_again

    def begin(self, mark: str) -> None:  # noqa: ARG002 - as above
        """Make the tables, empty."""
        for pragma in ("auto_vacuum = INCREMENTAL", "journal_mode = OFF", "synchronous = OFF", "cache_size = -8000"):
            self._execute(f"PRAGMA {pragma}")
        self._execute("PRAGMA temp_store = FILE")
        self._execute(f"PRAGMA application_id = {APPLICATION_ID}")
        migrate(self.database, version=0, now=self._now)
        self._execute("PRAGMA user_version = 0")
        self._execute("DELETE FROM event_types")  # those of a new journal

    def add(self, table: MovedTable, rows: Callable[[], Iterator[MovedRow]]) -> None:
        """Add rows, of which only few are in memory."""
        insert = BulkInsert(table.name, table.names())
        connection = self.database.connection()
        with self.database.atomic():
            for block in _blocks(rows()):
                insert.run(connection, block)

    def set_last_numbers(self, numbers: Mapping[str, int], chain: Chain) -> None:  # noqa: ARG002 - the entries have it
        """Have numbers go on after these."""
        with self.database.atomic():
            self._execute("DELETE FROM sqlite_sequence")
            for table, number in numbers.items():
                if number:
                    self._execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (table, number))

    def missing(self, chain: Chain) -> str | None:  # noqa: ARG002 - all of it is in the tables
        """Return None: SQLite has nothing next to its tables."""
        return None

    def finish(self) -> None:
        """Give the file its version, read all of it once more, and give it its name."""
        self._execute(f"PRAGMA user_version = {CURRENT_VERSION}")
        self.database.close()
        verified(self._file.unfinished, called=self._path)
        self._file.finish(replace=False)

    def _execute(self, sql: str, values: Sequence[object] = ()) -> None:
        for _ in self._run(sql, values):
            pass


class FileTrial(FileTarget):
    """A place for a file, which is only looked at."""

    def __init__(self, path: Path, *, is_again: bool) -> None:
        self.name = str(path)
        self._is_again = is_again


@contextmanager
def open_source(path: Path) -> Iterator[FileSource]:
    """Open a journal's file to be moved, under its lock; nothing in it changes.

    Raises CommandError if something uses it, it isn't there or is of an older version, and JournalError if it is no
    journal or damaged.
    """
    if not path.exists():
        raise CommandError(f"there is no journal {path}")
    with exclusive_lock(path), inspect(path) as inspection, translated(path):
        version, known = inspection.version()
        if version != known:
            remedy = "start `webhookd serve` once to upgrade it" if version < known else "use the newer webhookd"
            raise CommandError(f"the journal {path} has version {version} and this webhookd moves {known}: {remedy}")
        database = inspection.database
        database.execute_sql("PRAGMA temp_store = FILE").fetchall()  # a sort of all deliveries isn't for the memory
        yield FileSource(path, database, inspection)


@contextmanager
def open_target(path: Path, *, is_trial: bool, now: float) -> Iterator[FileTarget]:
    """Open a new file to move a journal to, under the lock of its path; in a trial nothing is made or locked.

    Raises CommandError if there is a file, or this user can't make one.
    """
    if is_trial:
        yield FileTrial(path, is_again=_check_free(path))
        return
    with exclusive_lock(path):
        is_again = _check_free(path)
        owner = path.parent.stat()
        file = UnfinishedFile(path, owner=(owner.st_uid, owner.st_gid))
        database = APSWDatabase(str(file.unfinished), thread_safe=False)
        try:
            with translated(path):
                database.connect()
                yield FileTarget(path, file, database, now, is_again=is_again)
        finally:
            database.close()
            file.discard()


def _check_free(path: Path) -> bool:
    """Return whether there is an unfinished file for a path; CommandError if the path is taken."""
    for taken in (path, *(path.with_name(path.name + end) for end in _LOGS)):
        if os.path.lexists(taken):
            raise CommandError(f"{taken} is there already: name a file that isn't, or move that one away")
    return path.with_name(f".{path.name}.unfinished").exists()


def _select(table: MovedTable, what: str) -> str:
    return f'SELECT {what} FROM "{table.name}" ORDER BY {_quoted(table.key)}'  # noqa: S608 - names of tables


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in names)


def _blocks(rows: Iterator[MovedRow]) -> Iterator[list[MovedRow]]:
    """Yield rows together, up to a number and a size."""
    block: list[MovedRow] = []
    size = 0
    for row in rows:
        block.append(row)
        size += sum(len(value) for value in row if isinstance(value, str | bytes))
        if len(block) == MOST_ROWS or size >= _MOST_BYTES:
            yield block
            block, size = [], 0
    if block:
        yield block

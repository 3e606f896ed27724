"""Inspect a journal without the store, next to a running server or without one.

The connection takes no lock of webhookd's and only reads. A write-ahead log that it finds stays where it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import apsw
from peewee import Database
from playhouse.apsw_ext import APSWDatabase

from webhookd.base.errors import CommandError, JournalError
from webhookd.journal.queries.master_key import sealing_key_id
from webhookd.journal.rows import Contents
from webhookd.journal.sqlite.copies import counters
from webhookd.journal.sqlite.database import is_logic_error, refuse_foreign, translated
from webhookd.journal.sqlite.migrations import APPLICATION_ID, CURRENT_VERSION
from webhookd.journal.views import Views

T = TypeVar("T")

_BUSY_TIMEOUT_SECONDS = 5
_MOST_COMPLAINTS = 20
_TRIGGERS = {"audit_appends", "audit_keeps", "audit_stays"}
_DANGLING = {
    f"{table} without their {what}": f"SELECT count(*) FROM {table} WHERE NOT EXISTS "  # noqa: S608 - names of tables
    f"(SELECT 1 FROM {other} WHERE {other}.pk = {table}.{column})"
    for table, what, other, column in (
        ("deliveries", "event", "events", "event_pk"),
        ("deliveries", "webhook", "endpoints", "endpoint_pk"),
        ("attempts", "delivery", "deliveries", "delivery_pk"),
        ("secrets", "webhook", "endpoints", "endpoint_pk"),
        ("replays", "webhook", "endpoints", "endpoint_pk"),
    )
}


@contextmanager
def _asking(path: Path) -> Iterator[None]:
    try:
        with translated(path):
            yield
    except Exception as error:
        if not is_logic_error(error):
            raise
        # The statements are right for a journal, so this file isn't one, or another program has changed it.
        raise JournalError(f"{path} has other tables than a journal of webhookd") from error


class Inspection(Views):
    """An open journal; every method raises JournalError if it finds the file damaged."""

    def __init__(self, path: Path, database: Database) -> None:
        self._path = path
        self._database = database

    @property
    def database(self) -> Database:
        """The connection, which only reads."""
        return self._database

    def ask(self, query: Callable[[Database], T]) -> T:
        """Run a query on one snapshot."""
        with _asking(self._path), self._database.atomic():
            return query(self._database)

    def version(self) -> tuple[int, int]:
        """Return the version of the tables, and the version that this program writes."""
        return self._number("PRAGMA user_version"), CURRENT_VERSION

    def is_empty(self) -> bool:
        """Whether the journal has no tables."""
        return self._number("SELECT count(*) FROM sqlite_schema") == 0

    def bad_pages(self) -> list[str]:
        """Return the errors that SQLite's `quick_check` finds; reads the whole file."""
        found = [str(row[0]) for row in self._rows(f"PRAGMA quick_check({_MOST_COMPLAINTS})")]
        return [] if found == ["ok"] else found

    def dangling(self) -> list[str]:
        """Return which rows refer to rows that don't exist, and how many of them there are."""
        found = {what: self._number(query) for what, query in _DANGLING.items()}
        return [f"{count} {what}" for what, count in found.items() if count]

    def contents(self) -> Contents:
        """Count what the journal contains; reads the tables of events and deliveries."""
        with _asking(self._path):
            key_id = sealing_key_id(self._database)
            counted = tuple(counters(self._database.connection()))
        [(last,)] = self._rows("SELECT max(accepted_at) FROM events")
        return Contents(
            version=self._number("PRAGMA user_version"),
            bytes=self._number("PRAGMA page_size") * self._number("PRAGMA page_count"),
            events=self._number("SELECT count(*) FROM events"),
            deliveries=self._number("SELECT count(*) FROM deliveries"),
            pending=self._number("SELECT count(*) FROM deliveries WHERE status = 'pending'")
            + self._number("SELECT count(*) FROM deliveries WHERE status = 'parked'"),
            last_event_at=last if isinstance(last, float) else None,
            key_id=key_id,
            counters=counted,
        )

    def has_audit_log(self) -> bool:
        """Whether the tables are of a version with an audit log."""
        return self._number("SELECT count(*) FROM sqlite_schema WHERE name = 'audit'") == 1

    def missing_triggers(self) -> list[str]:
        """Return the names of the missing triggers among those that protect the audit log from changes."""
        rows = self._rows("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'audit'")
        return sorted(_TRIGGERS - {row[0] for row in rows})

    def _number(self, sql: str) -> int:
        [(number,)] = self._rows(sql)
        assert isinstance(number, int)  # noqa: S101 - it counts
        return number

    def _rows(self, sql: str) -> list[tuple[object, ...]]:
        with _asking(self._path):
            return list(self._database.execute_sql(sql))


@contextmanager
def inspect(path: Path) -> Iterator[Inspection]:
    """Open the journal at `path` for an inspection.

    Raises JournalError if it is no journal or is damaged, and CommandError if this user can't read it or it is empty.
    """
    log = path.with_name(path.name + "-wal")
    database = APSWDatabase(
        str(path),
        pragmas={"query_only": "ON", "wal_autocheckpoint": 0, "temp_store": "MEMORY"},
        thread_safe=False,
        timeout=_BUSY_TIMEOUT_SECONDS,
    )
    try:
        found_log = log.exists() and log.stat().st_size > 0
        refuse_foreign(path)
    except OSError as error:
        raise CommandError(f"the journal {path} can't be read: {error.strerror}") from error
    with translated(path):
        database.connect()
    try:
        if found_log:
            # The last connection to close would write it into the file, which is the task of the server's start.
            database.connection().config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        journal = Inspection(path, database)
        if journal.version()[0] == 0 and journal.is_empty():
            raise CommandError(f"the journal {path} is empty: the next start makes its tables")
        yield journal
    finally:
        database.close()


@contextmanager
def inspect_copy(path: Path, *, called: Path) -> Iterator[Inspection]:
    """Open a copy that nobody writes to and that has no log, for an inspection; errors name it `called`.

    No file is made next to it. Raises JournalError if it is no journal, is damaged, or is of a newer version.
    """
    database = APSWDatabase(
        f"{path.absolute().as_uri()}?immutable=1",
        flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI,
        thread_safe=False,
    )
    with translated(called):
        refuse_foreign(path, called=called)
        database.connect()
    try:
        journal = Inspection(called, database)
        version, known = journal.version()
        [(application_id,)] = journal._rows("PRAGMA application_id")  # noqa: SLF001 - a few lines above
        if application_id != APPLICATION_ID or version == 0:
            raise JournalError(f"{called} is a SQLite database, but not a journal of webhookd")
        if version > known:
            raise JournalError(f"{called} has version {version} and this webhookd knows {known}: use the newer one")
        yield journal
    finally:
        database.close()


def verified(path: Path, *, called: Path) -> Contents:
    """Read a whole copy and return its contents; raises JournalError if it can't be trusted. Blocks."""
    with inspect_copy(path, called=called) as copy:
        complaints = copy.bad_pages()
        if complaints:
            raise JournalError(f"{called} is damaged: {' '.join(complaints[0].split())}")
        return copy.contents()

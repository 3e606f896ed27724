"""A journal on PostgreSQL as the source or the target of a move.

Both sides hold a lock that no server's start gets past. The source is one snapshot, in a transaction that keeps others
from writing: a server or a command that writes changes `writers` first. The target has no version until `finish`, but a
mark, by which the next move from the same source knows that it may begin it again.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import Connection

from webhookd.base.errors import CommandError
from webhookd.journal.audit_entries import Chain
from webhookd.journal.errors import ConnectionLostError, MustRepeatError
from webhookd.journal.moved_tables import NUMBERED, Kind, MovedRow, MovedTable
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase, connect
from webhookd.journal.postgres.migrations import (
    CURRENT_VERSION,
    MARK,
    MOVE_LOCK,
    VERSION,
    check_place,
    make_tables,
    read_mark,
    read_version,
    take_lock,
)
from webhookd.journal.postgres.moved_parts import ATTEMPTS, copy_from, copy_to, parts_of, read_of
from webhookd.journal.postgres.tables import TABLES
from webhookd.journal.server import Server

# A move takes as long as it takes, in transactions that wait for the other side, whose disk may stand for a while.
_TIMEOUT_SECONDS = 60
_PATIENT = {
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "tcp_user_timeout": f"{_TIMEOUT_SECONDS}s",
}
_ALIVE = """
SELECT name, id, round(extract(epoch FROM expires_at - clock_timestamp())::numeric, 1) FROM nodes
WHERE expires_at > clock_timestamp() ORDER BY name, id
"""
_IDENTITIES = ("endpoints", "events", "deliveries")


class DatabaseSide:
    """A database, open for a move."""

    def __init__(self, database: PostgresDatabase) -> None:
        self.name = database.name
        self.database = database
        self.attempts = ATTEMPTS

    @property
    def _connection(self) -> "Connection[Any]":
        connection: Connection[Any] = self.database.connection()
        return connection

    def count(self, table: MovedTable) -> int:
        """Return how many rows a table has, as they would be in a file."""
        return int(self._value(read_of(table).count))

    def rows(self, table: MovedTable) -> Iterator[MovedRow]:
        """Yield the rows of a table in the order of its key; the server sends each when it is asked for it."""
        sql, types = copy_to(table)

        def sent() -> Iterator[MovedRow]:
            with self._connection.cursor() as cursor, cursor.copy(sql) as copy:
                copy.set_types(types)
                yield from copy.rows()

        yield from read_of(table).merge(sent())

    def last_numbers(self) -> Mapping[str, int]:
        """Return the last number that was given out, for each of `NUMBERED`; 0 for none."""
        audited = self._value("SELECT number FROM heads WHERE name = 'audit'")
        return {table: audited if table == "audit" else self._last_identity(table) for table in NUMBERED}

    def _last_identity(self, table: str) -> int:
        sequence = self._value("SELECT pg_get_serial_sequence(%s, 'pk')", table)
        return int(self._value(f"SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM {sequence}"))

    def _value(self, sql: str, *values: object) -> Any:
        [[found]] = self._connection.execute(sql.encode(), values or None).fetchall()
        return found


class DatabaseSource(DatabaseSide):
    """A journal's database, of which a snapshot is read."""

    def examine(self) -> None:
        """Do nothing: PostgreSQL checks its own pages."""

    def unfit(self, table: MovedTable) -> Iterator[tuple[str, str]]:
        """Yield the values that SQLite would refuse: it stores what is no number as NULL."""
        for column in table.columns:
            if column.kind is Kind.REAL:
                source = read_of(table).source
                found = self._value(f"SELECT count(*) FROM {source} WHERE \"{column.name}\" = 'NaN'")
                if found:
                    yield f"{found} rows: {column.name}", "NaN"


class DatabaseTarget(DatabaseSide):
    """A database that a journal is moved to."""

    def __init__(self, database: PostgresDatabase, now: float) -> None:
        super().__init__(database)
        self._now = now

    def check(self, mark: str) -> bool:
        """Return whether a move of the same source was cut off here; CommandError if anything else is there."""
        if (version := read_version(self.database)) > 0:
            raise CommandError(
                f"{self.name} has a journal of version {version} already: name an empty database, or an empty schema "
                "of it (?options=-csearch_path%3DNAME)"
            )
        found = read_mark(self.database)
        if found not in {None, mark}:
            raise CommandError(
                f"{self.name} has a part of another journal, whose move was cut off: name an empty database, or drop "
                "what is in this one"
            )
        check_place(self.database, is_new=found is None)
        return found is not None

    def begin(self, mark: str) -> None:
        """Make the tables, empty and without a version, in place of those that a cut-off move has left."""
        with self.database.atomic():
            take_lock(self.database)
            if self.check(mark):
                self._connection.execute(f"DROP TABLE IF EXISTS {', '.join(TABLES)}".encode())
                self._connection.execute("DROP FUNCTION IF EXISTS audit_follows, audit_refuses")
            make_tables(self.database, now=self._now)
            self._connection.execute("DELETE FROM event_types")  # those of a new journal
            self._connection.execute("INSERT INTO meta (name, value) VALUES (%s, %s)", (MARK, mark.encode()))

    def add(self, table: MovedTable, rows: Callable[[], Iterator[MovedRow]]) -> None:
        """Add rows by COPY, in a transaction; CommandError for one that PostgreSQL refuses."""
        for part in parts_of(table):
            sql, types, row_of = copy_from(table, part)
            try:
                with self._connection.cursor() as cursor, cursor.copy(sql) as copy:
                    copy.set_types(types)
                    for row in rows():
                        copy.write_row(row_of(row))
            except (psycopg.DataError, psycopg.IntegrityError, psycopg.ProgrammingError) as error:
                raise CommandError(f"{self.name} refuses what is in {table.name}: {_said(error)}") from error
            except psycopg.OperationalError as error:
                if error.sqlstate != "54000":  # a value is too large for an index
                    raise
                raise CommandError(f"{self.name} refuses what is in {table.name}: {_said(error)}") from error

    def set_last_numbers(self, numbers: Mapping[str, int], chain: Chain) -> None:
        """Have numbers go on after these, and the audit log after the end of this chain."""
        last = {"endpoints": self._value("SELECT coalesce(max(pk), 0) FROM endpoints"), **numbers}
        with self.database.atomic():
            for table in _IDENTITIES:
                number = last[table]
                self._value(
                    "SELECT setval(pg_get_serial_sequence(%s, 'pk'), %s, %s)", table, max(number, 1), number > 0
                )
            head = chain.head if chain.entries else None
            self._connection.execute(
                "UPDATE heads SET number = %s, hash = %s WHERE name = 'audit'", (numbers["audit"], head)
            )

    def missing(self, chain: Chain) -> str | None:
        """Return what is wrong with the numbers of webhooks or the end of the audit log, None if nothing is."""
        if self._last_identity("endpoints") < self._value("SELECT coalesce(max(pk), 0) FROM endpoints"):
            return "a new webhook would get the number of another"
        if self._value("SELECT hash FROM heads WHERE name = 'audit'") != (chain.head if chain.entries else None):
            return "the audit log would go on after another entry than its last one"
        return None

    def finish(self) -> None:
        """Give the tables their version; before that, tell PostgreSQL's planner what is in them."""
        self._connection.execute(f"ANALYZE {', '.join(TABLES)}".encode())
        self._connection.execute(
            "UPDATE meta SET name = %s, value = %s WHERE name = %s", (VERSION, str(CURRENT_VERSION).encode(), MARK)
        )


def _said(error: psycopg.Error) -> str:
    """Return what the server said, and of which row."""
    parts = (error.diag.message_primary, error.diag.message_detail, error.diag.context)
    return "; ".join(" ".join(part.split()) for part in parts if part) or type(error).__name__


@contextmanager
def open_source(server: Server) -> Iterator[DatabaseSource]:
    """Open a journal's database to be moved: a snapshot in which nothing changes, and which nothing changes meanwhile.

    Raises CommandError if a server or another move uses it, if it can't be reached or is of another version.
    """
    with _opened(server, ConnectionRole.READER) as database:
        version = read_version(database)
        if version != CURRENT_VERSION:
            raise CommandError(
                f"the journal in {database.name} has version {version} and this webhookd moves {CURRENT_VERSION}: "
                + ("start `webhookd serve` once to upgrade it" if version < CURRENT_VERSION else "use the newer one")
            )
        _refuse_nodes(database)
        with database.atomic():
            # Before the first query, which takes the snapshot. It ends what is being written, and begins nothing new.
            database.connection().execute("LOCK TABLE nodes, writers IN SHARE MODE")
            _refuse_nodes(database)
            yield DatabaseSource(database)


@contextmanager
def open_target(server: Server, *, now: float) -> Iterator[DatabaseTarget]:
    """Open a database to move a journal to; nothing is written before `begin`.

    Raises CommandError if another move uses it or it can't be reached.
    """
    with _opened(server, ConnectionRole.WRITER) as database:
        yield DatabaseTarget(database, now)


@contextmanager
def _opened(server: Server, role: ConnectionRole) -> Iterator[PostgresDatabase]:
    """Yield a connection that holds the lock of moves, and has no time limits."""
    try:
        database = connect(
            server.url,
            role,
            application_name="webhookd/migrate",
            password_file=server.password_file,
            timeout_seconds=_TIMEOUT_SECONDS,
        )
    except ConnectionLostError as error:
        raise CommandError(str(error)) from error
    try:
        with database.translated():
            connection: Connection[Any] = database.connection()
            for setting in _PATIENT.items():
                connection.execute("SELECT set_config(%s, %s, false)", setting)
            if connection.execute("SELECT pg_try_advisory_lock(%s)", (MOVE_LOCK,)).fetchall() != [(True,)]:
                raise CommandError(f"another `webhookd migrate` uses {database.name}, or a server is starting there")
            yield database
    except (ConnectionLostError, MustRepeatError) as error:
        raise CommandError(str(error)) from error
    finally:
        database.close()


def _refuse_nodes(database: PostgresDatabase) -> None:
    """Raise CommandError if a node uses the journal."""
    living = database.connection().execute(_ALIVE).fetchall()
    if living:
        named = ", ".join(f"{name} ({node}, its lease ends in {seconds} s)" for name, node, seconds in living)
        raise CommandError(
            f"nothing was moved: {named} still {'runs' if len(living) == 1 else 'run'} on {database.name}: stop every "
            "server; one that was killed is gone when its lease ends"
        )

"""Look at a journal on PostgreSQL without being one of its nodes: what it contains, and how its server is set up."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

from msgspec.structs import replace
from peewee import Database

from webhookd.base.errors import CommandError, JournalError
from webhookd.journal.errors import ConnectionLostError, DamagedDatabaseError
from webhookd.journal.node_rows import Pooler, ServerFacts
from webhookd.journal.postgres import server_facts
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase, connect, is_logic_error
from webhookd.journal.postgres.migrations import CURRENT_VERSION, is_usable, read_version
from webhookd.journal.server import Server
from webhookd.journal.views import Views

T = TypeVar("T")

_SERVING = "SELECT pg_backend_pid()"
_TIME_LIMIT = "60s"  # the audit log is read as a whole
_TRIGGERS = {"audit_appends", "audit_keeps", "audit_stays", "audit_remains"}
_FIND_TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass('audit') AND tgenabled <> 'D'"


class DatabaseInspection(Views):
    """A journal on PostgreSQL over a connection that only reads."""

    def __init__(self, database: PostgresDatabase, open_another: Callable[[], PostgresDatabase]) -> None:
        self._database = database
        self._open_another = open_another

    def ask(self, query: Callable[[Database], T]) -> T:
        """Run a query on one snapshot."""
        try:
            with self._database.translated(), self._database.atomic():
                return query(self._database)
        except Exception as error:
            if not is_logic_error(error):
                raise
            # The statements are right for a journal, so another program has changed its tables.
            raise JournalError(f"{self._database.name} has other tables than a journal of webhookd") from error

    def version(self) -> tuple[int, int]:
        """Return the version of the tables, 0 without tables, and the newest that this program can use as they are."""

        def look(database: Database) -> tuple[int, int]:
            version = read_version(database)
            return version, max(version, CURRENT_VERSION) if is_usable(database, CURRENT_VERSION) else CURRENT_VERSION

        return self.ask(look)

    def missing_triggers(self) -> list[str]:
        """Return the names of the missing triggers among those that protect the audit log from changes."""
        return sorted(_TRIGGERS - {row[0] for row in self._rows(_FIND_TRIGGERS)})

    def facts(self) -> ServerFacts:
        """Return how the server is set up."""
        has_tables = self.version()[0] > 0
        facts = self.ask(lambda database: server_facts.read(database, has_tables=has_tables))
        return replace(facts, pooler=self._find_pooler())

    def _find_pooler(self) -> Pooler:
        """Find out what is between: a pooler has told the driver of another process than the one that serves it.

        One for transactions gives a session whatever process is free: another one while a second session holds that of
        the last transaction, or after it has. If none is free, the server ends that second transaction in 10 s.
        """
        if (first := self._serving()) == self._database.backend_pid:
            return Pooler.NONE
        other = self._open_another()
        try:
            with other.translated(), other.atomic():
                other.execute_sql(_SERVING)
                meanwhile = self._serving()
        finally:
            other.close()
        return Pooler.SESSION if first == meanwhile == self._serving() else Pooler.TRANSACTION

    def _serving(self) -> int:
        """Return the process of the server that serves this connection now."""
        return int(self._rows(_SERVING)[0][0])

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self.ask(lambda database: list(database.execute_sql(sql, parameters or None).fetchall()))


@contextmanager
def inspect_database(server: Server) -> Iterator[DatabaseInspection]:
    """Open a journal in a database for an inspection.

    Raises CommandError if it can't be reached, ConfigError if the password file can't be used, and JournalError for a
    server that is too old or a database with another encoding than UTF8.
    """
    opened = partial(
        connect,
        server.url,
        ConnectionRole.READER,
        application_name="webhookd/inspection",
        password_file=server.password_file,
    )
    try:
        database = opened()
    except ConnectionLostError as error:
        raise CommandError(str(error)) from error
    try:
        with database.translated():
            database.execute_sql("SELECT set_config('statement_timeout', %s, false)", (_TIME_LIMIT,))
        yield DatabaseInspection(database, opened)
    except DamagedDatabaseError as error:
        raise JournalError(str(error)) from error
    except ConnectionLostError as error:
        raise CommandError(str(error)) from error
    finally:
        database.close()

"""Look at a journal on PostgreSQL without being one of its nodes: what it contains, and how its server is set up."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from peewee import Database

from webhookd.base.errors import CommandError, JournalError
from webhookd.journal.errors import ConnectionLostError
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase, connect, is_logic_error
from webhookd.journal.postgres.migrations import CURRENT_VERSION, TABLES, is_usable, read_version
from webhookd.journal.rows import ServerFacts
from webhookd.journal.server import Server
from webhookd.journal.views import Views

T = TypeVar("T")

_TIME_LIMIT = "60s"  # the audit log is read as a whole
_TRIGGERS = {"audit_appends", "audit_keeps", "audit_stays", "audit_remains"}
_FIND_TRIGGERS = "SELECT tgname FROM pg_trigger WHERE tgrelid = to_regclass('audit') AND tgenabled <> 'D'"
_CLOCK = "SELECT extract(epoch FROM clock_timestamp())::double precision"
_FACTS = """
SELECT
    current_setting('server_version'),
    current_setting('synchronous_commit'),
    current_setting('synchronous_standby_names'),
    (SELECT count(*) FROM pg_stat_replication),
    (SELECT coalesce(ssl, false) FROM pg_stat_ssl WHERE pid = pg_backend_pid()),
    least(
        current_setting('max_connections')::bigint - current_setting('superuser_reserved_connections')::bigint,
        (SELECT nullif(rolconnlimit, -1) FROM pg_roles WHERE rolname = current_user),
        (SELECT nullif(datconnlimit, -1) FROM pg_database WHERE datname = current_database())
    ),
    (
        SELECT count(*) FROM pg_stat_activity
        WHERE datid IS NOT NULL AND NOT starts_with(application_name, 'webhookd/') AND pid <> pg_backend_pid()
    ),
    current_setting('autovacuum')::boolean AND current_setting('track_counts')::boolean,
    ARRAY(
        SELECT relname::text FROM pg_class WHERE oid = ANY(%s::regclass[])
        AND array_to_string(reloptions, ' ') ~* 'autovacuum_enabled=(false|off|no|0)' ORDER BY 1
    ),
    pg_has_role(current_user, 'pg_read_all_stats', 'USAGE'),
    (
        SELECT max(extract(epoch FROM clock_timestamp() - xact_start))::double precision FROM pg_stat_activity
        WHERE datid IS NOT NULL AND pid <> pg_backend_pid()
    ),
    (SELECT max(extract(epoch FROM clock_timestamp() - prepared))::double precision FROM pg_prepared_xacts)
"""
_NODES = "SELECT count(*) FROM nodes WHERE expires_at > clock_timestamp()"


class DatabaseInspection(Views):
    """A journal on PostgreSQL over a connection that only reads."""

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

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
        began_at = time.time()
        [[its_time]] = self._rows(_CLOCK)
        ended_at = time.time()
        # What the answer's way took isn't known, and is no difference.
        ahead = began_at - its_time if its_time < began_at else min(ended_at - its_time, 0.0)
        [row] = self._rows(_FACTS, list(TABLES) if has_tables else [])
        values = dict(zip(ServerFacts.__struct_fields__, row, strict=False))
        values["unvacuumed"] = tuple(values["unvacuumed"])
        nodes = self._rows(_NODES)[0][0] if has_tables else 0
        return ServerFacts(**values, nodes=nodes, clock_seconds=ahead)

    def _rows(self, sql: str, *parameters: object) -> list[tuple[Any, ...]]:
        return self.ask(lambda database: list(database.execute_sql(sql, parameters or None).fetchall()))


@contextmanager
def inspect_database(server: Server) -> Iterator[DatabaseInspection]:
    """Open a journal in a database for an inspection.

    Raises CommandError if it can't be reached, ConfigError if the password file can't be used, and JournalError for a
    server that is too old or a database with another encoding than UTF8.
    """
    try:
        database = connect(
            server.url,
            ConnectionRole.READER,
            application_name="webhookd/inspection",
            password_file=server.password_file,
        )
    except ConnectionLostError as error:
        raise CommandError(str(error)) from error
    try:
        with database.translated():
            database.execute_sql("SELECT set_config('statement_timeout', %s, false)", (_TIME_LIMIT,))
        yield DatabaseInspection(database)
    except ConnectionLostError as error:
        raise CommandError(str(error)) from error
    finally:
        database.close()

"""Which incarnation of the database is there: one that was restored, or promoted from a standby, is another.

Another incarnation may lack the last commits of the one before. It then gives numbers out again: those of events and
deliveries, of changes, and the generations of slots. What a process knows by such a number may be something else there,
so a process that finds another incarnation drops all of it before it uses a connection: slots, bodies of events, and
what it has seen of queues. Records from before are refused, and settings are read again if their last change isn't
there. A database that was created again has no tables, and an older copy may have those of an older version: only when
they are up to date can the other parts of the process connect.

An older copy of a server's directory has the identifier and the timeline of the server, and differs by the time of its
start. So each restart of the database counts as a change; nobody can tell that it has lost nothing.

After a change, nobody takes a slot or removes a node for 6 s. By then every node has found the change, or has stopped
sending by its own limit. The table `incarnations` has when a node has first found each, so nodes that start know, too.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from webhookd.base.errors import CommandError
from webhookd.journal.errors import ConnectionLostError, OtherDatabaseError
from webhookd.journal.postgres.database import PostgresDatabase, is_logic_error, reason_of
from webhookd.journal.postgres.migrations import prepare

# A database that was dropped and created again on the same server has another oid.
_READ = """
SELECT system_identifier # (SELECT oid::bigint << 32 FROM pg_database WHERE datname = current_database()),
    ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::bigint,
    pg_postmaster_start_time()
FROM pg_control_system()
"""
# The first row of all begins without a pause.
_NOTE = """
INSERT INTO incarnations (system_identifier, timeline, started_at, noticed_at)
SELECT %s, %s, %s, CASE WHEN EXISTS (SELECT FROM incarnations) THEN clock_timestamp() ELSE '-infinity' END
ON CONFLICT DO NOTHING
"""
_FORGET = """
DELETE FROM incarnations WHERE (system_identifier, timeline, started_at) <> (%s, %s, %s)
AND noticed_at < (SELECT max(noticed_at) FROM incarnations)
"""
_LET_GO = (
    "UPDATE slots SET node = NULL WHERE split_part(node, '.', 1) = %s",
    "DELETE FROM nodes WHERE split_part(id, '.', 1) = %s",
)


@dataclass(frozen=True, slots=True)
class Incarnation:
    """What tells a database from its copies and from its past."""

    system_identifier: int
    timeline: int
    started_at: datetime


class _Used(NamedTuple):
    incarnation: Incarnation
    number: int
    is_ready: bool


class Incarnations:
    """The incarnation that a process uses; threads may ask it.

    A process that is no node has nothing to drop, and uses whichever is there.
    """

    def __init__(self, first: Incarnation, *, is_node: bool) -> None:
        self._used = _Used(first, 1, is_ready=True)
        self._is_node = is_node

    @property
    def number(self) -> int:
        """How many incarnations this process has used."""
        return self._used.number

    def check_ready(self) -> None:
        """Raise ConnectionLostError unless the tables are up to date, so that all parts of this process can connect."""
        if not self._used.is_ready:
            raise ConnectionLostError("the database is another one, whose tables are not up to date yet")

    def check(self, found: Incarnation, *, prepares: bool = False) -> int:
        """Return the number of the incarnation that a new connection has found.

        Raises OtherDatabaseError for another one, and ConnectionLostError while it isn't ready, except for the
        connection that `prepares` it.
        """
        used = self._used
        if found == used.incarnation:
            if not prepares:
                self.check_ready()
            return used.number
        if self._is_node:
            raise OtherDatabaseError("the database was started again, or is another one", found)
        self.use(found)
        return self.number

    def is_used(self, found: Incarnation) -> bool:
        """Whether this incarnation is the one that is used."""
        return self._used.incarnation == found

    def use(self, found: Incarnation) -> None:
        """Use another incarnation: what was known of the previous one is dropped.

        For a node it is ready after `note_ready`, and for another process at once.
        """
        if found != self._used.incarnation:
            self._used = _Used(found, self._used.number + 1, is_ready=not self._is_node)

    def note_ready(self) -> None:
        """Note that the tables are up to date: all parts of this process can connect."""
        self._used = self._used._replace(is_ready=True)


def read_incarnation(database: PostgresDatabase) -> Incarnation:
    """Return the incarnation of the database that is connected.

    Raises CommandError if the user may not call the functions that say so; by default all users may.
    """
    try:
        with database.translated():
            row: tuple[int, int, datetime] = database.execute_sql(_READ).fetchone()
    except Exception as error:
        if not is_logic_error(error):
            raise
        raise CommandError(
            "the user of the database may not call pg_control_system(), pg_current_wal_lsn(), pg_walfile_name() and "
            f"pg_postmaster_start_time(), by which a restored database is recognized: "
            f"GRANT EXECUTE on them ({reason_of(error)})"
        ) from error
    return Incarnation(*row)


def note(database: PostgresDatabase, found: Incarnation) -> None:
    """Store that an incarnation was found, unless another process has done so."""
    key = (found.system_identifier, found.timeline, found.started_at)
    with database.translated():
        database.execute_sql(_NOTE, key)
        database.execute_sql(_FORGET, key)


def begin_anew(database: PostgresDatabase, found: Incarnation, process: str, now: Callable[[], float]) -> None:
    """Begin with another incarnation: bring its tables up to date, and give back what it has under a process's name."""
    prepare(database, now=now())
    note(database, found)
    with database.translated(), database.atomic():
        for statement in _LET_GO:
            database.execute_sql(statement, (process,))

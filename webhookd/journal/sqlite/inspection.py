"""Looking at a journal from outside, beside a server or without one.

The connection takes no lock of webhookd's, only reads, and leaves a write-ahead log that it finds where it is. Each
question is a function of its own.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import apsw
from msgspec import Struct
from peewee import Database
from playhouse.apsw_ext import APSWDatabase

from webhookd.base.errors import CommandError, JournalError
from webhookd.base.models import DeliveryStatus, Endpoint, EndpointState, Ordering
from webhookd.base.secret import Secret
from webhookd.journal.audit_entries import Chain
from webhookd.journal.queries import audit, deliveries, endpoints, events
from webhookd.journal.queries.master_key import adopt_master_key, holds_secrets, sealing_key_id
from webhookd.journal.rows import DeliveryDetail, DeliveryRow, EventRow, QueueFacts, RowPage
from webhookd.journal.sqlite.copies import counters
from webhookd.journal.sqlite.database import is_logic_error, refuse_foreign, translated
from webhookd.journal.sqlite.migrations import APPLICATION_ID, CURRENT_VERSION

P = ParamSpec("P")
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


class Contents(Struct, frozen=True, kw_only=True):
    """What a journal holds; `pending` are the deliveries still to be made, parked ones included.

    `last_event_at` is None without an event, `key_id` names the master key that opens it, where that is told.
    `counters` are the last numbers that rows were given, by table.
    """

    version: int
    bytes: int
    events: int
    deliveries: int
    pending: int
    last_event_at: float | None
    key_id: str | None
    counters: tuple[tuple[object, ...], ...]


class Inspection:
    """An open journal. Whatever finds the file damaged raises JournalError."""

    def __init__(self, path: Path, database: Database) -> None:
        self._path = path
        self._database = database

    def webhooks(self) -> list[Endpoint]:
        """Return every webhook."""
        return self._read(endpoints.all)

    def webhook_page(self, limit: int, cursor: str | None) -> RowPage[Endpoint]:
        """Return a page of the webhooks, newest first."""
        return self._read(endpoints.page, None, limit=limit, cursor=cursor)

    def webhook(self, endpoint_id: str) -> Endpoint:
        """Return a webhook; Rejected NOT_FOUND."""
        return self._read(endpoints.get, endpoint_id)

    def health_facts(self, endpoint_pk: int, ordering: Ordering) -> tuple[EndpointState, QueueFacts]:
        """Return what the journal knows of the health of a webhook."""
        return self._read(endpoints.health_facts, {endpoint_pk: ordering})[endpoint_pk]

    def delivery_page(
        self,
        endpoint_pk: int,
        *,
        status: DeliveryStatus | None,
        event: str | None,
        event_id: str | None,
        since: float | None,
        until: float | None,
        limit: int,
        cursor: str | None,
    ) -> RowPage[DeliveryRow]:
        """Return a page of a webhook's deliveries, newest first; made from `since` on and before `until`."""
        return self._read(
            deliveries.page,
            endpoint_pk,
            status=status,
            event=event,
            event_id=event_id,
            since=since,
            until=until,
            limit=limit,
            cursor=cursor,
        )

    def delivery(self, delivery_id: str) -> DeliveryDetail:
        """Return a delivery with its webhook, its message and its last attempts; Rejected NOT_FOUND."""
        return self._read(deliveries.get, delivery_id, None)

    def event_page(self, limit: int, after: str | None) -> RowPage[EventRow]:
        """Return a part of the feed, oldest first, from the event `after` on; Rejected INVALID_CURSOR."""
        return self._read(events.page, None, limit=limit, cursor=None, after=after)

    def event(self, event_id: str) -> EventRow:
        """Return an event; Rejected NOT_FOUND."""
        return self._read(events.get, event_id, None)

    def _read(self, query: Callable[Concatenate[Database, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        # On one snapshot; what the query raises of its own passes.
        with _asking(self._path), self._database.atomic():
            return query(self._database, *args, **kwargs)

    def version(self) -> tuple[int, int]:
        """Return the version of the tables, and the one that this program writes."""
        return self._number("PRAGMA user_version"), CURRENT_VERSION

    def is_empty(self) -> bool:
        """Whether there is no table at all."""
        return self._number("SELECT count(*) FROM sqlite_schema") == 0

    def bad_pages(self) -> list[str]:
        """Return what SQLite's `quick_check` complains of; reads the whole file."""
        said = [str(row[0]) for row in self._rows(f"PRAGMA quick_check({_MOST_COMPLAINTS})")]
        return [] if said == ["ok"] else said

    def dangling(self) -> list[str]:
        """Return which rows refer to none, and how many."""
        found = {what: self._number(query) for what, query in _DANGLING.items()}
        return [f"{count} {what}" for what, count in found.items() if count]

    def contents(self) -> Contents:
        """Count what is in it; reads the tables of events and deliveries."""
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
        """Whether the tables are of a version that keeps one."""
        return self._number("SELECT count(*) FROM sqlite_schema WHERE name = 'audit'") == 1

    def audit_chain(self) -> Chain:
        """Follow the audit log's chain."""
        with _asking(self._path):
            return audit.verify(self._database)

    def missing_triggers(self) -> list[str]:
        """Return the names of the triggers that keep the audit log as it is and that are not there."""
        rows = self._rows("SELECT name FROM sqlite_schema WHERE type = 'trigger' AND tbl_name = 'audit'")
        return sorted(_TRIGGERS - {row[0] for row in rows})

    def holds_secrets(self) -> bool:
        """Whether there is something that only the master key opens."""
        with _asking(self._path):
            return holds_secrets(self._database)

    def check_master_key(self, key: Secret[bytes]) -> bool:
        """Return whether there are secrets that it opens, False where there are none; MasterKeyError for another's."""
        with _asking(self._path):
            if not holds_secrets(self._database):
                return False
            adopt_master_key(self._database, key)
            return True

    def _number(self, sql: str) -> int:
        [(number,)] = self._rows(sql)
        assert isinstance(number, int)  # noqa: S101 - it counts
        return number

    def _rows(self, sql: str) -> list[tuple[object, ...]]:
        with _asking(self._path):
            return list(self._database.execute_sql(sql))


@contextmanager
def _asking(path: Path) -> Iterator[None]:
    try:
        with translated(path):
            yield
    except Exception as error:
        if not is_logic_error(error):
            raise
        # The statements are right for a journal, so this is none, or not one that webhookd left so.
        raise JournalError(f"{path} has other tables than a journal of webhookd") from error


@contextmanager
def inspect(path: Path) -> Iterator[Inspection]:
    """Open the journal at `path` to look at it.

    Raises JournalError for what is none or is damaged, CommandError for one that this user can't read or that is still
    empty.
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
            # The last to close would write it into the file; that is for the server, when it starts.
            database.connection().config(apsw.SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1)
        journal = Inspection(path, database)
        if journal.version()[0] == 0 and journal.is_empty():
            raise CommandError(f"the journal {path} is empty: the next start makes its tables")
        yield journal
    finally:
        database.close()


@contextmanager
def inspect_copy(path: Path, *, called: Path) -> Iterator[Inspection]:
    """Open a copy that nobody writes to and that has no log beside it, to look at it; errors speak of it as `called`.

    No file is made beside it. Raises JournalError for what is no journal, damaged, or of a newer version.
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
    """Read a copy whole and return what it holds; JournalError where it can't be trusted. Blocks."""
    with inspect_copy(path, called=called) as copy:
        complaints = copy.bad_pages()
        if complaints:
            raise JournalError(f"{called} is damaged: {' '.join(complaints[0].split())}")
        return copy.contents()

"""The same tables on SQLite and on PostgreSQL, and queries that run on both and must agree."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar, cast

import msgspec
from peewee import Database, Model, PostgresqlDatabase

from tests.samples import AT
from webhookd.base.errors import Rejected
from webhookd.base.models import AcceptedEvent, DeliveryStatus, Trigger
from webhookd.journal import NO_FLOORS, FoundEvents, KeptAnswer, RowPage, Window
from webhookd.journal.queries import partitioned, schema
from webhookd.journal.queries.dialect import is_postgres
from webhookd.journal.queries.partitioned import KeptAttemptTable
from webhookd.journal.queries.retention import Pruned
from webhookd.journal.queries.schema import DeliveryTable, EventTable, SequenceTable
from webhookd.journal.sqlite.database import open_writer

T = TypeVar("T")

TABLES = [
    kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, Model) and kind is not Model
]


class Fresh(Generic[T]):
    """An argument that is made for each engine."""

    def __init__(self, make: Callable[[], T]) -> None:
        self.make = make


class Engines:
    """Runs functions on several databases, each in a transaction of its own, and checks that the results agree."""

    def __init__(self, *databases: Database) -> None:
        self._databases = databases
        self.called: set[Callable[..., object]] = set()

        self._cursors: dict[str, list[str]] = {}  # those of each engine, by the one that stands for them

    def __call__(self, query: Callable[..., T], /, *args: object, **kwargs: object) -> T:
        self.called.add(query)
        outcomes = [
            _outcome(database, query, args, kwargs | self._own_cursor(number, kwargs))
            for number, database in enumerate(self._databases)
        ]
        results = [outcome[0] for outcome in outcomes]
        if all(isinstance(result, RowPage | FoundEvents) and result.next_cursor is not None for result in results):
            # An engine has cursors of its own.
            stands_for = f"cursor {len(self._cursors)}"
            self._cursors[stands_for] = [result.next_cursor for result in results]
            outcomes = [(msgspec.structs.replace(result, next_cursor=stands_for), None) for result in results]
        assert all(outcome == outcomes[0] for outcome in outcomes), outcomes
        result, rejection = outcomes[0]
        if rejection is not None:
            raise Rejected(*rejection)
        return cast("T", result)

    def _own_cursor(self, number: int, kwargs: dict[str, object]) -> dict[str, object]:
        cursor = kwargs.get("cursor")
        return {"cursor": self._cursors[cursor][number]} if isinstance(cursor, str) and cursor in self._cursors else {}


def _outcome(database: Database, query: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    made = [each.make() if isinstance(each, Fresh) else each for each in args]
    try:
        with database.atomic():
            return _comparable(query(database, *made, **kwargs)), None
    except Rejected as error:
        return None, (error.code, str(error))


def _comparable(result: object) -> object:
    """Return a result without what is never the same twice."""
    match result:
        case KeptAnswer():
            return msgspec.structs.replace(result, sealed=b"")
        case Window():  # SQLite needs no floors
            return msgspec.structs.replace(result, floors=NO_FLOORS)
        case Pruned():
            return msgspec.structs.replace(result, seconds=0.0)
    return result


@contextmanager
def sqlite_database(directory: Path) -> Iterator[Database]:
    """Yield a new journal."""
    database = open_writer(directory / "journal.db", now=0.0)
    yield database
    database.close()


@contextmanager
def postgres_database(url: str) -> Iterator[Database]:
    """Yield a connection to a database; it has no time limits, which a busy machine would exceed."""
    database = PostgresqlDatabase(url, prefer_psycopg3=True, thread_safe=False)
    with database.connection_context():
        yield database


def all_rows(database: Database) -> dict[str, list[dict[str, object]]]:
    """Return what a database holds, without what is sealed, which is never the same twice."""
    with database.atomic():
        found = {
            table.__name__: list(table.select().dicts().execute(database))
            for table in TABLES
            if table is not EventTable
        }
        rows = list(partitioned.select_events(database).dicts().execute(database))
        found["EventTable"] = [msgspec.structs.asdict(row) for row in partitioned.events(database, rows)]
        if is_postgres(database):
            # What belongs to nothing any more goes with its day.
            found["AttemptTable"] += KeptAttemptTable.select().dicts().execute(database)
            deliveries = {row["pk"] for row in found["DeliveryTable"]}
            found["AttemptTable"] = [row for row in found["AttemptTable"] if row["delivery_pk"] in deliveries]
        counted: Any = database.execute_sql("SELECT seconds, at, subject, counts FROM statistics")  # type: ignore[no-untyped-call]  # peewee's stub
        found["statistics"] = [dict(enumerate(row)) for row in counted]
    # PostgreSQL has no place of its own for these facts.
    found["MetaTable"] = [
        row for row in found["MetaTable"] if row["name"] not in {"version", "oldest", "era", "cluster"}
    ]
    for row in (*found["SecretTable"], *found["IdempotencyTable"], *found["MetaTable"]):
        row.pop("sealed", None) or row.pop("value")
    return {name: sorted(rows, key=repr) for name, rows in found.items()}


def add_events(database: Database, count: int, **fields: object) -> list[int]:
    """Store events, one a second, whose ids are `evt_` and a number; return their row numbers."""
    first = EventTable.select().count(database) + 1
    return [
        partitioned.add_event(database, _event(number, fields), deliveries=0) for number in range(first, first + count)
    ]


def _event(number: int, fields: dict[str, object]) -> AcceptedEvent:
    values: dict[str, Any] = {
        "id": f"evt_{number}",
        "type": "user.created",
        "organization_id": None,
        "ordering_key": None,
        "traceparent": None,
        "timestamp": AT + number,
        "accepted_at": AT + number,
        "body": b"{%d}" % number,
    }
    return AcceptedEvent(**values | fields)


def add_deliveries(database: Database, endpoint_pk: int, event_pks: list[int], **fields: object) -> list[int]:
    """Queue events for an endpoint as the writer does, but with these columns; return the deliveries' row numbers."""
    own = SequenceTable.endpoint_pk == endpoint_pk
    [[last]] = SequenceTable.select(SequenceTable.last).where(own).tuples().execute(database)
    pks = []
    for sequence, event_pk in enumerate(event_pks, last + 1):
        values: dict[str, object] = {
            "id": f"dlv_{endpoint_pk}_{sequence}",
            "endpoint_pk": endpoint_pk,
            "event_pk": event_pk,
            "event_type": "user.created",
            "sequence": sequence,
            "status": DeliveryStatus.PENDING,
            "trigger": Trigger.AUTO,
            "attempts": 0,
            "refusals": 0,
            "backoff_step": 0,
            "next_attempt_at": AT + sequence,
            "created_at": AT + sequence,
            "expires_at": AT + 3600 + sequence,
        }
        pks.append(DeliveryTable.insert(values | fields).execute(database))
    changed = {"last": last + len(event_pks), "last_expires_at": AT + 3600 + last + len(event_pks)}
    SequenceTable.update(changed).where(own).execute(database)
    return pks

"""The tables on PostgreSQL: made once by however many processes, as on SQLite, and only by those who may."""

import re
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from peewee import Database, IntegrityError, Model

from tests.forked import Process
from tests.journal.postgres import preparing
from tests.journal.postgres.connections import connected, rows, value
from tests.patience import wait_until
from tests.postgres_server import ICU_SINCE, OWNER, PostgresServer
from webhookd.base.database_url import parse
from webhookd.base.errors import CommandError, JournalError
from webhookd.base.event_types import STARTING_EVENT_TYPES
from webhookd.journal import Server
from webhookd.journal.ownership import SLOTS, slot_of
from webhookd.journal.postgres import migrations
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase
from webhookd.journal.postgres.inspection import inspect_database
from webhookd.journal.postgres.migrations import CURRENT_VERSION, prepare, read_era
from webhookd.journal.postgres.tables import TABLES
from webhookd.journal.queries import schema
from webhookd.journal.sqlite.database import open_writer

NOW = 1_700_000_000.0
PROCESSES = 4
MODELS: list[Any] = [
    kind for kind in vars(schema).values() if isinstance(kind, type) and issubclass(kind, Model) and kind is not Model
]
ADDED_COLUMNS = {
    "attempts": {"created_at", "era", "xid"},
    "events": {"body_bytes", "era", "xid"},
    "idempotency": {"node"},
    "sequences": {"slot"},
}
ELSEWHERE = {"events": {"body"}}  # in the table `bodies`
ADDED_INDEXES = {
    "attempts_recent",
    "events_feed",
    "events_organization_accepted",
    "events_organization_feed",
    "kept_attempts_recent",
    "sequences_slot",
}
KINDS = {
    "AUTO": "bigint",
    "INT": "bigint",
    "FLOAT": "double precision",
    "TEXT": "text",
    "BLOB": "bytea",
    "BOOL": "boolean",
}


@pytest.fixture
def database(journal_database: str) -> Iterator[PostgresDatabase]:
    with connected(journal_database) as opened:
        yield opened


def columns(database: PostgresDatabase, table: str) -> dict[str, tuple[str, str | None, bool]]:
    """Return each column's type, collation, and whether it may be null."""
    found = rows(
        database,
        "SELECT column_name, data_type, collation_name, is_nullable = 'YES' FROM information_schema.columns "
        "WHERE table_schema = current_schema() AND table_name = %s",
        table,
    )
    return {name: (kind, collation, is_nullable) for name, kind, collation, is_nullable in found}


def dump(database: PostgresDatabase) -> dict[str, list[Any]]:
    """Return the definitions of everything that the steps make."""
    return {
        "columns": rows(
            database,
            "SELECT table_name, column_name, data_type, collation_name, is_nullable, column_default, is_identity, "
            "generation_expression FROM information_schema.columns WHERE table_schema = current_schema() ORDER BY 1, 2",
        ),
        "indexes": rows(
            database, "SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = current_schema() ORDER BY 1"
        ),
        "triggers": rows(database, "SELECT tgname, tgtype FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1"),
        "settings": rows(
            database,
            "SELECT relname, reloptions FROM pg_class WHERE reloptions IS NOT NULL AND relkind = 'r' ORDER BY 1",
        ),
    }


# The tables


@pytest.mark.parametrize("model", MODELS, ids=[model.__name__ for model in MODELS])
def test_a_model_is_its_table(database: PostgresDatabase, model: Any) -> None:
    """Every model has the columns of its table, with their types, and text is compared by bytes."""
    table = model._meta.table_name
    found = columns(database, table)
    expected = set(model._meta.sorted_field_names) - ELSEWHERE.get(table, set())
    assert set(found) == expected | ADDED_COLUMNS.get(table, set())
    for field in model._meta.sorted_fields:
        if field.name not in expected:
            continue
        kind, collation, is_nullable = found[field.name]
        assert (kind, is_nullable) == (KINDS[field.field_type], field.null), field.name
        assert collation == ("C" if kind == "text" else None), field.name
    key = model._meta.primary_key
    names = [*(key.field_names if hasattr(key, "field_names") else (key.name,))]
    if table == "attempts":
        names.append("created_at")  # by which it is partitioned
    assert keys(database)[table] == names


def keys(database: Database) -> dict[str, list[str]]:
    """Return the columns of each table's primary key, in order."""
    found: Any = database.execute_sql(  # type: ignore[no-untyped-call]  # peewee's stubs
        "SELECT relname, array_agg(pg_get_indexdef(indexrelid, place, true) ORDER BY place) FROM pg_index "
        "JOIN pg_class ON pg_class.oid = indrelid, generate_series(1, indnkeyatts) place "
        "WHERE indisprimary AND relnamespace = current_schema()::regnamespace GROUP BY relname"
    )
    return dict(found.fetchall())


def test_all_tables_are_looked_at(database: PostgresDatabase) -> None:
    """The lists of models and of tables have everything that is there."""
    assert len(MODELS) == 13
    tables = rows(database, "SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
    assert {name for (name,) in tables} == set(TABLES)
    for table in TABLES:
        for name, (kind, collation, _) in columns(database, table).items():
            assert collation == ("C" if kind == "text" else None), (table, name)


def test_the_indexes_are_those_of_sqlite(database: PostgresDatabase, tmp_path: Path) -> None:
    """Every index is on both engines, over the same columns and the same rows."""
    on_sqlite: Any = open_writer(tmp_path / "journal.db", now=NOW)
    definitions = on_sqlite.execute_sql("SELECT name, sql FROM sqlite_schema WHERE type = 'index' AND sql IS NOT NULL")
    expected = {name: plain(sql) for name, sql in definitions}
    on_sqlite.close()
    found = rows(
        database,
        "SELECT indexname, indexdef FROM pg_indexes JOIN pg_class ON relname = indexname "
        "JOIN pg_index ON indexrelid = pg_class.oid WHERE schemaname = current_schema() AND NOT indisunique",
    )
    assert len(expected) >= 15
    assert {name: plain(sql) for name, sql in found if name not in ADDED_INDEXES} == expected
    assert {name for name, _ in found} - set(expected) == ADDED_INDEXES


def plain(definition: str) -> str:
    """Return an index's columns and condition without what the two engines write in their own ways."""
    text = definition.partition(" ON ")[2].replace("::text", "").replace("public.", "").replace(" USING btree", "")
    text = re.sub(r"= ANY \(ARRAY\[(.*?)\]\)", r"IN (\1)", text)
    return re.sub(r"[\s()]+", " ", text).replace(" ,", ",").strip()


def test_what_is_in_new_tables(database: PostgresDatabase) -> None:
    """A new journal has its heads, its slots without a node, and the starting catalogue."""
    assert rows(database, "SELECT name, number, hash FROM heads ORDER BY name") == [
        ("audit", 0, None),
        ("changes", 0, None),
    ]
    assert rows(database, "SELECT count(*), min(slot), max(slot), count(node), sum(generation) FROM slots") == [
        (SLOTS, 0, SLOTS - 1, 0, 0)
    ]
    assert {name for (name,) in rows(database, "SELECT name FROM event_types")} == set(STARTING_EVENT_TYPES)
    rows(database, "INSERT INTO sequences (endpoint_pk) VALUES (1), (255), (256), (100003)")
    found = rows(database, "SELECT endpoint_pk, slot FROM sequences")
    assert [slot for _, slot in found] == [slot_of(pk) for pk, _ in found] == [1, 255, 0, 163]


def test_text_is_compared_by_bytes(postgres_server: PostgresServer, database: PostgresDatabase) -> None:
    """Ids and names are in the order of their bytes, as on SQLite, although the database's own order is another."""
    names = ["B", "_", "a", "a.b", "aB", "a_b", "ab", "é"]
    for name in names:
        rows(database, "INSERT INTO event_types VALUES (%s, '', NULL, NULL, false, 0, 0)", name)
    found = rows(database, "SELECT name FROM event_types WHERE name = ANY(%s) ORDER BY name", names)
    assert [name for (name,) in found] == names
    assert rows(database, "SELECT name FROM event_types WHERE name >= 'a.' AND name < 'a/'") == [("a.b",)]
    if postgres_server.version >= ICU_SINCE:
        assert rows(database, "SELECT array_agg(name ORDER BY name) FROM unnest(%s::text[]) name", names) != [(names,)]


# The audit log


def insert_entry(database: PostgresDatabase, *numbers: int) -> None:
    for number in numbers:
        rows(
            database,
            "INSERT INTO audit VALUES (%s, 0, 'key', 'a', NULL, 'b', 'c', NULL, NULL, '[]', 'hash')",
            number,
        )


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE audit SET actor = 'z' WHERE sequence = 2",
        "DELETE FROM audit WHERE sequence = 2",
        "TRUNCATE audit",
        """INSERT INTO audit SELECT (jsonb_populate_record(audit, '{"sequence": 2}')).* FROM audit LIMIT 1""",
        """INSERT INTO audit SELECT (jsonb_populate_record(audit, '{"sequence": 4}')).* FROM audit LIMIT 1""",
    ],
)
def test_the_audit_log_is_only_added_to(database: PostgresDatabase, sql: str) -> None:
    """No statement changes or removes an entry, or adds one anywhere but at the end."""
    insert_entry(database, 1, 2)
    with pytest.raises(IntegrityError, match="the audit log is only added to"):
        rows(database, sql)
    insert_entry(database, 3)
    assert rows(database, "SELECT sequence, actor FROM audit ORDER BY sequence") == [(1, "a"), (2, "a"), (3, "a")]


def test_the_audit_log_takes_many_entries_at_once(database: PostgresDatabase) -> None:
    """A copy of a log is added in one statement, also where no schema is searched."""
    rows(database, "SET search_path = ''")
    rows(
        database,
        "INSERT INTO public.audit SELECT n, 0, 'key', 'a', NULL, 'b', 'c', NULL, NULL, '[]', 'hash' "
        "FROM generate_series(1, 1000) n",
    )
    assert value(database, "SELECT max(sequence) FROM public.audit") == 1000


# Steps


def test_processes_that_start_at_once_make_the_tables_once(empty_database: str) -> None:
    """Of many processes on an empty database one makes the tables, and all go on with them."""
    command = [sys.executable, "-m", preparing.__name__, empty_database]
    with connected(empty_database) as holder, ExitStack() as stack:
        rows(holder, "SELECT pg_advisory_lock(%s)", preparing.START)
        processes = [stack.enter_context(Process(command)) for _ in range(PROCESSES)]
        waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = %s"
        wait_until(lambda: value(holder, waiting, preparing.START) == PROCESSES)
        rows(holder, "SELECT pg_advisory_unlock(%s)", preparing.START)
        assert [process.wait() for process in processes] == [0] * PROCESSES
    with connected(empty_database) as database:
        assert value(database, "SELECT count(*) FROM slots") == SLOTS
        assert value(database, "SELECT count(*) FROM event_types") == len(STARTING_EVENT_TYPES)
        assert value(database, "SELECT value FROM meta WHERE name = 'version'") == str(CURRENT_VERSION).encode()


def test_a_start_on_current_tables_changes_nothing(journal_database: str, database: PostgresDatabase) -> None:
    """It waits for no lock, so that it doesn't wait behind a backup, and writes nothing."""
    with connected(journal_database) as other, other.atomic():
        rows(other, "LOCK TABLE events, deliveries, meta IN ROW EXCLUSIVE MODE")
        rows(other, "SELECT pg_advisory_xact_lock(%s)", migrations._LOCK)
        written = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL"
        with database.atomic():
            prepare(database, now=NOW)
            assert value(database, written) is False


def add_column(database: Database, _now: float) -> None:
    database.execute_sql("ALTER TABLE events ADD COLUMN extra bigint")  # type: ignore[no-untyped-call]  # peewee's stubs


def fail(database: Database, _now: float) -> None:
    database.execute_sql("SELECT 'x'::bigint")  # type: ignore[no-untyped-call]  # peewee's stubs


def test_steps_are_one_transaction(database: PostgresDatabase) -> None:
    """A step that fails leaves the tables as before the first one."""
    before = dump(database)
    with pytest.raises(Exception, match="invalid input syntax"):
        prepare(database, now=NOW, steps=(*migrations._STEPS, add_column, fail))
    assert dump(database) == before
    prepare(database, now=NOW, steps=(*migrations._STEPS, add_column))
    assert "extra" in columns(database, "events")
    assert value(database, "SELECT value FROM meta WHERE name = 'version'") == str(CURRENT_VERSION + 1).encode()


def replace_column(database: Database, _now: float) -> None:
    database.execute_sql("ALTER TABLE events RENAME COLUMN type TO kind")  # type: ignore[no-untyped-call]  # peewee's stubs
    migrations.end_older(database, CURRENT_VERSION + 1)


def test_tables_that_a_newer_version_has_added_to_are_used(journal_database: str, database: PostgresDatabase) -> None:
    """A node of this version can be started on them, and leaves them as they are; `doctor` finds nothing wrong."""
    newer = (*migrations._STEPS, add_column)
    prepare(database, now=NOW, steps=newer)
    before = dump(database)
    prepare(database, now=NOW)
    assert dump(database) == before
    with inspect_database(Server(url=parse(journal_database))) as journal:
        assert journal.version() == (CURRENT_VERSION + 1, CURRENT_VERSION + 1)
    prepare(database, now=NOW, steps=newer)
    assert value(database, "SELECT value FROM meta WHERE name = 'version'") == str(CURRENT_VERSION + 1).encode()


def test_a_newer_version_is_refused(journal_database: str, database: PostgresDatabase) -> None:
    """Tables to which a newer program has done more than add are not used by this one at its start."""
    prepare(database, now=NOW, steps=(*migrations._STEPS, replace_column))
    with inspect_database(Server(url=parse(journal_database))) as journal:
        assert journal.version() == (CURRENT_VERSION + 1, CURRENT_VERSION)
    with pytest.raises(
        JournalError, match=rf"{database.name} has version {CURRENT_VERSION + 1} and this webhookd knows"
    ):
        prepare(database, now=NOW)


def test_a_step_does_not_make_others_wait(journal_database: str, database: PostgresDatabase) -> None:
    """While a backup reads a table, a step gives up again and again, and is done after it."""

    def when_the_backup_ends(_database: Database, now: float) -> None:
        tries.append(value(database, "SHOW lock_timeout"))
        if len(tries) == 3:
            rows(backup, "COMMIT")
        add_column(database, now)

    tries: list[str] = []
    with connected(journal_database, ConnectionRole.READER) as backup:
        rows(backup, "BEGIN")
        rows(backup, "LOCK TABLE events IN ACCESS SHARE MODE")
        rows(backup, "SET idle_in_transaction_session_timeout = 0")
        prepare(database, now=NOW, steps=(*migrations._STEPS, when_the_backup_ends))
    assert tries == ["100ms"] * 3
    assert "extra" in columns(database, "events")


# Places


def test_tables_of_another_program_are_refused(empty_database: str) -> None:
    """A schema with a table of the same name isn't touched."""
    with connected(empty_database) as database:
        rows(database, "CREATE TABLE meta (name text, value text)")
        before = dump(database)
        with pytest.raises(JournalError, match=r"the schema public of test_.* has a table meta of another program"):
            prepare(database, now=NOW)
        assert dump(database) == before
        rows(database, "DROP TABLE meta")
        rows(database, "CREATE TABLE unlike_any_of_ours (name text)")
        prepare(database, now=NOW)


def test_a_schema_that_the_url_names(empty_database: str) -> None:
    """The tables are made where the session looks first, also next to those of another program."""
    with connected(empty_database) as database:
        rows(database, "CREATE TABLE events (name text)")
        rows(database, "CREATE SCHEMA hooks")
    with connected(f"{empty_database}&options=-csearch_path%3Dhooks") as database:
        prepare(database, now=NOW)
        prepare(database, now=NOW)
        assert rows(database, "SELECT DISTINCT schemaname FROM pg_tables WHERE tablename = 'deliveries'") == [
            ("hooks",)
        ]
        insert_entry(database, 1)
        rows(database, "SET search_path = public")
        copied = """SELECT (jsonb_populate_record(audit, '{"sequence": 2}')).* FROM hooks.audit"""
        rows(database, f"INSERT INTO hooks.audit {copied}")


@pytest.mark.parametrize(
    ("before", "part"),
    [
        ("REVOKE CREATE ON SCHEMA public FROM PUBLIC", 'GRANT CREATE ON SCHEMA "public" TO "webhookd"'),
        ("DROP SCHEMA public", "has no schema for the tables"),
    ],
)
def test_who_may_not_make_tables_is_told_what_to_grant(
    postgres_server: PostgresServer, empty_database: str, before: str, part: str
) -> None:
    """A user without rights gets the statement that an administrator has to run."""
    name = parse(empty_database).database
    with postgres_server.administer(name) as administrator:
        administrator.execute(f"ALTER DATABASE {name} OWNER TO postgres")
        administrator.execute("ALTER SCHEMA public OWNER TO postgres")
        administrator.execute(before.encode())
        with connected(empty_database) as database:
            with pytest.raises(CommandError, match=r".") as refused:
                prepare(database, now=NOW)
            assert part in str(refused.value)
            if "GRANT" in part:
                administrator.execute(part.encode())
                prepare(database, now=NOW)
                assert value(database, "SELECT tableowner FROM pg_tables WHERE tablename = 'events'") == OWNER


# Eras


def test_a_move_to_another_cluster_begins_an_era(database: PostgresDatabase) -> None:
    """Events from before the move come first, whatever their transactions' numbers are, and nobody waits for these."""
    insert = (
        "INSERT INTO events (id, type, timestamp, accepted_at, deliveries, body_bytes) VALUES (%s, 't', 0, 0, 0, 0) "
        "RETURNING era, xid = pg_current_xact_id()"
    )
    assert rows(database, insert, "before") == [(0, True)]
    assert read_era(database) == 0
    # As a dump of another cluster would be.
    rows(database, "UPDATE events SET xid = '4611686018427387904'")
    rows(database, "UPDATE meta SET value = '1' WHERE name = 'cluster'")
    prepare(database, now=NOW)
    assert read_era(database) == 1
    assert rows(database, insert, "after") == [(1, True)]
    prepare(database, now=NOW)
    assert read_era(database) == 1
    feed = "SELECT id FROM events WHERE era < %s OR xid < pg_snapshot_xmin(pg_current_snapshot()) ORDER BY era, xid, pk"
    assert rows(database, feed, 1) == [("before",), ("after",)]

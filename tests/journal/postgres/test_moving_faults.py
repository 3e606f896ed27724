"""What a move of a journal refuses, and what it finds on the other side before that can be used."""

from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.journal.harness import MASTER_KEY
from tests.journal.postgres.connections import connected, rows, value
from tests.journal.postgres.moves import change, move, tables_of, url_of
from tests.long import long
from tests.postgres_server import PostgresServer
from tests.stages import at_stage
from webhookd.base.errors import CommandError, JournalError, MasterKeyError
from webhookd.base.secret import Secret
from webhookd.crypto.vault import Vault, new_master_key
from webhookd.journal import Server, move_journal
from webhookd.journal.errors import MustRepeatError
from webhookd.journal.postgres import leases
from webhookd.journal.postgres.migrations import prepare, read_version
from webhookd.journal.queries.master_key import adopt_master_key, begin_change, forget_previous
from webhookd.journal.server import LeaseTimes
from webhookd.journal.sqlite.database import exclusive_lock, open_writer

NOW = 0.0

DIFFERENCES = {
    "changed": ("UPDATE deliveries SET error = 'x' WHERE pk = 3", r"deliveries has other rows \(first at pk 3\)"),
    "changed in a bit": ("UPDATE events SET accepted_at = accepted_at + 1e-6 WHERE pk = 5", "events has other rows"),
    "dropped": ("DELETE FROM attempts WHERE delivery_pk = 2", r"attempts has \d+ rows instead of \d+"),
    "doubled": (
        "INSERT INTO secrets (endpoint_pk, kind, sealed) SELECT 77, kind, sealed FROM secrets WHERE endpoint_pk = 1",
        r"secrets has \d+ rows instead of \d+",
    ),
    "moved to another key": ("UPDATE secrets SET endpoint_pk = 77 WHERE endpoint_pk = 2", "secrets has other rows"),
    "an entry of the audit log": ("UPDATE audit SET actor = 'x' WHERE sequence = 2", "audit has other rows"),
    "the master key": ("UPDATE meta SET value = 'x' WHERE name = 'master_key_check'", "meta has other rows"),
}
ON_POSTGRES = {
    "a body": ("UPDATE kept_bodies SET body = 'x' WHERE event_pk = 2", r"events has other rows \(first at pk 2\)"),
    "the end of the audit log": (
        "UPDATE heads SET hash = 'x' WHERE name = 'audit'",
        "the audit log would go on after another entry",
    ),
    "its last number": ("UPDATE heads SET number = 99 WHERE name = 'audit'", "at the end were taken out"),
    "the numbers of events": ("ALTER SEQUENCE events_pk_seq RESTART 3", "numbers of events go on after"),
    "the numbers of deliveries": ("ALTER SEQUENCE deliveries_pk_seq RESTART 999", "numbers of deliveries go on after"),
    "the numbers of webhooks": ("ALTER SEQUENCE endpoints_pk_seq RESTART 2", "a new webhook would get the number"),
}
IN_A_FILE = {
    "the numbers of events": ("UPDATE sqlite_sequence SET seq = 3 WHERE name = 'events'", "numbers of events go on"),
    "the last entry": ("UPDATE sqlite_sequence SET seq = 99 WHERE name = 'audit'", "at the end were taken out"),
}
QUICK = {"changed", "dropped", "a body", "the end of the audit log", "the numbers of events", "sequence", "NUL"}
BROKEN = {
    "sequence": ("UPDATE sequences SET last = 2 WHERE endpoint_pk = 1", "whose last sequence is lower"),
    "no sequence": ("DELETE FROM sequences WHERE endpoint_pk = 2", "a webhook without its sequence"),
    "twice": (
        "UPDATE deliveries SET sequence = 7 WHERE endpoint_pk = 1 AND sequence = 8",
        "two deliveries of one webhook with the same sequence: 1, 7",
    ),
    "attempts": ("UPDATE deliveries SET attempts = 0", "more attempts than it has counted"),
    "audit": ("UPDATE audit SET actor = 'x' WHERE sequence = 2", "audit log of .* is broken, entry 2"),
    "cut audit": (
        "DELETE FROM audit WHERE sequence = (SELECT max(sequence) FROM audit)",
        "1 at the end were taken out",
    ),
}
UNFIT = {
    "NUL": (
        "UPDATE deliveries SET ordering_key = 'a' || char(0) || 'b' WHERE pk = 4",
        "deliveries, pk 4: ordering_key",
    ),
    "no UTF-8": ("UPDATE endpoints SET description = CAST(x'61ff' AS TEXT) WHERE pk = 2", "bytes that are no UTF-8"),
    "a text for a time": (
        "UPDATE events SET accepted_at = 'soon' WHERE pk = 4",
        "a value stored as text, which is no real",
    ),
    "a number for bytes": ("UPDATE secrets SET sealed = 7 WHERE endpoint_pk = 1", "a value stored as integer"),
}


def refusal(error: type[Exception], source: Path | Server, target: Path | Server, **settings: object) -> str:
    with pytest.raises(error) as refused:
        move(source, target, **settings)
    return str(refused.value)


def is_unused(server: Server) -> bool:
    """Whether a database has no tables."""
    with connected(url_of(server)) as database:
        return rows(database, "SELECT 1 FROM pg_tables WHERE schemaname = current_schema()") == []


@pytest.mark.parametrize("name", long(DIFFERENCES | ON_POSTGRES, lambda name: name not in QUICK))
def test_a_difference_on_postgresql_is_found(
    file: Path, server: Server, postgres_server: PostgresServer, name: str
) -> None:
    """A copy that isn't what was moved gets no version: no server starts with it, and the same move begins it again."""
    sql, found = (DIFFERENCES | ON_POSTGRES)[name]
    sql = sql.replace("FROM attempts", "FROM kept_attempts")

    def plant() -> None:
        with postgres_server.administer(server.url.database) as connection:
            connection.execute("SET session_replication_role = replica")  # which fires no trigger
            connection.execute(sql.encode())

    with at_stage("move.copied", plant), pytest.raises(JournalError, match=found):
        move(file, server)
    with connected(url_of(server)) as database:
        assert read_version(database) == 0
        with pytest.raises(CommandError, match="isn't complete, because moving it there was cut off"):
            prepare(database, now=NOW)
    assert move(file, server).begun_again
    with connected(url_of(server)) as database:
        prepare(database, now=NOW)


@pytest.mark.parametrize("name", long(DIFFERENCES | IN_A_FILE, lambda name: name not in QUICK))
def test_a_difference_in_a_file_is_found(file: Path, server: Server, tmp_path: Path, name: str) -> None:
    """A copy that isn't what was moved gets no name, and nothing of it is left."""
    sql, found = (DIFFERENCES | IN_A_FILE)[name]
    move(file, server)
    back, unfinished = tmp_path / "back.db", tmp_path / ".back.db.unfinished"
    with at_stage("move.copied", partial(change, unfinished, sql)), pytest.raises(JournalError, match=found):
        move(server, back)
    assert not back.exists()
    assert not unfinished.exists()
    move(server, back)
    assert tables_of(back) == tables_of(file)


@pytest.mark.parametrize("name", long(BROKEN, lambda name: name not in QUICK))
def test_a_journal_that_breaks_a_rule_is_not_moved(file: Path, server: Server, name: str) -> None:
    """It is found before anything is written."""
    sql, found = BROKEN[name]
    change(file, sql)
    with pytest.raises(JournalError, match=found):
        move(file, server)
    assert is_unused(server)


@pytest.mark.parametrize("name", long(UNFIT, lambda name: name not in QUICK))
def test_a_value_that_does_not_fit_is_named(file: Path, server: Server, name: str) -> None:
    """It is found before anything is written, with its table, row and column; a trial lists all of them."""
    sql, found = UNFIT[name]
    change(file, sql)
    assert found in refusal(CommandError, file, server)
    unfit = move(file, server, is_trial=True).unfit
    assert [each for each in unfit if found in each] == unfit != []
    assert is_unused(server)


def test_nul_characters_are_replaced_on_request(file: Path, server: Server, tmp_path: Path) -> None:
    """U+FFFD is stored for them, in whichever column they are, and nothing else changes."""
    change(file, UNFIT["NUL"][0], "UPDATE endpoints SET description = char(0) WHERE pk = 1")
    assert "--replace-nul" in refusal(CommandError, file, server)
    move(file, server, replaces_nul=True)
    move(server, tmp_path / "back.db")
    change(file, "UPDATE deliveries SET ordering_key = 'a\ufffdb' WHERE pk = 4")
    change(file, "UPDATE endpoints SET description = '\ufffd' WHERE pk = 1")
    assert tables_of(tmp_path / "back.db") == tables_of(file)


def test_many_values_that_do_not_fit_are_counted(file: Path, server: Server) -> None:
    """The first are listed."""
    change(file, "UPDATE deliveries SET ordering_key = char(0)")
    *listed, more = move(file, server, is_trial=True).unfit
    assert (len(listed), more) == (20, f"{len(tables_of(file)['deliveries']) - 20} more")


def test_a_trial_writes_nothing(file: Path, server: Server, tmp_path: Path) -> None:
    """It counts what would be moved, in both directions."""
    before = file.read_bytes()
    counts = {name: len(found) for name, found in tables_of(file).items()}
    tried = move(file, server, is_trial=True)
    assert {name: each.rows for name, each in tried.tables.items()} == counts
    assert is_unused(server)
    move(file, server)
    tried = move(server, tmp_path / "back.db", is_trial=True)
    assert {name: each.rows for name, each in tried.tables.items()} == counts
    assert list(tmp_path.glob("*back*")) == []
    assert file.read_bytes() == before


def test_a_file_in_use_is_not_moved(file: Path, server: Server) -> None:
    """A file whose lock is held is named as in use by a server or a command; a file that isn't there is named."""
    with exclusive_lock(file):
        assert "in use by another webhookd" in refusal(CommandError, file, server)
    assert "there is no journal" in refusal(CommandError, file.with_name("other.db"), server)
    change(file, "PRAGMA user_version = 7")
    assert "start `webhookd serve` once to upgrade it" in refusal(CommandError, file, server)
    assert is_unused(server)


def test_the_master_key_must_open_the_journal(file: Path, server: Server) -> None:
    """With another one nothing is moved: nothing could be sent from there."""
    with pytest.raises(MasterKeyError, match="nothing was moved from"):
        move_journal(file, server, load_key=lambda: Secret(bytes(32)), now=NOW)
    assert is_unused(server)


def test_a_file_whose_master_key_is_being_changed_is_not_moved(file: Path, server: Server) -> None:
    """Neither while values are sealed with the previous key, nor until the new one is in its place."""
    new = new_master_key()
    database = open_writer(file, now=NOW)
    with database.atomic():
        begin_change(database, adopt_master_key(database, MASTER_KEY), new)
    database.close()
    assert f"master key of {file} is being changed" in refusal(CommandError, file, server)
    database = open_writer(file, now=NOW)
    with database.atomic():
        forget_previous(database, Vault(new))
    database.close()
    assert f"master key of {file} is being changed" in refusal(CommandError, file, server)
    assert is_unused(server)


def test_a_database_whose_master_key_is_being_changed_is_not_moved(file: Path, server: Server, tmp_path: Path) -> None:
    """While values are sealed with the previous key, which the installed one opens."""
    move(file, server)
    new = new_master_key()
    with connected(url_of(server)) as database, database.atomic():
        begin_change(database, adopt_master_key(database, MASTER_KEY), new)
    with pytest.raises(CommandError, match="is being changed: start webhookd until that has ended"):
        move_journal(server, tmp_path / "back.db", load_key=lambda: new, now=NOW)
    assert not (tmp_path / "back.db").exists()


def test_a_damaged_file_is_not_moved(file: Path, server: Server) -> None:
    """Its pages are checked first."""
    content = bytearray(file.read_bytes())
    for page in range(5, len(content) // 4096, 3):
        content[page * 4096 : page * 4096 + 64] = bytes(64)
    file.write_bytes(content)
    assert "damaged" in refusal(JournalError, file, server)
    assert is_unused(server)


def test_a_database_that_holds_something_is_refused(file: Path, server: Server, tmp_path: Path) -> None:
    """It may be a journal, a part of another one, or another program's table; nothing there is touched."""
    with connected(url_of(server)) as database:
        rows(database, "CREATE TABLE deliveries (a int)")
        assert "a table deliveries of another program" in refusal(JournalError, file, server)
        rows(database, "DROP TABLE deliveries")
    with at_stage("move.copied", _fail), suppress(ZeroDivisionError):
        move(file, server)
    other = Path(str(tmp_path / "other.db"))
    make_other(file, other)
    assert "a part of another journal" in refusal(CommandError, other, server)
    assert move(file, server).begun_again
    assert "has a journal of version" in refusal(CommandError, file, server)


def test_a_file_that_is_there_is_refused(file: Path, server: Server, tmp_path: Path) -> None:
    """So is a log next to where it would be, which is another journal's."""
    move(file, server)
    assert "is there already" in refusal(CommandError, server, file)
    log = tmp_path / "back.db-wal"
    log.touch()
    assert "back.db-wal is there already" in refusal(CommandError, server, tmp_path / "back.db")
    log.unlink()
    (tmp_path / ".back.db.unfinished").write_text("left by a killed move")
    assert move(server, tmp_path / "back.db").begun_again


def test_no_server_starts_while_a_journal_is_moved(file: Path, server: Server, tmp_path: Path) -> None:
    """Neither on the database that it is moved to, nor on the one that it is moved from, and no other move begins."""
    tried: list[Callable[[], None]] = []

    def start() -> None:
        with connected(url_of(server)) as database, pytest.raises(CommandError, match="is moving the journal in"):
            prepare(database, now=NOW)
        assert "another `webhookd migrate` uses" in refusal(CommandError, file.with_name("copy.db"), server)
        tried.append(start)

    make_other(file, file.with_name("copy.db"))
    with at_stage("move.begun", start):
        move(file, server)
    with at_stage("move.begun", start):
        move(server, tmp_path / "back.db")
    assert len(tried) == 2


def test_nothing_writes_to_a_database_that_is_moved(file: Path, server: Server, tmp_path: Path) -> None:
    """A command that had begun before can't commit what would not be moved."""
    move(file, server)

    def write() -> None:
        with connected(url_of(server)) as database:
            rows(database, "SET lock_timeout = '1ms'")
            for sql in (
                "UPDATE writers SET number = number",
                "INSERT INTO nodes (id, expires_at) VALUES ('n.1', now())",
            ):
                with pytest.raises(MustRepeatError):
                    rows(database, sql)

    with at_stage("move.copied", write):
        move(server, tmp_path / "back.db")


def test_a_database_with_a_living_node_is_not_moved(file: Path, server: Server, tmp_path: Path) -> None:
    """The node is named; one whose lease has ended is none."""
    move(file, server)
    with connected(url_of(server)) as database:
        connection: Any = database.connection()  # type: ignore[no-untyped-call]  # peewee's stub
        leases.register(connection, "prc_1.1", "db-node-7", 1, LeaseTimes().scaled(100))
        said = refusal(CommandError, server, tmp_path / "back.db")
        assert "db-node-7 (prc_1.1, its lease ends in " in said
        assert value(database, "SELECT count(*) FROM nodes") == 1
        rows(database, "UPDATE nodes SET expires_at = now() - interval '1 second'")
    move(server, tmp_path / "back.db")


def test_a_value_that_sqlite_has_none_for_is_named(file: Path, server: Server, tmp_path: Path) -> None:
    """SQLite would store NULL for NaN."""
    move(file, server)
    with connected(url_of(server)) as database:
        rows(database, "UPDATE deliveries SET duration_seconds = 'NaN' WHERE pk = 1")
    assert "deliveries, 1 rows: duration_seconds holds NaN" in refusal(CommandError, server, tmp_path / "back.db")
    assert not (tmp_path / "back.db").exists()


def make_other(file: Path, to: Path) -> None:
    """Make a journal of another origin: with another first entry of the audit log."""
    to.write_bytes(file.read_bytes())
    change(to, "DELETE FROM audit", "DELETE FROM sqlite_sequence WHERE name = 'audit'")


def _fail() -> None:
    raise ZeroDivisionError

"""A journal moved from a file to PostgreSQL and back: nothing is lost or changed, whatever is in it."""

import tracemalloc
from pathlib import Path

import pytest
import trio

from tests.journal.furnished import furnish, opened
from tests.journal.harness import add_endpoint, event, publish
from tests.journal.postgres.connections import connected, rows, value
from tests.journal.postgres.moves import change, content, last_numbers, move, tables_of, url_of
from webhookd.journal import Server
from webhookd.journal.moved_tables import MOVED_TABLES
from webhookd.journal.postgres.tables import TABLES
from webhookd.observe.statistics import MINUTE, SERVER, Counts, Key

ON_POSTGRES_ALONE = {"heads", "changes", "nodes", "writers", "slots", "sessions", "incarnations", "bodies"}
# Parts of tables that are in one elsewhere: see `moved_parts`.
ON_POSTGRES_ALONE |= {"kept_bodies", "kept_attempts"}
MEBIBYTE = 1 << 20
BODIES, MANY = 32, 8_000


def test_to_postgresql_and_back_a_journal_is_the_same(file: Path, server: Server, tmp_path: Path) -> None:
    """Each table has the same rows as before, to the bit, the last numbers go on, and the source isn't changed."""
    before, bytes_before = content(file), file.read_bytes()
    assert [name for name in before if not before[name]] == []
    moved = move(file, server)
    back = move(server, tmp_path / "back.db")
    assert content(tmp_path / "back.db") == before
    assert moved.tables == back.tables
    assert {name: each.rows for name, each in moved.tables.items()} == {
        table.name: len(before[table.name]) for table in MOVED_TABLES
    }
    assert file.read_bytes() == bytes_before
    assert (tmp_path / "back.db").stat().st_mode & 0o777 == 0o600


def test_numbers_go_on_where_retention_has_deleted_the_last_rows(file: Path, server: Server, tmp_path: Path) -> None:
    """The next event and delivery get no number that was used before, there and back."""
    change(file, "DELETE FROM deliveries WHERE pk > 20", "DELETE FROM attempts WHERE delivery_pk > 20")
    change(file, "DELETE FROM events WHERE pk > 9")
    last = last_numbers(file)
    move(file, server)
    with connected(url_of(server)) as database:
        for table in ("events", "deliveries"):
            assert value(database, f"SELECT nextval('{table}_pk_seq')") == last[table] + 1
    move(server, tmp_path / "back.db")
    assert last_numbers(tmp_path / "back.db") == {
        "audit": last["audit"],
        "events": last["events"] + 1,
        "deliveries": last["deliveries"] + 1,
    }


async def test_an_empty_journal_is_moved(tmp_path: Path, server: Server) -> None:
    """One that has only just been made, with no number given out yet, there and back."""
    async with opened(tmp_path / "empty.db"):
        pass
    move(tmp_path / "empty.db", server)
    with connected(url_of(server)) as database:
        assert value(database, "SELECT nextval('events_pk_seq')") == 1
    move(server, tmp_path / "back.db")
    assert tables_of(tmp_path / "back.db") == tables_of(tmp_path / "empty.db")


async def test_what_several_nodes_have_written_is_moved_to_a_file(server: Server, tmp_path: Path) -> None:
    """Statistics of all nodes are added up, and all else is what the database had."""
    key, other = Key(MINUTE, 60, SERVER), Key(MINUTE, 180, SERVER)
    async with opened(server) as store:
        await furnish(store)
        await store.statistics.put([(other, Counts(events=1))]).wait()
    async with opened(server) as store:
        await store.statistics.put([(key, Counts(events=4, latencies=[2] * 18))]).wait()
    with connected(url_of(server)) as database:
        wanted = {
            table: value(database, f"SELECT count(*) FROM {table}")  # noqa: S608 - their names
            for table in ("events", "audit", "secrets")
        }
    path = tmp_path / "webhookd.db"
    moved = await trio.to_thread.run_sync(move, server, path)
    assert {table: moved.tables[table].rows for table in wanted} == wanted
    async with opened(path) as store:
        found, _ = await store.statistics.find(seconds=MINUTE, starts=[60, 180], subjects=[SERVER])
        assert found == {
            key: Counts(events=7, delivered=2, failures=1, latencies=[3] * 18),
            other: Counts(events=1),
        }
        assert (await store.audit.verify()).broken is None


async def test_the_feed_goes_on_after_a_cursor_of_the_file(tmp_path: Path, server: Server) -> None:
    """It shows every moved event in order, after an id or a cursor from before the move, and then new ones."""
    path = tmp_path / "webhookd.db"
    async with opened(path) as store:
        endpoint = await add_endpoint(store)
        for number in range(9):
            await publish(store, event(f"e{number}"), endpoint).wait()
        page = await store.events.page(None, limit=3, cursor=None, after=None)
        cursor = page.next_cursor
    await trio.to_thread.run_sync(move, path, server)
    async with opened(server) as store:
        await publish(store, event("new"), endpoint).wait()
        for place in (
            {"cursor": cursor, "after": None},
            {"cursor": None, "after": "e2"},
            {"cursor": None, "after": cursor},
        ):
            found = [row.id for row in (await store.events.page(None, limit=99, **place)).items]
            assert found == [*(f"e{number}" for number in range(3, 9)), "new"]


def test_the_last_attempts_are_in_the_order_of_time(file: Path, server: Server) -> None:
    """After the move they are shown in the order in which they began, and are of an era that has ended."""
    change(file, "UPDATE attempts SET started_at = 1e9 - delivery_pk + number / 100.0")
    move(file, server)
    with connected(url_of(server)) as database:
        by_time = rows(database, "SELECT id FROM kept_attempts ORDER BY started_at")
        assert rows(database, "SELECT id FROM kept_attempts ORDER BY era, xid, delivery_pk, number") == by_time
        assert value(database, "SELECT max(era) FROM kept_attempts") == 0
        assert value(database, "SELECT convert_from(value, 'UTF8') FROM meta WHERE name = 'era'") == "1"


def test_every_table_is_moved_or_known_to_be_postgresqls() -> None:
    """A table that is added to either engine must be declared."""
    assert {table.name for table in MOVED_TABLES} == set(TABLES) - ON_POSTGRES_ALONE


@pytest.mark.slow
@pytest.mark.parametrize("is_back", [False, True], ids=["to PostgreSQL", "to a file"])
async def test_memory_is_bounded(server: Server, tmp_path: Path, *, is_back: bool) -> None:
    """Neither many rows nor large ones are in memory together: the peak is far below what is moved."""
    path = tmp_path / "webhookd.db"
    async with opened(path) as store:
        endpoint = await add_endpoint(store)
        for number in range(BODIES):
            await publish(store, event(f"e{number}", size=MEBIBYTE // 2)).wait()
        await publish(store, event("small"), endpoint).wait()
    change(
        path,
        "WITH RECURSIVE n (i) AS (SELECT 2 UNION ALL SELECT i + 1 FROM n LIMIT 8000) INSERT INTO deliveries (id, "
        "endpoint_pk, event_pk, event_type, sequence, status, trigger, attempts, refusals, backoff_step, created_at, "
        "expires_at) SELECT 'dlv_' || i, 1, 33, 'user.created', i, 'canceled', 'auto', 0, 0, 0, 1.5, 2.5 FROM n",
        "UPDATE sequences SET last = 8001",
    )
    places: list[Path | Server] = [path, server, tmp_path / "back.db"]
    if is_back:
        await trio.to_thread.run_sync(move, path, server)
        del places[0]
    tracemalloc.start()
    try:
        moved = move(places[0], places[1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert moved.tables["deliveries"].rows == MANY + 1
    assert peak < 6 * MEBIBYTE, peak

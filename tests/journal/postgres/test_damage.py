"""A database whose disk fails or is full, or whose data is damaged: an outage, which doesn't end the process.

The errors are real ones of the server, raised in a trigger or a view with the code that a failing disk has.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import trio
from structlog.testing import capture_logs

from tests.journal.harness import event, publish
from tests.journal.postgres.connections import connected, rows
from tests.journal.postgres.test_outage import running, stored
from tests.journal.store_calls import add
from tests.patience import until
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal import reader

READ_ERROR, BAD_PAGE, BAD_INDEX, NO_FILE, FULL = "58030", "XX001", "XX002", "58P01", "53100"
DAMAGE = (READ_ERROR, BAD_PAGE, BAD_INDEX, NO_FILE)


@contextmanager
def failing(url: str, code: str, table: str, what: str) -> Iterator[None]:
    """Have each INSERT, UPDATE or SELECT of a table raise an error with a code during the block."""
    with connected(url) as database:
        rows(
            database,
            "CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION 'could not use block 7 of {table}' USING ERRCODE = '{code}'; END $$",
        )
        rows(
            database,
            "CREATE FUNCTION fails_too() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN "
            f"RAISE EXCEPTION 'could not use block 7 of {table}' USING ERRCODE = '{code}'; END $$",
        )
        if what == "SELECT":
            rows(database, f"ALTER TABLE {table} RENAME TO hidden")
            rows(database, f"CREATE VIEW {table} AS SELECT * FROM hidden WHERE fails_too()")  # noqa: S608 - a name of a test's own
        else:
            rows(database, f"CREATE TRIGGER fails BEFORE {what} ON {table} FOR EACH ROW EXECUTE FUNCTION fails()")
        yield
        if what == "SELECT":
            rows(database, f"DROP VIEW {table}")
            rows(database, f"ALTER TABLE hidden RENAME TO {table}")
        rows(database, "DROP FUNCTION fails CASCADE")
        rows(database, "DROP FUNCTION fails_too")


@pytest.mark.parametrize("code", DAMAGE)
async def test_a_commit_waits_for_a_disk_that_fails(empty_database: str, code: str) -> None:
    """It is repeated, and what was submitted is stored once the disk works again; until then nothing is ready."""
    async with running(empty_database) as store:
        endpoint = await add(store)
        await publish(store, event("before"), endpoint).wait()
        assert store.is_reachable
        with failing(empty_database, code, "events", "INSERT"):
            ticket = publish(store, event("during"), endpoint)
            await until(lambda: not store.is_reachable)
            assert not ticket.is_done
        assert (await ticket.wait()).deliveries == 1
        assert store.is_reachable
        assert await stored(store, endpoint) == ["before", "during"]


async def test_a_query_that_finds_damage_is_refused(empty_database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The server lives on, and answers it once the table can be read again."""
    monkeypatch.setattr(reader, "PATIENCE_SECONDS", 0.5)
    async with running(empty_database) as store:
        with failing(empty_database, BAD_PAGE, "event_types", "SELECT"):
            with pytest.raises(Rejected) as refused, capture_logs() as lines:
                await store.event_types.all()
            assert refused.value.code is ErrorCode.JOURNAL_UNREACHABLE
            assert ["block 7 of event_types" in line.get("error", "") for line in lines] == [True]
        assert await store.event_types.all()


@pytest.mark.parametrize("code", [READ_ERROR, FULL])
async def test_a_node_that_can_not_beat_stops_sending_and_goes_on_later(empty_database: str, code: str) -> None:
    """Its lease ends, and it registers again, as after an outage."""
    async with running(empty_database) as store:
        endpoint = await add(store)
        await until(lambda: store.ownership.owns(endpoint.pk))
        with failing(empty_database, code, "nodes", "UPDATE"):
            await until(lambda: not store.ownership.may_send())
            await until(lambda: not store.ownership.owns(endpoint.pk))
        await until(lambda: store.ownership.may_send() and store.ownership.owns(endpoint.pk))
        assert (await publish(store, event("after"), endpoint).wait()).deliveries == 1


async def test_a_full_disk_is_that_of_a_full_journal(empty_database: str) -> None:
    """Events are refused, and taken again as soon as there is room."""
    async with running(empty_database) as store:
        endpoint = await add(store)
        with failing(empty_database, FULL, "events", "INSERT"):
            with pytest.raises(Rejected) as refused:
                await publish(store, event("e"), endpoint).wait()
            assert refused.value.code is ErrorCode.JOURNAL_FULL
        while store.is_full:
            await trio.sleep(0.02)
        assert (await publish(store, event("e"), endpoint).wait()).deliveries == 1

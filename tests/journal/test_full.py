"""A full disk, by SQLite's own limit: events are refused, attempts are kept, and all goes on once there is room."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from peewee import Database

from tests.journal.harness import add_endpoint, event, publish, running
from tests.journal.store_calls import submitted
from tests.open_file import writing_database
from tests.patience import PATIENCE_SECONDS, until
from tests.samples import attempt_record
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import Outcome
from webhookd.journal import Store, Ticket
from webhookd.journal.queries.schema import AttemptTable, EventTable, EventTypeTable


def allow_pages(database: Database, pages: int) -> None:
    rows: Any = database.execute_sql(f"PRAGMA max_page_count = {pages}")  # type: ignore[no-untyped-call]
    rows.fetchall()


async def fill(journal: Store) -> int:
    """Publish until the journal is full; return how many events were stored."""
    for count in range(1000):
        ticket = publish(journal, event(f"e{count}", size=50_000))
        try:
            await ticket.wait()
        except Rejected:
            return count
    raise AssertionError("it never was full")


def attempts(database: Database) -> int:
    return AttemptTable.select().count(database)


async def test_a_full_disk_refuses_events_and_keeps_attempts(tmp_path: Path) -> None:
    """Without room an event and a change are refused; an attempt waits, and is on disk once there is room."""
    async with running(tmp_path / "journal.db") as journal:
        await add_endpoint(journal)
        await journal.transactions.write(allow_pages, 120)
        stored = await fill(journal)
        assert stored > 2
        with pytest.raises(Rejected) as refused:
            await publish(journal, event("more", size=50_000)).wait()
        assert refused.value.code is ErrorCode.JOURNAL_FULL
        assert refused.value.retry_after_seconds
        large = msgspec.structs.replace(
            attempt_record(), outcome=Outcome(duration_seconds=0.1, status=500, detail="x" * 200_000)
        )
        recorded = submitted(journal, large)
        await until(lambda: journal._writer._is_stuck)
        assert (recorded.is_done, journal.is_full) == (False, True)
        # As if somebody had made room; the writer is waiting for it, and its connection is free.
        allow_pages(writing_database(journal), 100_000)
        with trio.fail_after(PATIENCE_SECONDS):
            await recorded.wait()
            await publish(journal, event("again", size=50_000)).wait()
        assert (await journal.transactions.read(attempts), journal.is_full) == (1, False)
        # What was refused was not stored, and what was answered was.
        assert not (await publish(journal, event(f"e{stored}")).wait()).duplicate
        assert (await publish(journal, event("e0")).wait()).duplicate


def grow(database: Database) -> None:
    EventTypeTable.update(description="x" * 200_000).where(EventTypeTable.name == "user.created").execute(database)


def record_large(journal: Store) -> Ticket[None]:
    outcome = Outcome(duration_seconds=0.1, status=500, detail="x" * 200_000)
    notice = journal.notice(event("notice"), ())
    return submitted(journal, msgspec.structs.replace(attempt_record(), outcome=outcome), [notice])


def change_much(journal: Store) -> Ticket[None]:
    return journal.transactions.submit(grow, insists=True, notices_of=lambda _: [journal.notice(event("notice"), ())])


def notices_stored(database: Database) -> int:
    return EventTable.select().where(EventTable.id == "notice").count(database)


@pytest.mark.parametrize("submit", [record_large, change_much])
async def test_an_event_is_on_disk_with_its_cause(tmp_path: Path, submit: Callable[[Store], Ticket[None]]) -> None:
    """An event about an attempt or a change that finds no room waits with it, although the event alone would fit."""
    async with running(tmp_path / "journal.db") as journal:
        await add_endpoint(journal)
        await journal.transactions.write(allow_pages, 120)
        await fill(journal)
        large = submit(journal)
        await journal.transactions.insist(lambda _: None)  # it was submitted later, and passes what finds no room
        assert (large.is_done, await journal.transactions.read(notices_stored)) == (False, 0)
        allow_pages(writing_database(journal), 100_000)
        with trio.fail_after(10):
            await large.wait()
        assert await journal.transactions.read(notices_stored) == 1

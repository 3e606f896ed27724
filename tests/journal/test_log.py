"""The write-ahead log: cut as soon as no reader is in the way, without a wait of the writer."""

from pathlib import Path

import apsw
import pytest
import trio
from peewee import Database

from tests.journal.harness import add_endpoint, event, publish, running
from tests.open_file import read_limit
from tests.patience import PATIENCE_SECONDS
from webhookd.base.errors import ReadTimeoutError, Rejected
from webhookd.journal import Store
from webhookd.journal.queries import events
from webhookd.journal.queries.schema import EventTable
from webhookd.journal.sqlite.database import BUSY_TIMEOUT_SECONDS
from webhookd.journal.sqlite.write_ahead_log import HURRY_BYTES, LONG_BYTES, MEBIBYTE
from webhookd.journal.writer import MAX_BATCH_COST

SIZE = MEBIBYTE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


async def test_a_reader_keeps_nobody_from_the_disk(path: Path) -> None:
    """While a reader holds an old snapshot, commits go on, and the log is cut after the reader has finished."""
    log = path.with_name(path.name + "-wal")
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        reader = apsw.Connection(str(path))
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM events").fetchall()
        journal.cut_log()
        with trio.fail_after(BUSY_TIMEOUT_SECONDS - 1):
            await publish(journal, event("e1"), endpoint).wait()
            await publish(journal, event("e2"), endpoint).wait()
        assert log.stat().st_size > 0
        reader.close()
        await publish(journal, event("e3"), endpoint).wait()
        assert log.stat().st_size == 0


async def test_all_that_was_submitted_is_written_at_the_end(path: Path) -> None:
    """A writer that stops first commits what waits, in any number of batches."""
    async with running(path) as journal:
        tickets = [publish(journal, event(f"e{number}")) for number in range(3 * MAX_BATCH_COST)]
    assert all(ticket.is_done for ticket in tickets)
    assert [(await ticket.wait()).id for ticket in tickets[-1:]] == [f"e{3 * MAX_BATCH_COST - 1}"]


def count_for_long(database: Database) -> object:
    """Read the events repeatedly for longer than a query may take."""
    while True:
        EventTable.select().count(database)


async def test_a_query_of_our_own_gets_less_time_while_it_makes_the_log_long(path: Path) -> None:
    """A query that holds its snapshot while much is written is ended early, and then the log is cut."""
    log = path.with_name(path.name + "-wal")
    async with running(path) as journal, trio.open_nursery() as nursery:
        ended = trio.Event()
        # So long that nothing else would end it.
        limit = read_limit(journal)
        limit.seconds = limit._usual_seconds = 10 * PATIENCE_SECONDS

        async def read() -> None:
            with pytest.raises(ReadTimeoutError):
                await journal.transactions.read(count_for_long)
            ended.set()

        await publish(journal, event("first")).wait()
        nursery.start_soon(read)
        for number in range(HURRY_BYTES // SIZE + 10):
            await publish(journal, event(f"e{number}", size=SIZE)).wait()
        with trio.fail_after(PATIENCE_SECONDS):
            await ended.wait()
        await publish(journal, event("last")).wait()
        assert log.stat().st_size < HURRY_BYTES
        assert (await journal.transactions.read(events.get, "last", None)).id == "last"


async def test_events_are_taken_in_batches_of_some_bytes(path: Path) -> None:
    """Large events that wait together don't make a commit larger than the log may be."""
    log = path.with_name(path.name + "-wal")
    async with running(path) as journal:
        tickets = [publish(journal, event(f"e{number}", size=SIZE)) for number in range(60)]
        most = 0
        while not tickets[-1].is_done:
            await trio.lowlevel.checkpoint()
            most = max(most, log.stat().st_size)
        assert all(ticket.is_done for ticket in tickets)
        assert most < 40 * MEBIBYTE


async def hold_log_long(journal: Store, path: Path) -> apsw.Connection:
    """Make the log long behind a reader of another program, and return that reader."""
    await publish(journal, event("first")).wait()
    reader = apsw.Connection(str(path))
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchall()
    log = path.with_name(path.name + "-wal")
    number = 0
    while log.stat().st_size <= LONG_BYTES:
        await publish(journal, event(f"long{number}", size=SIZE)).wait()
        number += 1
    return reader


async def test_an_event_is_not_held_back_past_what_divides(path: Path) -> None:
    """An event that waits for the log, with times from before a step of the clock, is refused: it can be repeated."""
    async with running(path) as journal:
        reader = await hold_log_long(journal, path)
        waiting = publish(journal, event("before"))
        dividing = journal.transactions.submit(lambda _: None, insists=True, is_barrier=True)
        later = publish(journal, event("after"))
        with trio.fail_after(PATIENCE_SECONDS):
            await dividing.wait()
            with pytest.raises(Rejected):
                await waiting.wait()
        assert not later.is_done
        reader.close()
        assert not (await later.wait()).duplicate


async def test_what_was_taken_is_not_held_back_at_the_end(path: Path) -> None:
    """A server that stops while the log is long stores and answers what it has accepted, at once."""
    async with running(path) as journal:
        reader = await hold_log_long(journal, path)
        taken = publish(journal, event("taken"))
        await journal.transactions.insist(lambda _: None)  # submitted later, and written meanwhile
        assert not taken.is_done
        journal.refuse_events()
        with trio.fail_after(PATIENCE_SECONDS):
            assert (await taken.wait()).id == "taken"
        reader.close()

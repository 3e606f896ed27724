"""The write-ahead log: cut as soon as no reader is in the way, and nobody waits for that."""

from pathlib import Path

import apsw
import pytest
import trio

from tests.journal.harness import add_endpoint, event, publish, running
from webhookd.journal.database import BUSY_TIMEOUT_SECONDS
from webhookd.journal.writer import MAX_BATCH


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


async def test_a_reader_keeps_nobody_from_the_disk(path: Path) -> None:
    """While a reader holds an old snapshot commits go on at once, and the log is cut after the reader has gone."""
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
    """A writer that is told to stop first commits what waits, however many batches that is."""
    async with running(path) as journal:
        tickets = [publish(journal, event(f"e{number}")) for number in range(3 * MAX_BATCH)]
    assert all(ticket.is_done for ticket in tickets)
    assert [(await ticket.wait()).id for ticket in tickets[-1:]] == [f"e{3 * MAX_BATCH - 1}"]

"""The write-ahead log: cut as soon as no reader is in the way, and nobody waits for that."""

from pathlib import Path

import apsw
import pytest
import trio

from tests.journal.harness import add_endpoint, event, publish, running
from webhookd.journal.database import BUSY_TIMEOUT_SECONDS


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

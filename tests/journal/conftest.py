"""The stores that hold to the same rules: on SQLite, and in memory."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from tests.journal.harness import CLOCK, IDS
from tests.memory_store import open_memory_store
from webhookd.journal import Store, open_store


@pytest.fixture(params=["SQLite", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Store]:
    opening: AbstractAsyncContextManager[Store] = (
        open_store(tmp_path / "journal.db", clock=CLOCK, ids=IDS)
        if request.param == "SQLite"
        else open_memory_store(IDS)
    )
    async with opening as opened, trio.open_nursery() as writing:
        await writing.start(opened.run)
        yield opened
        writing.cancel_scope.cancel()

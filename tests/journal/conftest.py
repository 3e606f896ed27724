"""The stores that hold to the same rules: on SQLite, on PostgreSQL, and in memory."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest
import trio

from tests.journal.harness import CLOCK, IDS
from tests.memory_store import open_memory_store
from webhookd.base.database_url import parse
from webhookd.journal import Server, Store, open_store


@pytest.fixture(params=["SQLite", "PostgreSQL", "memory"])
async def store(request: pytest.FixtureRequest, tmp_path: Path, nursery: trio.Nursery) -> AsyncIterator[Store]:
    async with _opening(request, tmp_path) as opened, trio.open_nursery() as writing:
        await writing.start(opened.run)
        yield opened
        writing.cancel_scope.cancel()


def _opening(request: pytest.FixtureRequest, directory: Path) -> AbstractAsyncContextManager[Store]:
    if request.param == "memory":
        return open_memory_store(IDS)
    if request.param == "SQLite":
        return open_store(directory / "journal.db", clock=CLOCK, ids=IDS)
    return open_store(Server(url=parse(request.getfixturevalue("empty_database"))), clock=CLOCK, ids=IDS)

"""Backups of a journal in use: complete, of one moment, in short steps of the writer, and without unfinished files."""

import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from tests.journal.harness import add_endpoint, event, publish, running
from tests.journal.old import ask
from webhookd.base.errors import CommandError, JournalError
from webhookd.base.models import Endpoint
from webhookd.journal import Store, check_place
from webhookd.journal.sqlite.copies import _MOST_PAGES
from webhookd.journal.sqlite.inspection import verified

MANY = 120  # batches of 50 events of 4 KB: some 25 MB


@asynccontextmanager
async def filled(path: Path) -> AsyncIterator[tuple[Store, Endpoint]]:
    """Open a journal of some size, with its writer running."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        for batch in range(MANY):
            tickets = [publish(journal, event(f"b{batch}-{number}", size=4000), endpoint) for number in range(50)]
            await tickets[-1].wait()
        yield journal, endpoint


async def test_a_copy_is_of_one_moment_while_events_come_in(tmp_path: Path) -> None:
    """A copy has all that was acknowledged before it began and later events without a gap; its steps are bounded."""
    file = tmp_path / "copy.db"
    count = 0
    reports: list[tuple[int, int]] = []
    async with filled(tmp_path / "journal.db") as (journal, endpoint), trio.open_nursery() as nursery:

        async def send() -> None:
            nonlocal count
            while True:
                await publish(journal, event(f"n{count}", size=800), endpoint).wait()
                count += 1

        nursery.start_soon(send)
        while count < 5:
            await trio.sleep(0.001)
        before = count
        contents = await journal.back_up(
            file, replace=False, report=lambda copied, total: reports.append((copied, total))
        )
        after = count
        nursery.cancel_scope.cancel()
    rows = ask(file, "SELECT pk, id FROM events ORDER BY pk")
    numbered = [str(name) for _, name in rows if str(name).startswith("n")]
    assert [pk for pk, _ in rows] == list(range(1, len(rows) + 1))
    assert numbered == [f"n{number}" for number in range(len(numbered))]
    # Some came in between the first page and the last, or nothing was tried here.
    assert before < len(numbered) <= after + 1
    assert ask(file, "SELECT count(*), count(DISTINCT event_pk) FROM deliveries") == [(len(rows), len(rows))]
    assert (contents.events, contents.deliveries, contents.pending) == (len(rows),) * 3
    assert file.stat().st_mode & 0o777 == 0o600
    assert not list(tmp_path.glob(".copy.db*"))
    assert reports[-1][0] == reports[-1][1] > 5000
    assert [copied for copied, _ in reports] == sorted(copied for copied, _ in reports), "it started over"
    # What holds the writer is a step, and events came in between two of them.
    assert max(later - earlier for (earlier, _), (later, _) in pairwise(reports)) <= _MOST_PAGES


async def test_an_error_leaves_nothing_and_the_file_from_before(tmp_path: Path) -> None:
    """A canceled copy is deleted, an existing file is unchanged, and the journal goes on."""
    file = tmp_path / "copy.db"
    file.write_text("from before")
    async with filled(tmp_path / "journal.db") as (journal, endpoint):
        with trio.CancelScope() as scope:
            await journal.back_up(file, replace=True, report=lambda *_: scope.cancel())
        assert scope.cancelled_caught
        assert file.read_text() == "from before"
        assert not list(tmp_path.glob(".copy.db*"))
        with pytest.raises(CommandError, match=r"copy\.db is there already: take another name, or --force"):
            await journal.back_up(file, replace=False, report=lambda *_: None)
        assert file.read_text() == "from before"
        (tmp_path / ".copy.db.unfinished").write_text("left by a killed process")
        await publish(journal, event("last"), endpoint).wait()
        contents = await journal.back_up(file, replace=True, report=lambda *_: None)
        assert contents.events == MANY * 50 + 1
    assert verified(file, called=file) == contents


async def test_a_damaged_journal_makes_no_backup(tmp_path: Path) -> None:
    """A damaged page is found before the copy gets its name."""
    path = tmp_path / "journal.db"
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        for number in range(200):
            await publish(journal, event(f"e{number}", size=3000), endpoint).wait()
    with path.open("r+b") as opened:
        root = ask(path, "SELECT rootpage FROM sqlite_schema WHERE name = 'sqlite_autoindex_events_1'")[0][0]
        assert isinstance(root, int)
        opened.seek(4096 * (root - 1))
        opened.write(b"\xa5" * 4096)
    async with running(path) as journal:
        with pytest.raises(JournalError, match=r"copy\.db is damaged"):
            await journal.back_up(tmp_path / "copy.db", replace=False, report=lambda *_: None)
    assert not list(tmp_path.glob("*copy.db*"))


def test_places_where_no_backup_can_be_put(tmp_path: Path) -> None:
    """The journal's own files, a directory, an existing file and a path without a directory are refused."""
    journal = tmp_path / "journal.db"
    journal.touch()
    taken = tmp_path / "taken.db"
    taken.touch()
    os.link(journal, tmp_path / "second-name.db")
    (tmp_path / "link.db").symlink_to(journal)
    for name in ("journal.db", "journal.db-wal", "journal.db-shm", "journal.db.lock", "second-name.db", "link.db"):
        with pytest.raises(CommandError, match="is the journal's own"):
            check_place(tmp_path / name, journal, replace=True)
    with pytest.raises(CommandError, match="is a directory"):
        check_place(tmp_path, journal, replace=True)
    with pytest.raises(CommandError, match="is no directory"):
        check_place(tmp_path / "none" / "copy.db", journal, replace=True)
    with pytest.raises(CommandError, match="is there already"):
        check_place(taken, journal, replace=False)
    check_place(taken, journal, replace=True)


def test_nothing_but_a_file_is_replaced_by_a_backup(tmp_path: Path) -> None:
    """A pipe, a socket or a link to one stays, and a name that the system refuses is a CommandError."""
    journal = tmp_path / "journal.db"
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for file in (tmp_path / "pipe", tmp_path / "link", tmp_path / "socket", Path("/dev/null")):
            for replace in (False, True):
                with pytest.raises(CommandError, match="is a device, a pipe or a socket"):
                    check_place(file, journal, replace=replace)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(CommandError, match="is there already"):
        check_place(tmp_path / "loop", journal, replace=False)
    with pytest.raises(CommandError, match="File name too long"):
        check_place(tmp_path / ("a" * 300), journal, replace=False)

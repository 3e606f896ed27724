"""The journal as a whole: acknowledged events are on disk, duplicates, conflicts, the lock and foreign files."""

import os
import signal
import sqlite3
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import trio
from peewee import Database

from tests.journal.harness import CLOCK, IDS, add_endpoint, all_deliveries, event, publish, running
from tests.journal.store_calls import message_of
from webhookd.base.errors import CommandError, ErrorCode, JournalError, Rejected
from webhookd.base.models import DeliveryStatus
from webhookd.journal import open_store
from webhookd.journal.queries import endpoints, events, retention
from webhookd.journal.queries.schema import DeliveryTable, EndpointTable, EventTable
from webhookd.journal.sqlite.migrations import CURRENT_VERSION


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


async def test_what_was_answered_is_there_after_a_restart(path: Path) -> None:
    """Events, deliveries in sequence and endpoints are read as they were stored, bodies to the byte."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        tickets = [publish(journal, event(f"e{number}", size=2 + number), endpoint) for number in range(500)]
        results = [await ticket.wait() for ticket in tickets]
        assert [result.deliveries for result in results] == [1] * 500
    async with running(path) as journal:
        assert await journal.transactions.read(endpoints.all) == [endpoint]
        found = await journal.transactions.read(events.page, None, limit=1000, cursor=None, after=None)
        assert [row.id for row in found.items] == [f"e{number}" for number in range(500)]
        assert (await message_of(journal, found.items[7].pk)).body == b"{" + b" " * 7 + b"}"
        rows = await all_deliveries(journal, endpoint)
        assert [row.sequence for row in rows] == list(range(500, 0, -1))
        assert {row.status for row in rows} == {DeliveryStatus.PENDING}


async def test_an_id_used_again_answers_the_first_result(path: Path) -> None:
    """A duplicate, in the same batch or much later, stores nothing and is answered as one."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        first = publish(journal, event("same"), endpoint)
        second = publish(journal, event("same", size=100), endpoint, endpoint)
        assert (await first.wait()).duplicate is False
        assert (await second.wait()).duplicate is True
    async with running(path) as journal:
        third = await publish(journal, event("same", size=7)).wait()
        assert (third.id, third.deliveries, third.duplicate) == ("same", 1, True)
        row = await journal.transactions.read(events.get, "same", None)
        assert row.body == b"{}"
        assert (await publish(journal, event("other"), endpoint).wait()).duplicate is False
        rows = await all_deliveries(journal, endpoint)
        assert [row.sequence for row in rows] == [2, 1]


async def test_another_organizations_id_is_a_conflict(path: Path) -> None:
    """An id of one organization is refused to another, and no other submission of the batch fails."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        await publish(journal, event("mine", organization_id="acme"), endpoint).wait()
        theirs = publish(journal, event("mine", organization_id="other"), endpoint)
        beside = publish(journal, event("beside"), endpoint)
        with pytest.raises(Rejected, match="another organization") as refused:
            await theirs.wait()
        assert refused.value.code is ErrorCode.CONFLICT
        assert (await beside.wait()).duplicate is False


async def test_an_endpoint_that_is_gone_gets_no_delivery(path: Path) -> None:
    """A target that is deleted before the commit isn't counted in the result."""
    async with running(path) as journal:
        endpoint, gone = await add_endpoint(journal), await add_endpoint(journal)
        await journal.transactions.write(endpoints.delete, gone.id, CLOCK.now())
        assert (await publish(journal, event("e"), endpoint, gone).wait()).deliveries == 1


async def test_a_refused_change_leaves_its_batch_alone(path: Path) -> None:
    """A change that raises is undone alone; the rest of its transaction is stored."""

    def half(database: Database) -> None:
        EndpointTable.update({"url": "https://changed.example/"}).execute(database)
        raise Rejected(ErrorCode.CONFLICT, "no")

    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        before = publish(journal, event("before"), endpoint)
        change = journal.transactions.submit(half)
        after = publish(journal, event("after"), endpoint)
        with pytest.raises(Rejected, match="no"):
            await change.wait()
        assert {(await before.wait()).id, (await after.wait()).id} == {"before", "after"}
        assert (await journal.transactions.read(endpoints.get, endpoint.id)).url == endpoint.url


async def test_a_change_that_fails_over_an_open_cursor_leaves_the_writer_free(path: Path) -> None:
    """An error during a query doesn't prevent the journal's last checkpoint."""
    kept = []

    def half_read(database: Database) -> None:
        rows = iter(EventTable.select(EventTable.id).tuples().execute(database))
        raise Rejected(ErrorCode.CONFLICT, next(rows)[0])

    async with running(path) as journal:
        for number in range(3):
            await publish(journal, event(f"e{number}")).wait()
        try:
            await journal.transactions.write(half_read)
        except Rejected as refused:
            kept.append(refused)  # and with it the frames of its traceback
    assert str(kept[0]) == "e0"
    assert not path.with_name(path.name + "-wal").exists()


async def test_a_bug_in_one_operation_costs_only_itself(path: Path) -> None:
    """A statement that violates a constraint fails alone, and the writer goes on."""

    def broken(database: Database) -> None:
        EventTable.insert({"id": "no other column"}).execute(database)

    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        first = publish(journal, event("first"), endpoint)
        bad = journal.transactions.submit(broken)
        second = publish(journal, event("second"), endpoint)
        with pytest.raises(Exception, match="NOT NULL"):
            await bad.wait()
        assert (await first.wait()).deliveries == (await second.wait()).deliveries == 1


async def test_a_reader_can_only_read(path: Path) -> None:
    """SQLite refuses a query that tries to write."""
    async with running(path) as journal:
        with pytest.raises(JournalError, match="readonly"):
            await journal.transactions.read(lambda database: DeliveryTable.delete().execute(database))


async def test_max_bytes_refuses_events_but_takes_changes(path: Path) -> None:
    """At its limit the journal refuses events with JOURNAL_FULL; duplicates and changes still get their answer."""
    async with running(path, max_bytes=200_000) as journal:
        endpoint = await add_endpoint(journal)
        stored = 0
        with pytest.raises(Rejected) as refused:  # noqa: PT012 - which one is refused is not known beforehand
            for number in range(100):
                await publish(journal, event(f"e{number}", size=20_000), endpoint).wait()
                stored = number
        assert refused.value.code is ErrorCode.JOURNAL_FULL
        assert refused.value.retry_after_seconds
        assert (await publish(journal, event(f"e{stored}"), endpoint).wait()).duplicate
        await add_endpoint(journal)
        assert (
            len((await journal.transactions.read(events.page, None, limit=1000, cursor=None, after=None)).items)
            == stored + 1
        )


async def test_a_journal_at_max_bytes_says_so_until_there_is_room(path: Path) -> None:
    """`is_at_bound` says that events are refused for `max_bytes`, until retention has deleted enough."""
    async with running(path, max_bytes=200_000) as journal:
        states = [journal.is_at_bound]
        with pytest.raises(Rejected):  # noqa: PT012 - which one is refused is not known beforehand
            for number in range(100):
                await publish(journal, event(f"e{number}", size=20_000)).wait()
        states.append(journal.is_at_bound)
        await journal.transactions.write(retention.prune, CLOCK.now() + 1, 1000)
        await journal.transactions.write(retention.give_back_pages)
        states.append(journal.is_at_bound)
        assert (states, journal.is_full) == ([False, True, False], False)
        await publish(journal, event("after", size=20_000)).wait()


async def test_a_second_process_is_kept_out(path: Path) -> None:
    """The error names the lock, and a killed owner leaves no lock behind."""
    owner = subprocess.Popen(
        [sys.executable, "-m", "tests.journal.owner", str(path), "hold"], stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "ready\n"
        with pytest.raises(CommandError, match=r"in use by another webhookd"):
            async with open_store(path, clock=CLOCK, ids=IDS):
                pass
        owner.send_signal(signal.SIGKILL)
    async with running(path) as journal:
        await add_endpoint(journal)


async def test_killed_at_any_moment_it_keeps_all_it_answered(path: Path) -> None:
    """After a writer is killed under load, every acknowledged event has its delivery, in gapless sequence."""
    for round_number in range(5):
        owner = subprocess.Popen(
            [sys.executable, "-m", "tests.journal.owner", str(path), f"r{round_number}"],
            stdout=subprocess.PIPE,
            text=True,
        )
        with owner:
            assert owner.stdout is not None
            answered = []
            for line in owner.stdout:
                answered.append(line.strip())
                if len(answered) == 200 + 111 * round_number:
                    owner.send_signal(signal.SIGKILL)
                    answered += [rest.strip() for rest in owner.stdout if rest.endswith("\n")]
        async with running(path) as journal:
            [endpoint, *_] = await journal.transactions.read(endpoints.all)
            feed = await journal.transactions.read(events.page, None, limit=100_000, cursor=None, after=None)
            stored = {row.id for row in feed.items}
            assert set(answered) - {"ready"} <= stored
            sequences = [row.sequence for row in reversed(await all_deliveries(journal, endpoint))]
            assert sequences == list(range(1, len(stored) + 1))


def test_a_file_that_is_no_journal_is_left_alone(path: Path) -> None:
    """A foreign database, and a file that is none, are refused and not changed by a byte."""
    with sqlite3.connect(path) as foreign:
        foreign.execute("PRAGMA application_id = 1234")
        foreign.execute("CREATE TABLE theirs (a)")
    foreign.close()
    for content in (path.read_bytes(), b"#!/bin/sh\necho hello\n" * 20, b"x"):
        path.write_bytes(content)

        async def attempt() -> None:
            async with running(path):
                pass

        with pytest.raises(JournalError, match="not a journal"):
            trio.run(attempt)
        assert path.read_bytes() == content


async def test_a_first_page_that_a_power_cut_tore_is_made_again(path: Path) -> None:
    """Zeros in the first page, with SQLite's note that there was no page, are an empty journal."""
    path.write_bytes(bytes(4096))
    undo = path.with_name(path.name + "-journal")
    # Magic, no pages, a nonce, no pages before, the sizes of a sector and of a page.
    undo.write_bytes(struct.pack(">8s5I", bytes.fromhex("d9d505f920a163d7"), 0, 1, 0, 512, 4096).ljust(512, b"\0"))
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        await publish(journal, event("e1"), endpoint).wait()
    assert not undo.exists()
    path.write_bytes(bytes(4096))
    with pytest.raises(JournalError, match="not a journal"):
        async with running(path):
            pass


async def test_a_newer_journal_is_refused(path: Path) -> None:
    """A file of a later release is refused, and the error has both versions."""
    async with running(path):
        pass
    with sqlite3.connect(path) as raw:
        raw.execute(f"PRAGMA user_version = {CURRENT_VERSION + 1}")
    raw.close()
    with pytest.raises(JournalError, match=f"version {CURRENT_VERSION + 1} and this webhookd knows {CURRENT_VERSION}"):
        async with open_store(path, clock=CLOCK, ids=IDS):
            pass


async def test_a_damaged_journal_is_refused(path: Path) -> None:
    """Damaged pages are a JournalError."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        for number in range(200):
            await publish(journal, event(f"e{number}", size=2000), endpoint).wait()
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 8192))
    with pytest.raises((JournalError, BaseExceptionGroup)) as refused:
        async with running(path) as journal:
            await journal.transactions.read(endpoints.all)
    error = refused.value
    assert isinstance(error, JournalError) or refused.group_contains(JournalError)


async def test_giving_up_waiting_takes_nothing_back(path: Path) -> None:
    """A caller that is canceled while it waits for a commit loses the answer, not the event."""
    async with running(path) as journal:
        endpoint = await add_endpoint(journal)
        ticket = publish(journal, event("e"), endpoint)
        with trio.CancelScope() as scope:
            scope.cancel()
            await ticket.wait()
        assert scope.cancelled_caught
        assert (await publish(journal, event("e"), endpoint).wait()).duplicate

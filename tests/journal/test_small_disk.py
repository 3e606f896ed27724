"""A small disk: a tmpfs of 4 MiB that is filled and then has room again."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import msgspec
import pytest
import trio
from peewee import Database

from tests.disk import NotPossibleError, fill, small_disk
from tests.journal.harness import add_endpoint, event, publish, running
from tests.journal.store_calls import submitted
from tests.patience import PATIENCE_SECONDS, until
from tests.samples import attempt_record
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import AttemptRecord, EndpointState, Outcome
from webhookd.journal import Store
from webhookd.journal.queries import events
from webhookd.journal.queries.schema import EventTypeTable

SIZE = 4 * 1024 * 1024
KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with ExitStack() as stack:
        try:
            place = stack.enter_context(small_disk(tmp_path / "disk", SIZE))
        except NotPossibleError as reason:
            pytest.skip(str(reason))
        yield place


def attempt(size: int, *, number: int = 1, endpoint_pk: int = 1, failures: int = 0) -> AttemptRecord:
    outcome = Outcome(duration_seconds=0.1, status=500, detail="x" * size)
    record = attempt_record()
    delivery = msgspec.structs.replace(record.delivery, endpoint_pk=endpoint_pk)
    state = EndpointState(failures_since_success=failures)
    return msgspec.structs.replace(record, delivery=delivery, outcome=outcome, number=number, endpoint=state)


async def looked_for_room(journal: Store) -> None:
    """Return once the writer has looked for room again and found none."""
    for _ in range(2):
        before = journal._writer._submitted  # each look makes another
        await until(lambda before=before: journal._writer._submitted is not before)  # type: ignore[misc]
    assert journal.is_full


async def test_a_disk_without_room_refuses_events_and_records_attempts(disk: Path) -> None:
    """An event is refused as JOURNAL_FULL, an attempt goes into the reserve, and room lets events in again."""
    async with running(disk / "journal.db") as journal:
        reserve = disk / "journal.db.reserve"
        assert reserve.stat().st_blocks * 512 == SIZE // 8
        await add_endpoint(journal)
        ballast = fill(disk, left=64 * KIB)
        with pytest.raises(Rejected) as refused:
            await publish(journal, event("large", size=200 * KIB)).wait()
        assert refused.value.code is ErrorCode.JOURNAL_FULL
        with trio.fail_after(PATIENCE_SECONDS):
            await submitted(journal, attempt(100 * KIB)).wait()
        assert journal.is_full
        assert not reserve.exists()
        with pytest.raises(Rejected) as refused:
            await journal.room()
        assert refused.value.code is ErrorCode.JOURNAL_FULL
        ballast.unlink()
        await until(lambda: not journal.is_full)
        await publish(journal, event("large", size=200 * KIB)).wait()
        assert reserve.exists()


async def test_what_the_reserve_has_no_room_for_waits(disk: Path) -> None:
    """An attempt that is too large waits without delaying another endpoint's, and is on disk once there is room.

    The next attempt of its endpoint waits behind it, so the endpoint's state on disk is that after the last attempt.
    """
    async with running(disk / "journal.db") as journal:
        endpoint, other = await add_endpoint(journal), await add_endpoint(journal)
        ballast = fill(disk, left=64 * KIB)
        large = submitted(journal, attempt(800 * KIB, endpoint_pk=endpoint.pk, failures=1))
        await until(lambda: journal._writer._is_stuck)
        following = submitted(journal, attempt(1, number=2, endpoint_pk=endpoint.pk, failures=2))
        with trio.fail_after(PATIENCE_SECONDS):
            await submitted(journal, attempt(1, number=3, endpoint_pk=other.pk)).wait()
        assert (large.is_done, following.is_done, journal.is_full) == (False, False, True)
        ballast.unlink()
        with trio.fail_after(PATIENCE_SECONDS):
            await large.wait()
            await following.wait()
        assert (await journal.webhooks.state(endpoint.pk)).failures_since_success == 2


async def test_a_checkpoint_without_room_takes_nothing_back(disk: Path) -> None:
    """A commit is answered as successful, although there is no room to copy it from the log into the file."""
    path = disk / "journal.db"
    log = path.with_name(path.name + "-wal")
    async with running(path) as journal:
        ballast = fill(disk, left=700 * KIB)
        journal.cut_log()
        result = await publish(journal, event("large", size=400 * KIB)).wait()
        assert (result.duplicate, journal.is_full) == (False, False)
        assert log.stat().st_size > 400 * KIB  # the log couldn't be cut
        assert (await journal.transactions.read(events.get, "large", None)).id == "large"
        ballast.unlink()
        await publish(journal, event("small")).wait()
        assert log.stat().st_size == 0


async def test_a_change_that_finds_no_room_midway_waits_for_it(tmp_path: Path) -> None:
    """A change larger than the cache, for which SQLite rolls back by itself, is made once there is room."""

    def grow(database: Database) -> None:
        EventTypeTable.update(description="x" * 800 * KIB).execute(database)

    with ExitStack() as stack:
        try:
            disk = stack.enter_context(small_disk(tmp_path / "disk", 16 * SIZE))
        except NotPossibleError as reason:
            pytest.skip(str(reason))
        async with running(disk / "journal.db") as journal:
            ballast = fill(disk, left=64 * KIB)
            large = journal.transactions.submit(grow, insists=True)
            await looked_for_room(journal)
            assert (large.is_done, journal.is_full) == (False, True)
            ballast.unlink()
            with trio.fail_after(PATIENCE_SECONDS):
                await large.wait()


async def test_nothing_passes_what_divides(disk: Path) -> None:
    """What was submitted after a change that finds no room, and must not be passed, is on disk after it and not before.

    A clock that was set moves what is on disk: what is submitted later goes by the new time already.
    """
    order: list[str] = []

    def grow(database: Database) -> None:
        described = EventTypeTable.update(description="x" * 800 * KIB)
        described.where(EventTypeTable.name == "user.created").execute(database)

    async with running(disk / "journal.db") as journal:
        await add_endpoint(journal)
        ballast = fill(disk, left=64 * KIB)
        before = journal.transactions.submit(lambda _: None, lambda _: order.append("before"), insists=True)
        dividing = journal.transactions.submit(grow, lambda _: order.append("dividing"), insists=True, is_barrier=True)
        after = submitted(journal, attempt(1))
        later = journal.transactions.submit(lambda _: None, lambda _: order.append("after"), insists=True)
        with trio.fail_after(PATIENCE_SECONDS):
            await before.wait()
        await looked_for_room(journal)
        assert (dividing.is_done, after.is_done, later.is_done) == (False, False, False)
        ballast.unlink()
        with trio.fail_after(PATIENCE_SECONDS):
            await later.wait()
        assert order == ["before", "dividing", "after"]


async def test_what_divides_passes_nothing(disk: Path) -> None:
    """An attempt that finds no room was decided on before the change that comes next, and is on disk before it."""
    async with running(disk / "journal.db") as journal:
        await add_endpoint(journal)
        ballast = fill(disk, left=64 * KIB)
        large = submitted(journal, attempt(800 * KIB))
        await until(lambda: journal._writer._is_stuck)
        dividing = journal.transactions.submit(lambda _: None, insists=True, is_barrier=True)
        await looked_for_room(journal)
        assert (large.is_done, dividing.is_done) == (False, False)
        ballast.unlink()
        with trio.fail_after(PATIENCE_SECONDS):
            await dividing.wait()
        assert large.is_done

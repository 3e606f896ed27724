"""The writer's turns: how much goes into one commit, who is in the next one, and that the event loop goes on."""

from pathlib import Path

import msgspec
import pytest
import trio

from tests.journal.harness import Commits, add_endpoint, event, running
from tests.journal.store_calls import submitted
from tests.patience import until
from tests.samples import attempt_record
from tests.turns import counting
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import DeliveryStatus, Message, Target
from webhookd.journal import DeliveriesQueued, Store
from webhookd.journal.reader import MOST_QUESTIONS
from webhookd.journal.writer import MAX_LANE_COST, PATIENCE_SECONDS

CROWD = 40
# What takes a slow disk a tenth of a second, and hundreds of times what an event alone writes.
MOST_ROWS = 2000
MOST_A_STEP = 64  # results, deliveries or bodies, each of which may send a request


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


def targets(count: int) -> tuple[Target, ...]:
    """Return targets that are the first endpoints of a journal."""
    return tuple(
        Target(endpoint_pk=number + 1, status=DeliveryStatus.PENDING, max_age_seconds=60) for number in range(count)
    )


async def add_endpoints(journal: Store, count: int) -> None:
    for _ in range(count):
        await add_endpoint(journal)


async def test_a_commit_is_bounded_by_its_rows(path: Path) -> None:
    """Many events for many endpoints are many commits, each of a bounded number of rows; events alone fill one."""
    async with running(path) as journal:
        await add_endpoints(journal, CROWD)
        commits = Commits(journal)
        tickets = [journal.publish(event(f"e{number}"), targets(CROWD)) for number in range(100)]
        for ticket in tickets:
            assert (await ticket.wait()).deliveries == CROWD
        stored = 100 * (1 + CROWD)
        assert sum(commits.rows) >= stored
        assert max(commits.rows) <= MOST_ROWS
        assert len(commits.rows) >= stored // MOST_ROWS
        commits.rows.clear()
        tickets = [journal.publish(event(f"alone{number}"), ()) for number in range(1000)]
        await tickets[-1].wait()
        assert len(commits.rows) <= 2


async def test_an_event_and_its_deliveries_are_one_commit(path: Path) -> None:
    """All rows of an event are in one transaction of its own, however many endpoints it goes to."""
    async with running(path) as journal:
        fanned_out = MOST_ROWS
        await add_endpoints(journal, 2)
        most = tuple(targets(2)[number % 2] for number in range(fanned_out))
        commits = Commits(journal)
        large = [journal.publish(event(f"large{number}"), most) for number in range(3)]
        beside = journal.publish(event("beside"), (), flow="beside")
        for ticket in (*large, beside):
            await ticket.wait()
        assert sum(rows > fanned_out for rows in commits.rows) == 3
        assert max(commits.rows) <= fanned_out + 10


async def test_another_producers_event_is_in_one_of_the_next_two_commits(path: Path) -> None:
    """However much one producer has submitted, others wait for a bounded time."""
    async with running(path) as journal:
        await add_endpoints(journal, CROWD)
        crowd = [journal.publish(event(f"e{number}"), targets(CROWD), flow="crowd") for number in range(400)]
        await crowd[0].wait()
        commits = Commits(journal)
        for number in range(5):
            commits.rows.clear()
            await journal.publish(event(f"other{number}"), (), flow=f"other{number}").wait()
            assert len(commits.rows) <= 2
            commits.rows.clear()
            await submitted(journal, msgspec.structs.replace(attempt_record(), number=number + 1)).wait()
            assert len(commits.rows) <= 2
        assert not crowd[-1].is_done
        done = [ticket.is_done for ticket in crowd]
        assert done == sorted(done, reverse=True), "a producer's events keep their order"


async def test_a_producer_may_have_only_so_much_waiting(path: Path) -> None:
    """A full flow makes its own producer wait for room, and no other, until it is written."""
    async with running(path) as journal:
        await add_endpoints(journal, CROWD)
        count = 0
        while journal.has_room("crowd"):
            journal.publish(event(f"e{count}"), targets(CROWD), flow="crowd")
            count += 1
        assert count == -(-MAX_LANE_COST // (1 + 2 * CROWD))
        with trio.move_on_after(0):
            await journal.room("other")
            other = journal.publish(event("other"), (), flow="other")
        assert (await other.wait()).deliveries == 0
        with trio.fail_after(PATIENCE_SECONDS):
            await journal.room("crowd")
        assert journal.has_room("crowd")


async def test_an_attempt_is_passed_on_before_the_events_of_its_commit(path: Path) -> None:
    """The next request doesn't wait for the results of events that were submitted before the attempt."""
    async with running(path) as journal:
        await add_endpoints(journal, 1)
        events = [journal.publish(event(f"e{number}"), targets(1)) for number in range(100)]
        done: list[int] = []
        commits = Commits(journal)
        journal.record(attempt_record(), landed=lambda _: done.append(sum(ticket.is_done for ticket in events)))
        await events[-1].wait()
        assert (len(commits.rows), done) == (1, [0])


async def test_a_writer_that_stops_says_so_at_once(path: Path) -> None:
    """If events are refused there is nothing to wait for: `room` raises the reason."""
    async with running(path) as journal:
        journal.refuse_events()
        assert journal.has_room("any")
        with pytest.raises(Rejected) as refused:
            await journal.room("any")
        assert refused.value.code is ErrorCode.SHUTTING_DOWN


async def test_a_record_that_comes_too_late_is_refused_at_once(path: Path) -> None:
    """After the writer has stopped, `record` reports that nothing was stored before it returns."""
    async with running(path) as journal:
        pass
    landed: list[Exception | None] = []
    journal.record(attempt_record(), landed=landed.append)
    [error] = landed
    assert isinstance(error, Rejected)
    assert error.code is ErrorCode.SHUTTING_DOWN


async def test_an_event_for_thousands_is_passed_on_in_parts(path: Path) -> None:
    """After a commit of thousands of deliveries other tasks get a turn between small parts of them."""
    with counting() as steps:
        async with running(path) as journal:
            await add_endpoints(journal, 2)
            journal.feed.follow(DeliveriesQueued, lambda queued: steps.note(len(queued.deliveries)))
            large = journal.publish(event("large"), tuple(targets(2)[number % 2] for number in range(5000)))
            assert (await large.wait()).deliveries == sum(steps.counts) == 5000
    assert max(steps.counts) <= MOST_A_STEP


async def test_records_of_one_commit_land_in_parts(path: Path) -> None:
    """However many records a commit has, other tasks get a turn after some of them: each may send a request."""
    with counting() as steps:
        async with running(path) as journal:
            commits = Commits(journal)
            for number in range(300):
                record = msgspec.structs.replace(attempt_record(), attempt_id=f"att_{number}", number=number + 1)
                journal.record(record, landed=lambda _: steps.note())
            await until(lambda: sum(steps.counts) == 300)
    assert len(commits.rows) == 1
    assert max(steps.counts) <= MOST_A_STEP


async def test_bodies_of_one_read_are_passed_on_in_parts(path: Path) -> None:
    """However many flights a read brings their bodies, other tasks get a turn after some of them."""
    with counting() as steps:
        async with running(path) as journal:
            await journal.publish(event("e"), ()).wait()
            for _ in range(MOST_QUESTIONS):
                journal.read_message(1, tuple, lambda _: steps.note())
            await until(lambda: sum(steps.counts) == MOST_QUESTIONS)
    assert max(steps.counts) <= MOST_A_STEP


async def test_a_body_that_is_gone_harms_no_other(path: Path) -> None:
    """A read of a message whose event was removed ends with LookupError, and the other reads with their messages."""
    got: list[Message | Exception] = []
    async with running(path) as journal:
        await journal.publish(event("e"), ()).wait()
        journal.read_message(2, tuple, got.append)
        journal.read_message(1, tuple, got.append)
        await until(lambda: len(got) == 2)
    gone, found = got
    assert type(gone) is LookupError
    assert isinstance(found, Message)


async def test_an_event_is_on_disk_no_earlier_than_a_change_before_it(path: Path) -> None:
    """However many changes wait, later events are answered after them: the first change stores that it has begun."""
    async with running(path) as journal:
        changes = [journal.transactions.submit(lambda _: None) for _ in range(200)]
        await journal.publish(event("e"), ()).wait()
        assert all(ticket.is_done for ticket in changes)

"""Count the pages that a commit writes under a backlog: what it adds to the write-ahead log, in pages of 4 KiB.

The journal is filled beforehand and written in this process, with records of successful attempts, each of another
endpoint, and with events for one endpoint each. A count is the same on every machine.
"""

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import apsw
import msgspec
import trio

from tests import samples
from tests.bench.generator import EVENT_TYPE
from tests.bench.load import Load
from tests.bench.report import Figure, Result, Target
from tests.bench.seed import Content, Group, seed
from tests.bench.yardsticks import SENT_BODY
from tests.journal.store_calls import submitted
from tests.open_file import writing_database
from webhookd.base.clock import SystemClock
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import AcceptedEvent, DeliveryStatus, Ordering, QueuedDelivery
from webhookd.base.models import Target as To
from webhookd.journal import Store, Ticket, WindowRequest, open_store

NOWHERE = "http://127.0.0.1:9/"
ENDPOINTS = 50
RECORDS, EVENTS = 25, 20
COMMITS = 40
WARM_COMMITS = 5

_CLOCK = SystemClock()
_IDS = IdFactory(_CLOCK.now)


def of_commits(load: Load, *, target: Target) -> Result:
    """Count the pages of commits with different content; the backlog is of events for all endpoints, or for one each.

    `target` is for the commits of as many records as a busy server has in one.
    """
    result = Result(receiver="none: nothing is sent")
    backlog = load.of(1_000_000)
    for what, fan_out in ((f"events for {ENDPOINTS}", ENDPOINTS), ("events for one", 1)):
        with TemporaryDirectory(prefix="webhookd-bench-") as name:
            directory = Path(name)
            groups = (Group(count=ENDPOINTS, url=NOWHERE),)
            seed(directory, Content(groups=groups, deliveries=backlog, fan_out=fan_out))
            for records, events in ((RECORDS, 0), (ENDPOINTS, 0), (RECORDS, EVENTS)):
                content = f"{records} records" + (f" and {events} events" if events else "")
                counted = trio.run(_count, directory / "webhookd.db", records, events)
                is_usual = (records, events) == (RECORDS, 0)
                result.figures.append(
                    Figure(
                        what=f"{what}: {content}",
                        unit="pages",
                        values=tuple(counted),
                        target=target if is_usual else None,
                    )
                )
    result.notes.append(f"a backlog of {backlog:,} deliveries for {ENDPOINTS} endpoints")
    return result


async def _count(path: Path, records: int, events: int) -> list[float]:
    """Return the pages of each commit of so many records and of events, each of which is for one endpoint."""
    counted: list[float] = []
    async with open_store(path, clock=_CLOCK, ids=_IDS) as store, trio.open_nursery() as nursery:
        await nursery.start(store.run)
        queues = [await _queue(store, pk) for pk in range(1, ENDPOINTS + 1)]
        connection: Any = writing_database(store).connection()
        turn = 0
        for _ in range(WARM_COMMITS + COMMITS):
            before = _written(connection)
            tickets: list[Ticket[Any]] = []
            for _ in range(records):
                delivery = queues[turn % ENDPOINTS].pop()
                tickets.append(submitted(store, msgspec.structs.replace(_SUCCESS, delivery=delivery, number=1)))
                turn += 1
            targets = [_targets([(turn + number) % ENDPOINTS + 1]) for number in range(events)]
            tickets += [store.publish(_event(), each) for each in targets]
            for ticket in tickets:
                await ticket.wait()
            counted.append(_written(connection) - before)
        nursery.cancel_scope.cancel()
    return counted[WARM_COMMITS:]


_SUCCESS = samples.attempt_record()


async def _queue(store: Store, endpoint_pk: int) -> list[QueuedDelivery]:
    """Return the first deliveries of an endpoint's queue, the last one first."""
    window = await store.window(
        WindowRequest(
            endpoint_pk=endpoint_pk,
            ordering=Ordering.STRICT,
            limit=WARM_COMMITS + COMMITS,
            now=_CLOCK.now(),
            blocked_keys=frozenset(),
            in_flight=frozenset(),
        )
    )
    return list(window.pending[::-1])


def _event() -> AcceptedEvent:
    now = _CLOCK.now()
    return AcceptedEvent(
        id=_IDS.new(Prefix.EVENT),
        type=EVENT_TYPE,
        organization_id=None,
        ordering_key=None,
        traceparent=None,
        timestamp=now,
        accepted_at=now,
        body=SENT_BODY,
    )


def _targets(endpoint_pks: Sequence[int]) -> tuple[To, ...]:
    return tuple(To(endpoint_pk=pk, status=DeliveryStatus.PENDING, max_age_seconds=259_200) for pk in endpoint_pks)


def _written(connection: Any) -> int:
    """Return how many pages a connection has written so far; in WAL mode they go to the log."""
    current, _ = connection.status(apsw.SQLITE_DBSTATUS_CACHE_WRITE)
    return int(current)

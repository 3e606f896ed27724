"""What the log says of an outage: one line when it begins, one a minute, and one when it ends."""

import pytest
import trio
from structlog.testing import capture_logs

from tests.journal.harness import event, publish
from tests.journal.postgres.test_outage import running
from tests.journal.store_calls import add
from tests.patience import until
from tests.postgres_server import PostgresServer
from webhookd.journal.errors import ConnectionLostError
from webhookd.journal.postgres import outages
from webhookd.journal.postgres.outages import SAID_EVERY_SECONDS, OutageLog

LOST = ConnectionLostError("the connection is lost")
PARTS = ("node", "writer", "listener", "look")


class Time:
    """The time as a test sets it."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


def test_an_outage_of_hours_is_a_line_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    """An outage has one first line, however many parts fail, and a last one with its length; so has the next outage."""
    time = Time()
    monkeypatch.setattr(outages, "time", time)
    log = OutageLog("db")
    with capture_logs() as lines:
        for part in PARTS:
            log.succeeded(part)
        for _ in range(5 * 60):
            for part in PARTS:
                log.failed(part, LOST)
            time.now += 1.0
        for part in PARTS:
            log.succeeded(part)
            log.succeeded(part)
    told = [(line["event"], line.get("seconds")) for line in lines]
    still = [("journal.still_unreachable", minute * SAID_EVERY_SECONDS) for minute in range(1, 5)]
    assert told == [("journal.connection_lost", None), *still, ("journal.connected_again", 300.0)]
    with capture_logs() as lines:
        log.failed("writer", LOST)
        log.succeeded("writer")
    assert [line["event"] for line in lines] == ["journal.connection_lost", "journal.connected_again"]


async def test_all_parts_of_a_node_share_the_lines(own_server: PostgresServer) -> None:
    """Its writer, its lease, and what it hears and looks for: each fails many times, and none has lines of its own."""
    with own_server.database() as name, capture_logs() as lines:
        async with running(own_server.url(name)) as store:
            endpoint = await add(store)
            # Partitions are looked at once an hour, which has a line of its own if it fails: not in this outage.
            await until(lambda: store.days_ahead is not None)
            await trio.to_thread.run_sync(own_server.stop)
            ticket = publish(store, event("e"), endpoint)
            await until(lambda: not store.ownership.owns(endpoint.pk))
            await trio.to_thread.run_sync(own_server.start)
            await ticket.wait()
            await until(lambda: any(line["event"] == "journal.connected_again" for line in lines))
            of_long_ones = {"journal.unreachable", "journal.still_unreachable"}
            # One with a sentence is the driver's: a pipeline was cut off.
            told = [name for line in lines if " " not in (name := line["event"]) and name not in of_long_ones]
            assert told == [
                *("journal.connection_lost", "node.out_of_time", "node.database_replaced"),
                "journal.connected_again",
            ]

"""A server that is killed under load keeps its promises, and the harness that checks this finds planted faults."""

from pathlib import Path

import pytest
import trio

from tests.e2e.harness import running
from tests.killing.__main__ import PLANTED, find, play
from tests.killing.producers import Ledger, SocketProducer
from tests.killing.receivers import Lives, Watched
from tests.long import long
from tests.receiver import Reply, always


def test_a_killed_server_keeps_its_promises() -> None:
    """A server that is killed at random moments, also during its start, delivers every acknowledged event in order."""
    report = play(seed=3, cycles=1, connections=5)
    assert report.problems == []
    assert report.kills >= 3
    assert report.acknowledged > 60
    assert report.requests > 4 * report.acknowledged - 1


@pytest.mark.parametrize("name", long(PLANTED, lambda name: name != "alters bodies"))
def test_a_planted_fault_is_found(name: str) -> None:
    """The harness finds a server that acknowledges early, loses, reorders, renumbers, alters or doesn't record."""
    assert find(name) is not None


async def test_a_restart_continues_with_the_queue(tmp_path: Path) -> None:
    """Deliveries that were queued for a receiver that was down are sent in order after a kill and a restart."""
    async with running(tmp_path) as server, trio.open_nursery() as nursery:
        down = Watched("down", "strict", 1, always(Reply(status=503)), Lives())
        await nursery.start(down.receiver.run)
        webhook = await server.webhook(down.receiver.url)
        ledger = Ledger()
        producer = SocketProducer(0, ledger, seed=1)
        expected = [producer._make().id for _ in range(50)]
        ledger.is_closing = True
        await producer.run(server.socket)
        await server.kill()
        await server.start()
        down.recover()
        await server.settled(webhook["id"])
        assert [exchange.event for exchange in down.exchanges if exchange.is_good] == expected
        nursery.cancel_scope.cancel()

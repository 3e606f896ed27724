"""The promise under load and kill -9 of the real process, and faults that must be found by it."""

from pathlib import Path

import pytest
import trio

from tests.e2e.harness import running
from tests.killing.__main__ import PLANTED, find, play
from tests.killing.producers import Ledger, SocketProducer
from tests.killing.receivers import Lives, Watched
from tests.long import long
from tests.receiver import Reply, always


def test_killed_under_load_it_keeps_its_promise() -> None:
    """Killed at random moments, starts included, while receivers fail, it delivers all it acknowledged, in order."""
    report = play(seed=3, cycles=1, connections=5)
    assert report.problems == []
    assert report.kills >= 3
    assert report.acknowledged > 60
    assert report.requests > 4 * report.acknowledged - 1


@pytest.mark.parametrize("name", long(PLANTED, lambda name: name != "alters bodies"))
def test_a_planted_fault_is_found(name: str) -> None:
    """A server that acknowledges early, forgets, reorders, renumbers, alters or doesn't record is found out."""
    assert find(name) is not None


async def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """What was queued for a receiver that was down goes out in order after a kill and a restart."""
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
        assert [heard.event for heard in down.heard if heard.is_good] == expected
        nursery.cancel_scope.cancel()

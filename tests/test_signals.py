"""SIGHUP names the changed keys of the configuration, and reading a file that hangs blocks nothing."""

import os
from pathlib import Path

import trio
from msgspec.structs import replace

from webhookd.config import KEYS, Config, load_config
from webhookd.signals import changed, compare


def test_each_key_that_differs_is_named_and_no_other() -> None:
    """The changed keys are named with their sections, in the order of the tree, without their values."""
    old = Config()
    assert changed(old, Config()) == ()
    new = replace(
        old,
        egress=replace(old.egress, proxy="http://user:secret@proxy:1"),
        server=replace(old.server, port=1, host="::1"),
    )
    assert changed(old, new) == ("server.host", "server.port", "egress.proxy")
    assert all("." in name for name in changed(old, new))
    assert {name.partition(".")[0] for name in changed(old, new)} <= set(KEYS)


async def test_a_file_that_hangs_blocks_nothing(tmp_path: Path) -> None:
    """A configuration that is a pipe without a writer is read in a thread, and abandoned on cancellation."""
    fifo = tmp_path / "config.toml"
    os.mkfifo(fifo)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(compare, Config(), lambda: load_config(fifo, {}), trio.CapacityLimiter(1))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    fifo.open("w").close()  # lets the thread end

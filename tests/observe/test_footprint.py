"""Disk space, memory and descriptors, also with a disk that doesn't answer."""

from collections.abc import Callable
from pathlib import Path

import trio

from webhookd.observe.footprint import FRESH_SECONDS, PATIENCE_SECONDS, Footprint, Footprints


class Disk:
    """A disk that answers or hangs."""

    def __init__(self) -> None:
        self.hangs = False
        self.looks = 0

    async def run(self, function: Callable[[], Footprint]) -> Footprint:
        self.looks += 1
        if self.hangs:
            await trio.sleep_forever()
        return function()


async def test_a_disk_that_hangs_costs_a_second_and_no_answer(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    """While the disk hangs, the last known sizes are returned; afterwards new ones, measured at most once a second."""
    journal, disk = tmp_path / "journal", Disk()
    journal.write_bytes(b"x" * 10)
    footprints = Footprints(journal, disk.run)
    journal.write_bytes(b"x" * 20)
    assert _journal_bytes(await footprints.look()) == 20
    journal.write_bytes(b"x" * 30)
    assert _journal_bytes(await footprints.look()) == 20
    assert disk.looks == 1
    await trio.sleep(FRESH_SECONDS)
    disk.hangs = True
    asked_at = trio.current_time()
    assert _journal_bytes(await footprints.look()) == 20
    assert trio.current_time() - asked_at == PATIENCE_SECONDS
    disk.hangs = False
    assert _journal_bytes(await footprints.look()) == 30


async def test_a_thread_looks(tmp_path: Path) -> None:
    """All sizes are measured, and that of a missing log is 0."""
    (tmp_path / "journal").write_bytes(b"x")
    found = await Footprints(tmp_path / "journal").look()
    assert found.disk is not None
    assert (found.disk.journal_bytes, found.disk.log_bytes) == (1, 0)
    assert 0 < found.disk.free_bytes <= found.disk.whole_bytes
    assert found.resident_bytes is not None
    assert found.resident_bytes > 1_000_000
    assert found.descriptors is not None
    assert found.descriptors > 2


async def test_a_machine_without_proc_says_what_it_can(tmp_path: Path) -> None:
    """In a bare root directory, or on macOS, the process's sizes are unknown and the others are measured."""
    (tmp_path / "journal").write_bytes(b"x")
    found = await Footprints(tmp_path / "journal", process=tmp_path / "proc").look()
    assert (_journal_bytes(found), found.resident_bytes, found.descriptors) == (1, None, None)


async def test_a_journal_without_a_file_has_no_disk(tmp_path: Path) -> None:
    """The disk of a database is another machine's; what the process uses is measured all the same."""
    found = await Footprints(None).look()
    assert found.disk is None
    assert found.resident_bytes is not None


def _journal_bytes(found: Footprint) -> int:
    assert found.disk is not None
    return found.disk.journal_bytes

"""A disk that is really small: a tmpfs of 4 MiB, filled up and given room again."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import trio

from tests.journal.harness import add_endpoint, event, publish, running
from tests.samples import attempt_record
from webhookd.errors import ErrorCode, Rejected
from webhookd.journal import events
from webhookd.models import Outcome

SIZE = 4 * 1024 * 1024
KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk")
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", place], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no disk can be mounted here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


def fill(disk: Path, left: int) -> Path:
    """Write a file that leaves so many bytes of the disk; return it."""
    ballast = disk / "ballast"
    found = os.statvfs(disk)
    ballast.write_bytes(bytes(found.f_bavail * found.f_frsize - left))
    return ballast


async def test_a_disk_without_room_refuses_events_and_keeps_attempts(disk: Path) -> None:
    """An event is refused as JOURNAL_FULL, an attempt waits, and both go on by themselves once there is room."""
    async with running(disk / "journal.db") as journal:
        await add_endpoint(journal)
        ballast = fill(disk, 64 * KIB)
        with pytest.raises(Rejected) as refused:
            await publish(journal, event("large", size=200 * KIB)).wait()
        assert refused.value.code is ErrorCode.JOURNAL_FULL
        outcome = Outcome(duration_seconds=0.1, status=500, detail="x" * 200 * KIB)
        recorded = journal.record(msgspec.structs.replace(attempt_record(), outcome=outcome))
        await trio.sleep(1.2)
        assert (recorded.is_done, journal.is_full) == (False, True)
        ballast.unlink()
        with trio.fail_after(5):
            await recorded.wait()
            await publish(journal, event("large", size=200 * KIB)).wait()
        assert not journal.is_full


async def test_a_checkpoint_without_room_takes_nothing_back(disk: Path) -> None:
    """What was committed is answered so, though there is no room to bring it from the log into the file."""
    path = disk / "journal.db"
    log = path.with_name(path.name + "-wal")
    async with running(path) as journal:
        ballast = fill(disk, 700 * KIB)
        journal.cut_log()
        result = await publish(journal, event("large", size=400 * KIB)).wait()
        assert (result.duplicate, journal.is_full) == (False, False)
        assert log.stat().st_size > 400 * KIB  # the log couldn't be cut
        assert (await journal.read(events.get, "large", None)).id == "large"
        ballast.unlink()
        await publish(journal, event("small")).wait()
        assert log.stat().st_size == 0

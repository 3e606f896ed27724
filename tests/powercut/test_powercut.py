"""Power cuts in recorded runs of the real server break no promise, and the harness finds planted faults."""

import random
from pathlib import Path

import pytest

from tests.long import long
from tests.powercut.__main__ import PLANTED, find, run
from tests.powercut.disk import SECTOR, Disk, Fate
from tests.powercut.record import why_not
from tests.powercut.trace import Name, Open, Step, Sync, Write, read

records = pytest.mark.skipif(why_not() is not None, reason=why_not() or "")


@records
def test_power_cuts_in_a_first_start_break_no_promise() -> None:
    """After a power cut in its first start or its first events, a server starts with every acknowledged event."""
    result = run(0, states=60, events=20, lives=1)
    assert result.problems == []
    assert result.states > 60
    assert result.acknowledged > 10


@pytest.mark.slow
@records
def test_power_cuts_in_an_upgrade_and_after_a_kill_break_no_promise() -> None:
    """After a cut in an upgrade, a checkpoint, a backup, a key rotation or a recovery, it starts with everything."""
    result = run(1, states=120, events=20)
    assert result.problems == []
    assert result.states > 120
    assert result.acknowledged > 40
    assert min(result.moments[kind] for kind in ("after an answer", "after a request", "before a sync")) > 0


@records
@pytest.mark.parametrize("name", long(PLANTED, lambda name: name != "acknowledges early"))
def test_a_planted_fault_is_found(name: str) -> None:
    """The harness finds a server that acknowledges or renames before the data is on disk."""
    assert find(name, states=200) is not None


def write_new_file(disk: Disk, path: str, data: bytes) -> None:
    for step in (
        Open(path=path, descriptor=3, creates=True, truncates=False),
        Write(path=path, descriptor=3, offset=0, data=data),
    ):
        take(disk, step)


def take(disk: Disk, step: Step) -> None:
    disk.take(step, is_end=False)
    disk.take(step, is_end=True)


def all_left(disk: Disk) -> list[dict[str, bytes]]:
    dice = random.Random(1)  # noqa: S311 - a test's dice
    return [files for _ in range(200) for _, files in disk.left([*Fate], dice)]


def test_synced_data_is_left_and_any_part_of_the_rest() -> None:
    """Synced writes are left, a new file only after a sync of its directory, and of later writes any part."""
    disk = Disk({})
    write_new_file(disk, "/d/a", b"1" * 2 * SECTOR)
    assert {} in all_left(disk)
    take(disk, Sync(path="/d/a", descriptor=3))
    assert {} in all_left(disk)
    take(disk, Sync(path="/d", descriptor=4))
    assert all_left(disk) == [{"/d/a": b"1" * 2 * SECTOR}] * len(all_left(disk))
    take(disk, Write(path="/d/a", descriptor=3, offset=0, data=b"2" * 2 * SECTOR))
    halves = {bytes(files["/d/a"][at] for at in (0, SECTOR)) for files in all_left(disk)}
    assert halves == {b"11", b"12", b"21", b"22"}
    assert disk.written() == {"/d/a": b"2" * 2 * SECTOR}


def test_a_sync_covers_only_what_had_ended_before_it() -> None:
    """A write during a sync of its file may be lost, and so may a write whose sync has not ended."""
    disk = Disk({"/d/a": b"1"})
    take(disk, Open(path="/d/a", descriptor=3, creates=False, truncates=False))
    take(disk, Write(path="/d/a", descriptor=3, offset=0, data=b"2"))
    sync = Sync(path="/d/a", descriptor=3)
    disk.take(sync, is_end=False)
    take(disk, Write(path="/d/a", descriptor=3, offset=0, data=b"3"))
    assert {files["/d/a"] for files in all_left(disk)} == {b"1", b"2", b"3"}
    disk.take(sync, is_end=True)
    assert {files["/d/a"] for files in all_left(disk)} == {b"2", b"3"}


def test_a_rename_is_left_after_a_sync_of_the_directory() -> None:
    """Before the sync, the file may still have its old name, and the replaced file may still be there."""
    disk = Disk({"/d/a": b"1", "/d/b": b"2"})
    take(disk, Name(path="/d/a", to="/d/b", keeps=False))
    assert [files for files in all_left(disk) if files not in ({"/d/a": b"1", "/d/b": b"2"}, {"/d/b": b"1"})] == []
    assert {"/d/a": b"1", "/d/b": b"2"} in all_left(disk)
    take(disk, Sync(path="/d", descriptor=4))
    assert {tuple(files) for files in all_left(disk)} == {("/d/b",)}


def test_calls_that_overlap_keep_their_beginnings_and_ends(tmp_path: Path) -> None:
    """A call on two lines of strace ends at the second line, and an unknown call is an error."""
    trace, root = tmp_path / "trace", tmp_path / "home"
    name = "".join(f"\\x{byte:02x}" for byte in str(root / "a").encode())
    trace.write_text(
        f'1  pwrite64(9<{name}>, "\\x61", 1, 7 <unfinished ...>\n2  fdatasync(9<{name}>) = 0\n'
        f"1  <... pwrite64 resumed>) = 1\n"
    )
    moments = list(read(trace, root))
    assert [(type(step), is_end) for step, is_end in moments] == [
        (Write, False),
        (Sync, False),
        (Sync, True),
        (Write, True),
    ]
    assert isinstance(moments[0][0], Write)
    assert (moments[0][0].offset, moments[0][0].data) == (7, b"a")
    trace.write_text(f"1  copy_file_range(9<{name}>, 0, 0, 4096) = 0\n")
    with pytest.raises(AssertionError, match="does not have"):
        list(read(trace, root))

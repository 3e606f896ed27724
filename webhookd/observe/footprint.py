"""The disk space, memory and descriptors that are in use, measured in a thread: a disk that hangs delays no answer."""

import os
import resource
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import trio
from msgspec import Struct

PATIENCE_SECONDS = 1.0
FRESH_SECONDS = 1.0
PROCESS = Path("/proc/self")

_Run = Callable[[Callable[[], "Footprint"]], Awaitable["Footprint"]]


class DiskUse(Struct, frozen=True, kw_only=True):
    """Sizes in bytes of the journal's file and its write-ahead log, and of the file system that they are on."""

    journal_bytes: int
    log_bytes: int
    free_bytes: int
    whole_bytes: int


class Footprint(Struct, frozen=True, kw_only=True):
    """Sizes in bytes, and the number of open descriptors; `disk` is None for a journal that is in no file.

    `resident_bytes` and `descriptors` are None where there is no /proc (in a bare root directory, on macOS).
    """

    disk: DiskUse | None
    resident_bytes: int | None
    descriptors: int | None


class Footprints:
    """Measures the sizes on request; create it before the server serves, since the first look waits for the disk.

    `run` makes a call that may block, and can be canceled; by default in a thread, one at a time, which is abandoned.
    """

    def __init__(self, journal: Path | None, run: _Run | None = None, process: Path = PROCESS) -> None:
        self._journal = journal
        self._process = process
        self._run = run or partial(trio.to_thread.run_sync, limiter=trio.CapacityLimiter(1), abandon_on_cancel=True)
        self._last = self._measure()
        self._looked_at = -FRESH_SECONDS

    async def look(self, *, fresh_seconds: float = FRESH_SECONDS) -> Footprint:
        """Return sizes that are at most that old, or the last known ones if the disk doesn't answer within a second."""
        if trio.current_time() - self._looked_at >= fresh_seconds:
            with trio.move_on_after(PATIENCE_SECONDS):
                self._last = await self._run(self._measure)
                self._looked_at = trio.current_time()
        return self._last

    def _measure(self) -> Footprint:
        return Footprint(
            disk=None if self._journal is None else _disk_use(self._journal),
            resident_bytes=_resident_bytes(self._process / "statm"),
            descriptors=_descriptors(self._process / "fd"),
        )


def _disk_use(journal: Path) -> DiskUse:
    disk = os.statvfs(journal.parent)
    return DiskUse(
        journal_bytes=_size(journal),
        log_bytes=_size(journal.with_name(journal.name + "-wal")),
        free_bytes=disk.f_frsize * disk.f_bavail,
        whole_bytes=disk.f_frsize * disk.f_blocks,
    )


def _resident_bytes(statm: Path) -> int | None:
    try:
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return None


def _descriptors(directory: Path) -> int | None:
    try:
        return sum(1 for _ in directory.iterdir()) - 1  # one of them is this directory
    except FileNotFoundError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

"""What the journal and the process take of the machine, looked up in a thread: a disk that hangs stops no answer."""

import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import trio
from msgspec import Struct

PATIENCE_SECONDS = 1.0
FRESH_SECONDS = 1.0
PROCESS = Path("/proc/self")


class Footprint(Struct, frozen=True, kw_only=True):
    """Sizes in bytes at one moment; `disk_*` are of the journal's file system.

    `resident_bytes` and `descriptors` are None where there is no /proc (in a bare root directory, on macOS).
    """

    journal_bytes: int
    log_bytes: int
    disk_free_bytes: int
    disk_bytes: int
    resident_bytes: int | None
    descriptors: int | None


class FootprintRunner(Protocol):
    """Makes a call that may wait."""

    async def run(self, function: Callable[[], Footprint]) -> Footprint:
        """Return what it returns; given up where that is canceled."""
        ...


class Threads:
    """Calls in a thread of its own, which is left to itself where it hangs; one at a time."""

    def __init__(self) -> None:
        self._limiter = trio.CapacityLimiter(1)

    async def run(self, function: Callable[[], Footprint]) -> Footprint:
        """Return what it returns; given up where that is canceled."""
        return await trio.to_thread.run_sync(function, limiter=self._limiter, abandon_on_cancel=True)


class Footprints:
    """Looks the sizes up for whoever asks; made before the server serves, since the first look waits for the disk."""

    def __init__(self, journal: Path, runner: FootprintRunner, process: Path = PROCESS) -> None:
        self._journal = journal
        self._process = process
        self._runner = runner
        self._last = self._measure()
        self._looked_at = -FRESH_SECONDS

    async def look(self, *, fresh_seconds: float = FRESH_SECONDS) -> Footprint:
        """Return sizes that are at most so old, or the last known ones where the disk doesn't say within a second."""
        if trio.current_time() - self._looked_at >= fresh_seconds:
            with trio.move_on_after(PATIENCE_SECONDS):
                self._last = await self._runner.run(self._measure)
                self._looked_at = trio.current_time()
        return self._last

    def _measure(self) -> Footprint:
        disk = os.statvfs(self._journal.parent)
        return Footprint(
            journal_bytes=_size(self._journal),
            log_bytes=_size(self._journal.with_name(self._journal.name + "-wal")),
            disk_free_bytes=disk.f_frsize * disk.f_bavail,
            disk_bytes=disk.f_frsize * disk.f_blocks,
            resident_bytes=_resident_bytes(self._process / "statm"),
            descriptors=_descriptors(self._process / "fd"),
        )


def _resident_bytes(statm: Path) -> int | None:
    try:
        return int(statm.read_text(encoding="ascii").split()[1]) * resource.getpagesize()
    except FileNotFoundError:
        return None


def _descriptors(directory: Path) -> int | None:
    try:
        return sum(1 for _ in directory.iterdir()) - 1  # one of them is for looking
    except FileNotFoundError:
        return None


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

"""The tester's end of `launcher.py`: commands started in child processes, and how they ended."""

import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import trio

from tests.crashpoints.arming import Place
from tests.crashpoints.launcher import Order, Report
from tests.patience import PATIENCE_SECONDS

ROOT = Path(__file__).parents[2]


class Child:
    """A process that runs a command: its `pid` once it has `started`, its `status` once it has `ended`."""

    def __init__(self) -> None:
        self.pid = 0
        self.status: int | None = None
        self.started = trio.Event()
        self.ended = trio.Event()


class Launcher:
    """Starts commands; made by `launching`."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._children: list[Child] = []
        self._ordering = trio.Lock()

    async def run(self) -> None:
        """Hear what the launcher says, until it ends."""
        assert self._process.stdout is not None
        unread = b""
        async for chunk in self._process.stdout:
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                report = msgspec.json.decode(line, type=Report)
                child = self._children[report.number]
                child.pid, child.status = report.pid, report.status
                child.started.set()
                if report.status is not None:
                    child.ended.set()

    async def start(
        self, directory: Path, arguments: Sequence[str], *, place: Place | None, planted: str | None
    ) -> Child:
        """Have a command started in a directory; return once it is."""
        child = Child()
        order = Order(
            number=len(self._children),
            directory=str(directory),
            arguments=[*arguments],
            place=place,
            planted=planted,
        )
        self._children.append(child)
        assert self._process.stdin is not None
        async with self._ordering:
            await self._process.stdin.send_all(msgspec.json.encode(order) + b"\n")
        with trio.fail_after(PATIENCE_SECONDS):
            await child.started.wait()
        return child


@asynccontextmanager
async def launching() -> AsyncIterator[Launcher]:
    """Run a launcher within the block; what it has started and still runs then is killed."""
    process = await trio.lowlevel.open_process(
        [sys.executable, "-m", "tests.crashpoints.launcher"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert process.stdin is not None
    launcher = Launcher(process)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(launcher.run)
        try:
            yield launcher
        finally:
            with trio.CancelScope(shield=True):
                await process.stdin.aclose()
                await process.wait()
            nursery.cancel_scope.cancel()

"""Run the command line with a crash point and a fault: `python -m tests.crashpoints.launcher --die-at PATH serve …`.

`--die-at` is a path of stages, separated by commas. They count once the file `--armed` exists, each only after the one
before it, and the process kills itself at the last one. `--plant` names a fault of `planted.py`. The rest goes to
`webhookd`.
"""

import argparse
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import apsw

from tests.crashpoints.planted import PLANTED
from webhookd.base.stages import AUDIT_EVENT
from webhookd.cli import main


def program(*, die_at: Sequence[str] = (), armed: Path, plant: str | None) -> tuple[str, ...]:
    """Return the command that runs webhookd so; its own arguments follow."""
    command = [sys.executable, "-m", "tests.crashpoints.launcher"]
    if die_at:
        command += ["--die-at", ",".join(die_at), "--armed", str(armed)]
    if plant is not None:
        command += ["--plant", plant]
    return tuple(command)


class _Trap:
    """Kills the process at the end of a path of stages."""

    def __init__(self, stages: Sequence[str], armed: Path) -> None:
        self._left = list(stages)
        self._armed = armed

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Take an audit event of the interpreter."""
        if event == AUDIT_EVENT:
            self.reached(*arguments)

    def reached(self, stage: str) -> None:
        """Count a stage, and die at the last one."""
        if stage == self._left[0] and self._armed.exists():
            del self._left[0]
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


class _Disk(apsw.VFS):
    """The operating system's files; each write and truncation is a stage, which is reached before it is done."""

    def __init__(self, trap: _Trap) -> None:
        self._trap = trap
        self._real = apsw.vfs_names()[0]
        super().__init__("crashing", self._real, makedefault=True)

    def xOpen(self, name: Any, flags: list[int]) -> Any:  # noqa: N802 - SQLite's name
        return _File(self._trap, self._real, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, trap: _Trap, real: str, name: Any, flags: list[int]) -> None:
        self._trap = trap
        self._name = Path("" if name is None else name if isinstance(name, str) else name.filename()).name
        super().__init__(real, name, flags)

    def xWrite(self, data: Any, offset: int) -> None:  # noqa: N802 - SQLite's name
        self._trap.reached(f"write {self._name}")
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:  # noqa: N802 - SQLite's name
        self._trap.reached(f"truncate {self._name}")
        super().xTruncate(newsize)


def _launch() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--die-at")
    parser.add_argument("--armed", type=Path)
    parser.add_argument("--plant", choices=PLANTED)
    options, sys.argv[1:] = parser.parse_known_args()
    if options.plant is not None:
        PLANTED[options.plant].plant()
    if options.die_at is not None:
        trap = _Trap(options.die_at.split(","), options.armed)
        sys.addaudithook(trap.hear)
        disk = _Disk(trap)  # registered for as long as it is held
        main()
        del disk
    else:
        main()


if __name__ == "__main__":
    _launch()

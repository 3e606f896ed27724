"""Run the real command line with faults planted in it: `python -m tests.launcher --plant "alters bodies" serve …`.

The harnesses that run the server as a process use it: each must find its faults, which `tests.planted` defines.
`--plant` may be repeated. The other two options are no faults: `--checkpoint-pages` makes the journal checkpoint its
write-ahead log so often that a short run shows it many times, and `--steps` writes each long step of the event loop to
a file.
"""

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import trio

from tests.planted import PLANTS, replace
from webhookd import server
from webhookd.cli import main
from webhookd.journal.sqlite import database

LONG_STEP_SECONDS = 0.1


def program(*plants: str, checkpoint_pages: int | None = None, steps: Path | None = None) -> tuple[str, ...]:
    """Return the command that starts webhookd with these plants; append the arguments of webhookd to it."""
    assert PLANTS.keys() >= set(plants)
    command = [sys.executable, "-m", "tests.launcher"]
    for plant in plants:
        command += ["--plant", plant]
    if checkpoint_pages is not None:
        command += ["--checkpoint-pages", str(checkpoint_pages)]
    if steps is not None:
        command += ["--steps", str(steps)]
    return tuple(command)


def show_found(faults: Iterable[str], finds: Callable[[Path, str], bool]) -> int:
    """Print for each fault whether a harness finds it; return the exit status: 1 if it misses one."""
    status = 0
    for fault in faults:
        with TemporaryDirectory(prefix="webhookd-") as directory:
            is_found = finds(Path(directory), fault)
        print(f"{fault}: {'found' if is_found else 'NOT FOUND'}", flush=True)
        status = status if is_found else 1
    return status


class LongStep(msgspec.Struct, frozen=True, kw_only=True):
    """A step of a task that blocked the event loop for long."""

    task: str
    cpu_seconds: float
    seconds: float


class StepRecorder(trio.abc.Instrument):
    """Writes a `LongStep` to a file for each step that took long, by the CPU time of the loop's thread.

    CPU time excludes the time in which other processes had the core.
    """

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("ab", buffering=0)  # noqa: SIM115 - stays open until the process ends
        self._cpu = self._at = math.inf  # not measured: the step in which the recorder is installed

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._cpu, self._at = time.thread_time(), time.perf_counter()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        cpu = time.thread_time() - self._cpu
        if cpu > LONG_STEP_SECONDS:
            step = LongStep(task=task.name, cpu_seconds=cpu, seconds=time.perf_counter() - self._at)
            self._file.write(msgspec.json.encode(step) + b"\n")


def _record_steps(path: str) -> None:
    serve = server.serve

    async def serve_and_record(*args: Any, **kwargs: Any) -> None:
        trio.lowlevel.add_instrument(StepRecorder(path))
        await serve(*args, **kwargs)

    replace(server, "serve", serve_and_record)


def _launch() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.launcher", description=__doc__, add_help=False, allow_abbrev=False
    )
    parser.add_argument("--plant", action="append", choices=PLANTS, default=[])
    parser.add_argument("--checkpoint-pages", type=int)
    parser.add_argument("--steps", metavar="FILE")
    options, rest = parser.parse_known_args()
    for plant in options.plant:
        PLANTS[plant]()
    if options.checkpoint_pages is not None:
        replace(database, "_CHECKPOINT_PAGES", options.checkpoint_pages)
    if options.steps is not None:
        _record_steps(options.steps)
    if rest[:3] == [sys.executable, "-m", "webhookd"]:  # the launcher was put in front of the usual command
        del rest[:3]
    sys.argv[1:] = rest
    main()


if __name__ == "__main__":
    _launch()

"""Runs the tests again and again, half of the runs on a machine that is kept busy: `python -m tests.steady --runs 20`.

It goes on by itself when the shell that started it ends. Each run is a line in `results` below its directory, and one
more is printed at the end; `--follow` prints them as they come and waits for the last, with status 1 where a run was
not good. Given the same directory again, it goes on behind the runs that have ended. In every second run each core has
a process beside the tests that only burns time; they are started here and end with it. What stands behind `--` goes to
pytest.
"""

import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from xml.etree import ElementTree as ET

import msgspec

from tests.__main__ import PARALLEL, ROOT, environment

DIRECTORY = Path("/tmp/webhookd-steady")  # noqa: S108 - to be found again, and another can be named
MOST_SECONDS = 3 * 3600
# It ends with the one that started it, however that ends.
BURNER = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(1_000_000))\n"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one run."""

    number: int
    is_busy: bool
    seconds: float
    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    status: int | None = None

    @property
    def is_good(self) -> bool:
        """Whether all its tests passed."""
        return self.status == 0 and not self.failed

    def line(self, of: int) -> str:
        """Return the run as a line."""
        end = {0: "", 1: "", None: ", cut off"}.get(self.status, f", status {self.status}")
        failed = f" ({', '.join(self.failed)})" if self.failed else ""
        return (
            f"run {self.number} of {of}, {'busy' if self.is_busy else 'quiet'}: {self.passed} passed, "
            f"{len(self.failed)} failed{failed}, {self.skipped} skipped in {self.seconds:.0f} s{end}"
        )


def results(directory: Path) -> list[Run]:
    """Return the runs that have ended."""
    file = directory / "results"
    return [msgspec.json.decode(line, type=Run) for line in file.read_bytes().splitlines()] if file.exists() else []


@contextmanager
def busy() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep every core busy within the block; yield the processes that do."""
    command = [sys.executable, "-c", BURNER, str(os.getpid())]
    burners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield burners
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def run_once(number: int, log: Path, arguments: Sequence[str]) -> Run:
    """Run the tests once; every second run on a busy machine."""
    is_busy = number % 2 == 0
    began = time.monotonic()
    with TemporaryDirectory(prefix="webhookd-steady-") as place, ExitStack() as stack:
        if is_busy:
            stack.enter_context(busy())
        report = Path(place) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}"]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, *PARALLEL, *arguments],
                cwd=ROOT,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        status: int | None
        try:
            status = process.wait(MOST_SECONDS)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        passed, skipped, failed = _read(report)
    seconds = time.monotonic() - began
    return Run(
        number=number, is_busy=is_busy, seconds=seconds, passed=passed, skipped=skipped, failed=failed, status=status
    )


def _read(report: Path) -> tuple[int, int, tuple[str, ...]]:
    """Return how many tests passed and were skipped, and the names of those that failed."""
    if not report.exists():
        return 0, 0, ()
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - pytest has just written it
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = dict.fromkeys(f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}" for case in failed)
    return len(cases) - len(failed) - skipped, skipped, tuple(names)


def work(directory: Path, runs: int, arguments: Sequence[str]) -> None:
    """Make the runs that are missing, one after the other."""
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one who looks has it for a moment, another worker until all is done
        for number in range(len(results(directory)) + 1, runs + 1):
            made = run_once(number, directory / "log", arguments)
            with (directory / "results").open("ab") as file:
                file.write(msgspec.json.encode(made) + b"\n")


def is_running(directory: Path) -> bool:
    """Whether somebody makes runs there."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def start(directory: Path, runs: int, arguments: Sequence[str]) -> int:
    """Start making the runs, apart from this shell; return the process's id."""
    command = [sys.executable, "-m", "tests.steady", "--work", "--directory", str(directory), "--runs", str(runs)]
    to_log = (str(directory / "log"), os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    return os.posix_spawn(
        sys.executable,
        [*command, "--", *arguments],
        os.environ | {"PYTHONPATH": str(ROOT)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, *to_log),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )


def follow(directory: Path, runs: int) -> int:
    """Print each run as it ends; return the status once all have, or nobody makes them any more."""
    told = 0
    while True:
        was_running = is_running(directory)
        for run in results(directory)[told:runs]:
            print(run.line(runs), flush=True)
            told += 1
        if told >= runs or not was_running:
            break
        time.sleep(0.5)
    good = sum(run.is_good for run in results(directory)[:runs])
    print(f"{good} of {runs} runs were good", flush=True)
    return int(good < runs)


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; return the status."""
    own, _, to_pytest = (list(part) for part in _parted(arguments))
    parser = argparse.ArgumentParser(prog="python -m tests.steady", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="how many (20)")
    parser.add_argument("--directory", type=Path, default=DIRECTORY, metavar="DIR", help=f"its state ({DIRECTORY})")
    parser.add_argument("--follow", action="store_true", help="print the runs as they end, and wait for the last")
    parser.add_argument("--work", action="store_true", help="make the runs in this process")
    options = parser.parse_args(own)
    directory: Path = options.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if options.work:
        work(directory, options.runs, to_pytest)
        return 0
    if len(results(directory)) < options.runs and not is_running(directory):
        pid = start(directory, options.runs, to_pytest)
        print(f"process {pid} makes the runs; lines in {directory}/results, output in {directory}/log", flush=True)
        while not is_running(directory) and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.05)
    if options.follow:
        return follow(directory, options.runs)
    for run in results(directory)[: options.runs]:
        print(run.line(options.runs))
    return 0


def _parted(arguments: Sequence[str]) -> tuple[Sequence[str], str, Sequence[str]]:
    place = arguments.index("--") if "--" in arguments else len(arguments)
    return arguments[:place], "--", arguments[place + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

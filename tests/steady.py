"""Run the tests many times, every second time on a busy machine: `python -m tests.steady --runs 20`.

The runs happen in a background process, which continues when the shell that started it ends. Each run is a line in
the file `results` of its directory. `--follow` prints the runs as they end and waits for the last; the exit status is
then 1 if a run failed. Started again with the same directory, it continues after the finished runs. In every second
run, a process on each core uses CPU time during the tests and ends with the run. Arguments after `--` go to pytest.
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

DIRECTORY = Path("/tmp/webhookd-steady")  # noqa: S108 - a later call must find it; another one can be given
MOST_SECONDS = 3 * 3600
# It ends when its parent ends, even if that was killed.
BURNER = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    sum(range(1_000_000))\n"


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """The result of one run; without `status` the run was cut off after `MOST_SECONDS`."""

    number: int
    is_busy: bool
    seconds: float
    passed: int = 0
    skipped: int = 0
    failed: tuple[str, ...] = ()
    status: int | None = None

    @property
    def is_good(self) -> bool:
        """Whether all tests passed."""
        return self.status == 0 and not self.failed

    def line(self, of: int) -> str:
        """Return the run as a line of text; `of` is the number of runs."""
        end = {0: "", 1: "", None: ", cut off"}.get(self.status, f", status {self.status}")
        failed = f" ({', '.join(self.failed)})" if self.failed else ""
        return (
            f"run {self.number} of {of}, {'busy' if self.is_busy else 'quiet'}: {self.passed} passed, "
            f"{len(self.failed)} failed{failed}, {self.skipped} skipped in {self.seconds:.0f} s{end}"
        )


def results(directory: Path) -> list[Run]:
    """Return the finished runs."""
    file = directory / "results"
    return [msgspec.json.decode(line, type=Run) for line in file.read_bytes().splitlines()] if file.exists() else []


@contextmanager
def busy() -> Iterator[list[subprocess.Popen[bytes]]]:
    """Keep every core busy during the block; yield the processes that do so."""
    command = [sys.executable, "-c", BURNER, str(os.getpid())]
    burners = [subprocess.Popen(command) for _ in range(os.cpu_count() or 1)]
    try:
        yield burners
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


def run_once(number: int, log: Path, arguments: Sequence[str]) -> Run:
    """Run the tests once; on a busy machine if `number` is even."""
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
    """Return the numbers of passed and skipped tests, and the names of failed ones."""
    if not report.exists():
        return 0, 0, ()
    cases = list(ET.parse(report).iter("testcase"))  # noqa: S314 - pytest has just written it
    failed = [case for case in cases if case.find("failure") is not None or case.find("error") is not None]
    skipped = sum(case.find("skipped") is not None for case in cases)
    names = dict.fromkeys(f"{case.get('classname', '').replace('.', '/')}.py::{case.get('name')}" for case in failed)
    return len(cases) - len(failed) - skipped, skipped, tuple(names)


def work(directory: Path, runs: int, arguments: Sequence[str]) -> None:
    """Do the missing runs, one after the other."""
    with (directory / "lock").open("w") as lock:
        # `is_running` holds the lock for a moment, another worker until its runs are done.
        fcntl.flock(lock, fcntl.LOCK_EX)
        for number in range(len(results(directory)) + 1, runs + 1):
            run = run_once(number, directory / "log", arguments)
            with (directory / "results").open("ab") as file:
                file.write(msgspec.json.encode(run) + b"\n")


def is_running(directory: Path) -> bool:
    """Whether a worker is doing runs in this directory."""
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def start(directory: Path, runs: int, arguments: Sequence[str]) -> int:
    """Start a worker in a session of its own; return its process id."""
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
    """Print each run as it ends; return the exit status when all have ended, or the worker has."""
    printed = 0
    while True:
        was_running = is_running(directory)
        for run in results(directory)[printed:runs]:
            print(run.line(runs), flush=True)
            printed += 1
        if printed >= runs or not was_running:
            break
        time.sleep(0.5)
    good = sum(run.is_good for run in results(directory)[:runs])
    print(f"{good} of {runs} runs passed", flush=True)
    return int(good < runs)


def main(arguments: Sequence[str]) -> int:
    """Start or continue the runs, or do them in this process; return the exit status."""
    split = arguments.index("--") if "--" in arguments else len(arguments)
    own, to_pytest = arguments[:split], arguments[split + 1 :]
    parser = argparse.ArgumentParser(prog="python -m tests.steady", description=__doc__)
    parser.add_argument("--runs", type=int, default=20, metavar="N", help="number of runs (20)")
    parser.add_argument(
        "--directory",
        type=Path,
        default=DIRECTORY,
        metavar="DIR",
        help=f"where results and output are kept ({DIRECTORY})",
    )
    parser.add_argument("--follow", action="store_true", help="print the runs as they end, and wait for the last")
    parser.add_argument("--work", action="store_true", help="do the runs in this process")
    options = parser.parse_args(own)
    directory: Path = options.directory.absolute()
    directory.mkdir(parents=True, exist_ok=True)
    if options.work:
        work(directory, options.runs, to_pytest)
        return 0
    if len(results(directory)) < options.runs and not is_running(directory):
        pid = start(directory, options.runs, to_pytest)
        print(f"process {pid} does the runs; results in {directory}/results, output in {directory}/log", flush=True)
        while not is_running(directory) and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.05)
    if options.follow:
        return follow(directory, options.runs)
    for run in results(directory)[: options.runs]:
        print(run.line(options.runs))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

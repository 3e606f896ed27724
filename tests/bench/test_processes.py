"""The CPU time and the memory of a server of several processes."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.bench.processes import Processes
from tests.bench.server import BrokenCaseError

SPEND = "import time\nwhile time.thread_time() < 0.3: pass\n"
# A parent whose child works, once for each line: both outlive it, or the child has ended when the line comes back.
PARENT = f"""
import subprocess, sys
for line in sys.stdin:
    if line == "stay\\n":
        child = subprocess.Popen([sys.executable, "-c", {SPEND + "print(flush=True); input()"!r}],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        child.stdout.readline()
    else:
        subprocess.run([sys.executable, "-c", {SPEND!r}], check=True)
    print(flush=True)
"""


@contextmanager
def parent() -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-c", PARENT]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        yield process
        process.kill()


def tell(process: "subprocess.Popen[str]", line: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line + "\n")
    process.stdin.flush()
    process.stdout.readline()


def test_processes_below_count_too() -> None:
    """The time of a child counts while it lives and after it has ended, and its memory while it lives."""
    with parent() as process:
        measured = Processes([process.pid])
        before = measured.cpu_seconds()
        tell(process, "end")
        ended = measured.cpu_seconds()
        assert ended - before >= 0.25
        alone = measured.memory_mebibytes()
        assert measured.describe() == f"{process.pid} python, and 0 processes below them"
        tell(process, "stay")
        assert measured.cpu_seconds() - ended >= 0.25
        both = measured.memory_mebibytes()
        assert measured.describe() == f"{process.pid} python, and 1 processes below them"
    assert alone is not None
    assert both is not None
    # An interpreter has at least so much of its own.
    assert both > alone + 2


def test_a_process_that_was_named_twice_counts_once() -> None:
    """A process that is below another given one, or given twice, isn't counted twice."""
    with parent() as process:
        tell(process, "end")
        assert Processes([process.pid, process.pid]).cpu_seconds() == Processes([process.pid]).cpu_seconds()


def test_a_process_that_is_not_there_is_named() -> None:
    """A number without a process ends the measurement, also if it has ended since."""
    with parent() as process:
        measured = Processes([process.pid])
    with pytest.raises(BrokenCaseError, match=f"there is no process {process.pid}"):
        measured.cpu_seconds()

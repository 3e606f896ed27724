"""Programs that are started as forks are the ones that `python -m` would start."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import PROGRAM
from tests.forked import Process, can_fork, run

RECEIVER = (sys.executable, "-m", "tests.receiver")


def test_a_command_says_the_same_as_python_started_anew() -> None:
    """Status and both streams are those of the command, for one that is good and one that is wrong."""
    for arguments in (("--version",), ("nothing-of-the-kind",)):
        forked = run([*PROGRAM, *arguments])
        fresh = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
        assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_a_signal_ends_it_with_the_signals_status(tmp_path: Path) -> None:
    """Its output can be read while it runs, and a kill is seen as one."""
    with Process([*RECEIVER, "--log", str(tmp_path / "log")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert process.poll() is None
        process.kill()
        assert process.wait() == -signal.SIGKILL


def test_what_python_reads_at_its_start_needs_python() -> None:
    """A fork would ignore another PYTHONPATH, so such a program runs in a new interpreter."""
    assert can_fork(PROGRAM, dict(os.environ) | {"WEBHOOKD_LOG__LEVEL": "error"})
    elsewhere = dict(os.environ) | {"PYTHONPATH": "/elsewhere"}
    assert not can_fork(PROGRAM, elsewhere)
    assert not can_fork(["strace", *PROGRAM])
    with pytest.raises(AssertionError):
        run(PROGRAM, env=elsewhere)

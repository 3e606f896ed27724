"""A program that `tests.forked` starts behaves like one that `python -m` starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import PROGRAM
from tests.forked import Process, can_fork, run

RECEIVER = (sys.executable, "-m", "tests.receiver")


def test_a_fork_prints_the_same_as_a_new_interpreter() -> None:
    """The exit status, stdout and stderr are the same in a fork and in a new interpreter."""
    for arguments in (("--version",), ("nothing-of-the-kind",)):
        forked = run([*PROGRAM, *arguments])
        fresh = subprocess.run([*PROGRAM, *arguments], capture_output=True, text=True, check=False)
        assert (forked.returncode, forked.stdout, forked.stderr) == (fresh.returncode, fresh.stdout, fresh.stderr)


def test_a_kill_is_reported_as_one(tmp_path: Path) -> None:
    """The output of a fork can be read while it runs, and after a kill its status is -SIGKILL."""
    with Process([*RECEIVER, "--log", str(tmp_path / "log")], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("http://127.0.0.1:")
        assert process.poll() is None
        process.kill()
        assert process.wait() == -signal.SIGKILL


def test_a_changed_pythonpath_needs_a_new_interpreter() -> None:
    """A fork would ignore another PYTHONPATH, so such a command can't run as a fork."""
    assert can_fork(PROGRAM, dict(os.environ) | {"WEBHOOKD_LOG__LEVEL": "error"})
    elsewhere = dict(os.environ) | {"PYTHONPATH": "/elsewhere"}
    assert not can_fork(PROGRAM, elsewhere)
    assert not can_fork(["strace", *PROGRAM])
    with pytest.raises(AssertionError):
        run(PROGRAM, env=elsewhere)

"""Runs of the tests again and again: each is told, half of them are busy, and what was cut off goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.__main__ import ROOT
from tests.patience import wait_until
from tests.steady import BURNER, Run, busy, is_running, main, results

TESTS = """
from pathlib import Path

COUNT = Path(__file__).with_name("count")


def test_good():
    pass


def test_every_third_run():
    COUNT.write_text(COUNT.read_text() + "." if COUNT.exists() else ".")
    assert len(COUNT.read_text()) % 3


def test_held():
    while Path(__file__).with_name("hold").exists():
        pass
"""
ARGUMENTS = ("-n", "0", "-c", os.devnull, "-p", "no:trio")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "test_it.py").write_text(TESTS)
    return tmp_path


def told(place: Path, runs: int, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Make the runs that are missing; return the status and what was printed of them."""
    asked = ["--runs", str(runs), "--directory", str(place / "state"), "--follow", "--", str(place), *ARGUMENTS]
    status = main(asked)
    lines = capsys.readouterr().out.splitlines()
    return status, [line for line in lines if not line.startswith("process ")]


@pytest.mark.slow
def test_each_run_is_a_line_and_more_can_be_asked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet and busy runs take turns, a failed test is named, and asking for more makes only what is missing."""
    status, lines = told(place, 2, capsys)
    assert (status, lines[-1]) == (0, "2 of 2 runs were good")
    assert lines[0].startswith("run 1 of 2, quiet: 3 passed, 0 failed, 0 skipped in ")
    assert lines[1].startswith("run 2 of 2, busy: 3 passed, ")
    status, lines = told(place, 3, capsys)
    assert (status, lines[-1]) == (1, "2 of 3 runs were good")
    assert "quiet: 2 passed, 1 failed (" in lines[2]
    assert "test_it.py::test_every_third_run)" in lines[2]
    assert (place / "count").read_text() == "..."


@pytest.mark.slow
def test_it_survives_its_shell_and_goes_on_where_it_was_killed(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one who asked may end; a worker that is killed loses the run that it was at and no other."""
    (place / "hold").touch()
    command = [sys.executable, "-m", "tests.steady", "--runs", "2", "--directory", str(place / "state"), "--"]
    asked = subprocess.run([*command, str(place), *ARGUMENTS], cwd=ROOT, capture_output=True, text=True, check=True)
    worker = psutil.Process(int(asked.stdout.split()[1]))
    assert os.getsid(worker.pid) == worker.pid
    wait_until((place / "count").exists)
    [pytest_itself] = worker.children()
    os.kill(worker.pid, signal.SIGKILL)
    os.killpg(pytest_itself.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(place / "state"))
    (place / "hold").unlink()
    assert results(place / "state") == []
    (place / "count").unlink()
    status, lines = told(place, 2, capsys)
    assert (status, lines[-1]) == (0, "2 of 2 runs were good"), lines


def test_the_cores_are_busy_no_longer_than_the_run() -> None:
    """There is a burner for each core, and they are gone after the block, or when the one who started them is."""
    with busy() as burners:
        assert [burner.poll() for burner in burners] == [None] * (os.cpu_count() or 1)
    assert None not in [burner.poll() for burner in burners]
    start = f"subprocess.Popen([sys.executable, '-c', {BURNER!r}, str(os.getpid())])"
    code = f"import os, subprocess, sys; print({start}.pid)"
    orphan = int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    wait_until(lambda: not psutil.pid_exists(orphan))


@pytest.mark.parametrize(
    ("status", "failed", "is_good", "says"),
    [(0, (), True, "0 failed"), (1, ("a::b",), False, "1 failed (a::b)"), (3, (), False, ", status 3"),
     (None, (), False, ", cut off")],
)  # fmt: skip
def test_what_is_no_good_run(status: int | None, failed: tuple[str, ...], is_good: bool, says: str) -> None:
    """A run counts as good with every test passed and an end of its own."""
    run = Run(number=1, is_busy=False, seconds=1.0, passed=3, failed=failed, status=status)
    assert run.is_good is is_good
    assert says in run.line(1)

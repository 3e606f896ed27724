"""`tests.steady` reports each run, keeps the machine busy in every second one, and continues after a kill."""

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


def follow(place: Path, runs: int, capsys: pytest.CaptureFixture[str]) -> tuple[int, list[str]]:
    """Do the missing runs; return the exit status and the printed lines."""
    status = main(["--runs", str(runs), "--directory", str(place / "state"), "--follow", "--", str(place), *ARGUMENTS])
    lines = capsys.readouterr().out.splitlines()
    return status, [line for line in lines if not line.startswith("process ")]


@pytest.mark.slow
def test_each_run_is_a_line_and_more_can_be_asked_for(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Quiet and busy runs alternate, a failed test is named, and a request for more runs does only the missing ones."""
    status, lines = follow(place, 2, capsys)
    assert (status, lines[-1]) == (0, "2 of 2 runs passed")
    assert lines[0].startswith("run 1 of 2, quiet: 3 passed, 0 failed, 0 skipped in ")
    assert lines[1].startswith("run 2 of 2, busy: 3 passed, ")
    status, lines = follow(place, 3, capsys)
    assert (status, lines[-1]) == (1, "2 of 3 runs passed")
    assert "quiet: 2 passed, 1 failed (" in lines[2]
    assert "test_it.py::test_every_third_run)" in lines[2]
    assert (place / "count").read_text() == "..."


@pytest.mark.slow
def test_it_survives_its_shell_and_continues_after_a_kill(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The worker outlives the process that started it; a killed worker loses only its unfinished run."""
    (place / "hold").touch()
    command = [sys.executable, "-m", "tests.steady", "--runs", "2", "--directory", str(place / "state"), "--"]
    started = subprocess.run([*command, str(place), *ARGUMENTS], cwd=ROOT, capture_output=True, text=True, check=True)
    worker = psutil.Process(int(started.stdout.split()[1]))
    assert os.getsid(worker.pid) == worker.pid
    wait_until((place / "count").exists)
    [pytest_itself] = worker.children()
    os.kill(worker.pid, signal.SIGKILL)
    os.killpg(pytest_itself.pid, signal.SIGKILL)
    wait_until(lambda: not is_running(place / "state"))
    (place / "hold").unlink()
    assert results(place / "state") == []
    (place / "count").unlink()
    status, lines = follow(place, 2, capsys)
    assert (status, lines[-1]) == (0, "2 of 2 runs passed"), lines


def test_the_cores_are_busy_no_longer_than_the_run() -> None:
    """There is a burner for each core, and all end with the block, or with the process that started them."""
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
def test_which_runs_are_good(status: int | None, failed: tuple[str, ...], is_good: bool, says: str) -> None:
    """A run is good if every test passed and pytest ended by itself."""
    run = Run(number=1, is_busy=False, seconds=1.0, passed=3, failed=failed, status=status)
    assert run.is_good is is_good
    assert says in run.line(1)

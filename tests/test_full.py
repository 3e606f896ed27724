"""`tests.full` runs every harness of docs/reliability.md, and reports the outcome of each stage."""

import re
import sys
from pathlib import Path

import pytest

from tests.__main__ import ROOT, check
from tests.full import main, run, stages

PAGE = (ROOT / "docs" / "reliability.md").read_text()
NOT_STAGES = {"bench", "full", "steady"}  # a reader judges the figures of bench; the other two run the stages or tests


def test_every_harness_of_the_page_is_run_and_must_find_its_faults() -> None:
    """Each command in the table of docs/reliability.md is a stage, and its `--planted` run is another."""
    table = PAGE[PAGE.index("| what could break it |") : PAGE.index("Each takes `--help`")]
    harnesses = set(re.findall(r"python -m tests\.(\w+)", table)) - NOT_STAGES
    commands = {" ".join(command[1:]) for command in stages().values()}
    assert len(harnesses) >= 8
    for harness in harnesses:
        assert any(command.startswith(f"-m tests.{harness}") and "planted" not in command for command in commands)
        assert f"-m tests.{harness} --planted" in commands
    assert any("-m pytest" in command or command.endswith("term:skip-covered") for command in commands)


def test_a_stage_is_one_line_with_its_outcome(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A stage's output is kept in a file, its last line is printed, and a stage that can't run is no failure."""
    outcomes = {"good": 0, "unable": 3, "bad": 1}
    failed = {
        name: run(name, (sys.executable, "-c", f"print('some\\nlast of {name}'); raise SystemExit({status})"), tmp_path)
        for name, status in outcomes.items()
    }
    assert failed == {"good": False, "unable": False, "bad": True}
    good, unable, bad = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"good: passed, \d+ s; last of good", good)
    assert unable.startswith("unable: not possible on this machine, ")
    assert bad.startswith(f"bad: FAILED with status 1, see {tmp_path}/bad.log, ")
    assert (tmp_path / "bad.log").read_text() == "some\nlast of bad\n"


def test_stages_can_be_listed_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` prints every stage, and an unknown name is a usage error."""
    assert main(["--list"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [*stages()]
    with pytest.raises(SystemExit, match="2"):
        main(["nothing-of-the-kind"])


def test_a_check_writes_bytecode_whatever_the_environment_says(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check ignores PYTHONDONTWRITEBYTECODE: else hundreds of processes would each compile their imports."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert check([sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]).stdout == "False\n"

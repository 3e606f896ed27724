"""What only a long run does: every harness of the documentation is in it, and each stage is told as it went."""

import re
import sys
from pathlib import Path

import pytest

from tests.__main__ import ROOT, check
from tests.full import main, run, stages

PAGE = (ROOT / "docs" / "reliability.md").read_text()
FIGURES = {"bench", "full", "steady"}  # judged by a reader, or what runs the others


def test_every_harness_of_the_page_is_run_and_must_find_its_faults() -> None:
    """Each command of the page's table is a stage, and one of those that plant faults is another."""
    table = PAGE[PAGE.index("| what could break it |") : PAGE.index("Each takes `--help`")]
    harnesses = set(re.findall(r"python -m tests\.(\w+)", table)) - FIGURES
    commands = {" ".join(command[1:]) for command in stages().values()}
    assert len(harnesses) >= 8
    for harness in harnesses:
        assert any(command.startswith(f"-m tests.{harness}") and "planted" not in command for command in commands)
        assert f"-m tests.{harness} --planted" in commands
    assert any("-m pytest" in command or command.endswith("term:skip-covered") for command in commands)


def test_a_stage_is_a_line_with_what_became_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What it says is kept in a file, its last line is shown, and only a failure counts as one."""
    outcomes = {"good": 0, "unable": 3, "bad": 1}
    failed = {
        name: run(name, (sys.executable, "-c", f"print('some\\nlast of {name}'); raise SystemExit({status})"), tmp_path)
        for name, status in outcomes.items()
    }
    assert failed == {"good": False, "unable": False, "bad": True}
    good, unable, bad = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"good: good, \d+ s; last of good", good)
    assert unable.startswith("unable: this machine can't, ")
    assert bad.startswith(f"bad: FAILED with status 1, see {tmp_path}/bad.log, ")
    assert (tmp_path / "bad.log").read_text() == "some\nlast of bad\n"


def test_stages_can_be_listed_and_named(capsys: pytest.CaptureFixture[str]) -> None:
    """The list has every stage, and a name that is none is wrong usage."""
    assert main(["--list"]) == 0
    assert [line.split(":")[0] for line in capsys.readouterr().out.splitlines()] == [*stages()]
    with pytest.raises(SystemExit, match="2"):
        main(["nothing-of-the-kind"])


def test_a_stage_keeps_bytecode_where_python_is_told_to_write_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the caller's environment says: hundreds of processes would each compile what they import."""
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    assert check([sys.executable, "-c", "import sys; print(sys.dont_write_bytecode)"]).stdout == "False\n"

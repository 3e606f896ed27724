"""The real server process killed at every point of the table; what the table must notice of itself; planted faults."""

import re
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

from tests.crashpoints.__main__ import main
from tests.crashpoints.planted import PLANTED
from tests.crashpoints.play import play_all
from tests.crashpoints.points import CHANGES, EVENTS, FILES, POINTS, Point
from tests.long import long
from webhookd.base.stages import Stage

ROOT = Path(__file__).parents[2]
PHASES = (
    "event idempotency queue request record drain checkpoint start migration backup restore rotation master-key "
    "retention deletion replay"
)
IMPATIENT_SECONDS = 4.0

# Of these, others of the quick tests kill a process.
KILLED_ELSEWHERE = {"migration", "master-key"}
FIRST = tuple({point.phase: point for point in reversed(POINTS) if point.phase not in KILLED_ELSEWHERE}.values())
QUICK_FAULTS = {"acknowledges before the commit"}


@pytest.mark.parametrize(
    "points",
    [FIRST, *(pytest.param(part, marks=pytest.mark.slow) for part in (EVENTS, FILES, CHANGES))],
    ids=["the first of most phases", "events", "files", "changes"],
)
async def test_killed_at_a_point_the_outcome_is_the_expected_one(points: tuple[Point, ...]) -> None:
    """A server that is killed at any point of the table, and started again, has kept its promise as the table says."""
    found = await play_all(points)
    assert {name: broken for name, broken in found.items() if broken is not None} == {}
    assert len(found) == len(points)


def test_the_table_covers_every_phase() -> None:
    """Names are unique and in the order of their phases, every phase has points, and the documentation names it."""
    names = [point.name for point in POINTS]
    assert len(set(names)) == len(names) >= 30
    assert list(dict.fromkeys(point.phase for point in POINTS)) == PHASES.split()
    assert all(point.expected.endswith(".") for point in POINTS)
    documented = (ROOT / "docs" / "reliability.md").read_text()
    assert [phase for phase in PHASES.split() if f"`{phase}`" not in documented] == []
    assert f"plants each of {len(PLANTED)} faults in turn" in documented


def test_every_stage_is_marked_and_has_a_point() -> None:
    """The product marks each stage at one place, and a process is killed at each; a point names no other stages.

    The processes have their journal on SQLite; tests/journal/postgres/test_moving_cuts.py kills those that move one.
    """
    sources = [path.read_text() for path in (ROOT / "webhookd").rglob("*.py") if path.parent.name != "postgres"]
    marked = [stage for source in sources for stage in re.findall(r'\breached\("([^"]+)"\)', source)]
    assert sorted(marked) == sorted(get_args(Stage))
    on_paths = {stage for point in POINTS for stage in point.stages if " " not in stage}
    assert on_paths == {stage for stage in get_args(Stage) if not stage.startswith("move.")}


@pytest.mark.slow
async def test_what_isnt_reached_is_a_failure() -> None:
    """A point whose stage or file the process never comes to is broken and not passed over."""
    point = next(point for point in POINTS if point.name == "rotation.committed")
    paths = {"no such stage": "change.written, migration.step", "no such file": "write no-such-file"}
    unreached = [replace(point, name=name, path=path) for name, path in paths.items()]
    found = await play_all(unreached, limit_seconds=IMPATIENT_SECONDS)
    assert found == {name: f"{path} was never reached (status None)" for name, path in paths.items()}


@pytest.mark.parametrize("name", long(PLANTED, lambda name: name not in QUICK_FAULTS))
async def test_a_planted_fault_is_found(name: str) -> None:
    """Each fault breaks the check of its point, which names what is wrong; without it the same check holds (above)."""
    fault = PLANTED[name]
    point = next(point for point in POINTS if point.name == fault.found_at)
    found = await play_all([point], planted={point.name: name})
    assert fault.says in (found[point.name] or "held")


@pytest.mark.slow
def test_the_command_says_what_broke(capsys: pytest.CaptureFixture[str]) -> None:
    """It prints each point with what is expected and whether that held; the status is 1 where one was broken."""
    assert main(["--list"]) == 0
    assert capsys.readouterr().out.count("\n") == len(POINTS)
    assert main(["--point", "rotation.written"]) == 0
    assert capsys.readouterr().out.startswith("rotation.written  held    A webhook's new secret and its audit entry")
    fault = "writes an entry of the audit log with the next one"
    assert main(["--point", "rotation.committed", "--plant", fault]) == 1
    said = capsys.readouterr().out
    assert said.startswith("rotation.committed  BROKEN  The new secret and its audit entry are on disk")
    assert "found: change and entry are not one\n1 points in " in said
    assert said.endswith("1 broken rotation.committed\n")
    with pytest.raises(SystemExit, match="2"):
        main(["--point", "nowhere"])

"""The real server process killed at every point of the table; what the table must notice of itself; planted faults."""

from dataclasses import replace

import pytest

from tests.crashpoints.__main__ import main
from tests.crashpoints.arming import DISK, Place, find
from tests.crashpoints.launched import ROOT
from tests.crashpoints.planted import PLANTED
from tests.crashpoints.play import play_all
from tests.crashpoints.point import Point
from tests.crashpoints.points import CHANGES, DELIVERY, FILES, POINTS
from tests.long import long

PHASES = (
    "write ack wake send record checkpoint drain start migration backup restore rotation master-key retention delete "
    "replay audit"
)
IMPATIENT_SECONDS = 4.0


# Of these, others of the quick tests kill a process.
KILLED_ELSEWHERE = {"migration", "master-key"}
FIRST = tuple({point.phase: point for point in reversed(POINTS) if point.phase not in KILLED_ELSEWHERE}.values())
QUICK_FAULTS = {"acknowledges before the commit"}


@pytest.mark.parametrize(
    "points",
    [FIRST, *(pytest.param(part, marks=pytest.mark.slow) for part in (DELIVERY, FILES, CHANGES))],
    ids=["the first of most phases", "delivery", "files", "changes"],
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
    told = (ROOT / "docs" / "reliability.md").read_text()
    assert [phase for phase in PHASES.split() if f"`{phase}`" not in told] == []
    assert f"plants each of {len(PLANTED)} faults in turn" in told


@pytest.mark.parametrize("at", sorted({point.place.at for point in POINTS if not point.place.at.startswith(DISK)}))
def test_a_points_function_is_still_there(at: str) -> None:
    """A function that the table names exists under that name."""
    find(at)


@pytest.mark.slow
async def test_what_isnt_there_or_isnt_reached_is_a_failure() -> None:
    """A point whose function is gone, and one that the process never comes to, are broken and not passed over."""
    point = next(point for point in POINTS if point.name == "audit.committed")
    gone = replace(point, name="gone", place=Place(at="webhookd.journal.sqlite.batch:Batches.gone"))
    unreached = replace(point, name="unreached", place=Place(at=point.place.at, nth=1000))
    elsewhere = replace(point, name="elsewhere", place=Place(at="disk:xSync", about="no-such-file"))
    found = await play_all([gone, unreached, elsewhere], limit_seconds=IMPATIENT_SECONDS)
    assert "Batches.gone is gone" in str(found["gone"])
    assert found["unreached"] == found["elsewhere"] == "the point was never reached (status None)"


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
    assert main(["--point", "audit.unnoted"]) == 0
    assert capsys.readouterr().out.startswith("audit.unnoted  held    A change is written without")
    fault = "writes an entry of the audit log with the next one"
    assert main(["--point", "audit.committed", "--plant", fault]) == 1
    said = capsys.readouterr().out
    assert said.startswith("audit.committed  BROKEN  A change and its entry are on disk")
    assert "found: change and entry are not one\n1 points in " in said
    assert said.endswith("1 broken audit.committed\n")
    with pytest.raises(SystemExit, match="2"):
        main(["--point", "nowhere"])

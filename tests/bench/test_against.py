"""The comparison of two checkouts: what it runs in which order, what it compares, and what doesn't count."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from tests.bench.__main__ import main
from tests.bench.against import PYTHON, ROUNDS, Checkout, MeasuredCase, MeasuredFigure, checkout, collate, compare
from tests.bench.cases import CASES
from tests.bench.run import WIDTH

# Stands for the interpreter of a checkout: it notes the run, and writes the next of the prepared documents.
STAND_IN = """#!/bin/sh
echo "$(pwd) $*" >> {log}
while [ "$1" != --json ]; do shift; done
number=$(ls taken 2>/dev/null | wc -l)
mkdir -p taken && touch "taken/$number"
[ -f "$number.json" ] && cp "$number.json" "$2" || {{ echo planted; exit 3; }}
"""
Place = Callable[[str, Sequence[float | None]], Checkout]


def document(value: float, **fields: object) -> dict[str, object]:
    """Return what a run writes: a figure that the other checkout has too, and one that has its own name."""
    figures = [
        {"what": "deliveries", "unit": "/s", "value": value, "target": None},
        {"what": f"only at {value}", "unit": "s", "value": 1.0},
    ]
    return {"results": [{"case": "strict", "figures": figures, "void": "", "lost": 0, **fields}]}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return a function that makes a checkout whose runs have these deliveries a second; None is a run that fails."""

    def make(name: str, values: Sequence[float | None]) -> Checkout:
        directory = tmp_path / name
        python = directory / PYTHON
        python.parent.mkdir(parents=True)
        python.write_text(STAND_IN.format(log=tmp_path / "log"))
        python.chmod(0o755)
        (directory / "tests/bench").mkdir(parents=True)
        (directory / "tests/bench/__main__.py").touch()
        for number, value in enumerate(values):
            if value is not None:
                (directory / f"{number}.json").write_text(json.dumps(document(value)))
        return checkout(directory)

    return make


def test_the_checkouts_take_turns(place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five rounds run in both, each first in turn; the median of each round's ratio is printed, and the status is 0."""
    other, this = place("other", [100, 200, 100, 400, 100]), place("this", [150, 240, 110, 400, 50])
    assert compare(Console(width=WIDTH), other, this, ["strict"], is_quick=True) == 0
    runs = [line.split(" ") for line in (tmp_path / "log").read_text().splitlines()]
    order = ["other", "this", "this", "other"] * 3
    assert [Path(run[0]).name for run in runs] == order[: 2 * ROUNDS]
    assert {" ".join(run[1:5]) for run in runs} == {"-m tests.bench strict --json"}
    assert {run[-1] for run in runs} == {"--quick"}
    [row] = [line for line in capsys.readouterr().out.splitlines() if "deliveries" in line]
    assert [cell.strip() for cell in row.strip("│").split("│")] == [
        "deliveries",
        "100 (100 to 400) /s",
        "150 (50.0 to 400) /s",
        "1.10 (0.50 to 1.50)",
    ]


def test_a_checkout_is_compared_with_itself(place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    """A checkout against itself runs twice in each round, and the ratios show how far the machine varies."""
    both = place("both", [100, 110, 150, 100, 100, 100, 100, 100, 100, 80])
    assert compare(Console(width=WIDTH), both, both, ["strict"], is_quick=False) == 0
    # In the second round and the fourth, the second run is the other's.
    assert "1.00 (0.80 to 1.50)" in capsys.readouterr().out


def test_a_round_that_fails_in_one_checkout_does_not_count(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run without figures, a void one and one that lost deliveries are named, and the status is 1."""
    other, this = place("other", [None, 100, 100, 100, 100]), place("this", [100, 300, 300, 300, 300])
    (tmp_path / "this/1.json").write_text(json.dumps(document(900, void="too late")))
    (tmp_path / "this/2.json").write_text(json.dumps(document(900, lost=3)))
    assert compare(Console(width=WIDTH), other, this, ["strict"], is_quick=False) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert f"round 1 doesn't count: strict has no figures in {tmp_path}/other (status 3): planted" in said
    assert f"round 2 doesn't count: strict is void in {tmp_path}/this: too late" in said
    assert f"round 3 doesn't count: strict lost 3 deliveries in {tmp_path}/this" in said
    assert "2 rounds" in said
    assert "3.00 (3.00 to 3.00)" in said


def test_a_figure_of_some_rounds_alone_is_not_compared() -> None:
    """The figures that both have in every round are compared; a figure of 0 has no ratio."""

    def measured(**values: float) -> MeasuredCase:
        return MeasuredCase(
            figures=[MeasuredFigure(name, "s", value) for name, value in values.items()], void="", lost=0
        )

    first = (measured(a=2, b=1, gone=1), measured(a=3, b=1, new=1))
    second = (measured(a=0), measured(a=3, b=1))
    [figure] = collate([first, second])
    assert (figure.what, figure.other, figure.this, figure.ratios) == ("a", [2, 0], [3, 3], [1.5])


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--against", "{other}"], "--against needs the names of cases"),
        (["--against", "{other}", "strict", "--check"], "goes with --quick alone"),
        (["--against", "{empty}", "strict"], f"is no checkout with {PYTHON}"),
    ],
)
def test_what_cannot_be_compared_is_refused(
    arguments: Sequence[str], says: str, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without the names of cases, or with a directory that is no checkout, nothing runs."""
    place("other", [])
    places = {"other": tmp_path / "other", "empty": tmp_path}
    with pytest.raises(SystemExit):
        main([argument.format(**places) for argument in arguments], CASES)
    assert says in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "log").exists()

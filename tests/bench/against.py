"""Compare two checkouts in one run: `python -m tests.bench --against DIRECTORY NAME…`.

Each checkout measures itself, with its own environment and its own benchmark, alternately with the other: what the
machine does meanwhile affects both. Only figures that both have are compared, and a ratio is to the other's figure of
the same round.
"""

import os
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from rich.console import Console
from rich.table import Table

from tests.bench.report import spread

ROUNDS = 5
PYTHON = Path(".venv/bin/python")


class MeasuredFigure(msgspec.Struct, frozen=True):
    """The used fields of a figure in the JSON of a run."""

    what: str
    unit: str
    value: float


class MeasuredCase(msgspec.Struct, frozen=True):
    """The used fields of a case."""

    figures: list[MeasuredFigure]
    void: str
    lost: int


class Document(msgspec.Struct, frozen=True):
    """The used fields of the JSON of a run."""

    results: list[MeasuredCase]


@dataclass(frozen=True, slots=True)
class Checkout:
    """A tree of webhookd, and the interpreter that has what it needs installed."""

    directory: Path
    python: Path

    def measure(self, name: str, *, is_quick: bool) -> MeasuredCase | str:
        """Run a case; return its figures, or why there are none."""
        with TemporaryDirectory(prefix="webhookd-bench-") as directory:
            file = Path(directory) / "figures.json"
            options = ["--quick"] if is_quick else []
            run = subprocess.run(
                [self.python, "-m", "tests.bench", name, "--json", file, *options],
                cwd=self.directory,
                # The other tree must not be imported from here.
                env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                check=False,
            )
            results = msgspec.json.decode(file.read_bytes(), type=Document).results if file.exists() else []
        if not results:
            return f"{name} has no figures in {self.directory} (status {run.returncode}): {run.stdout[-2000:].strip()}"
        if results[0].void:
            return f"{name} is void in {self.directory}: {results[0].void}"
        if results[0].lost:
            return f"{name} lost {results[0].lost} deliveries in {self.directory}"
        return results[0]


@dataclass(slots=True)
class Compared:
    """A figure of both checkouts in each round."""

    what: str
    unit: str
    other: list[float] = field(default_factory=list)
    this: list[float] = field(default_factory=list)

    @property
    def ratios(self) -> Sequence[float]:
        """This checkout's figure by the other's, in each round."""
        return [this / other for this, other in zip(self.this, self.other, strict=True) if other]


def checkout(directory: Path) -> Checkout:
    """Return the checkout in a directory, with its own environment; FileNotFoundError if there is none."""
    place = directory.absolute()
    if not (place / PYTHON).exists() or not (place / "tests/bench/__main__.py").exists():
        raise FileNotFoundError(f"{directory} is no checkout with {PYTHON}")
    return Checkout(place, place / PYTHON)


def collate(rounds: Iterable[tuple[MeasuredCase, MeasuredCase]]) -> list[Compared]:
    """Return the figures that the other checkout and this one have in every round, in this one's order."""
    rounds = list(rounds)
    found: dict[str, Compared] = {}
    for other, this in rounds:
        values: Mapping[str, float] = {figure.what: figure.value for figure in other.figures}
        for figure in this.figures:
            if figure.what in values:
                compared = found.setdefault(figure.what, Compared(figure.what, figure.unit))
                compared.other.append(values[figure.what])
                compared.this.append(figure.value)
    return [compared for compared in found.values() if len(compared.this) == len(rounds)]


def compare(console: Console, other: Checkout, this: Checkout, names: Sequence[str], *, is_quick: bool) -> int:
    """Run each case in both checkouts, round by round, and print the ratios; return the exit status."""
    status = 0
    for name in names:
        rounds: list[tuple[MeasuredCase, MeasuredCase]] = []
        for number in range(ROUNDS):
            # Each is the first in turn, so that a machine that gets slower favours neither.
            first, second = (other, this) if number % 2 == 0 else (this, other)
            measured = (first.measure(name, is_quick=is_quick), second.measure(name, is_quick=is_quick))
            old, new = measured if number % 2 == 0 else measured[::-1]
            for complaint in (old, new):
                if isinstance(complaint, str):
                    console.print(f"round {number + 1} doesn't count: {complaint}", soft_wrap=True, markup=False)
                    status = 1
            if not isinstance(old, str) and not isinstance(new, str):
                rounds.append((old, new))
        _show(console, f"{name}: {this.directory} against {other.directory}, {len(rounds)} rounds", collate(rounds))
    return status


def _show(console: Console, title: str, figures: Sequence[Compared]) -> None:
    table = Table("figure", "other", "this", "this / other", title=title, title_justify="left")
    for figure in figures:
        table.add_row(
            figure.what,
            f"{spread(figure.other)} {figure.unit}",
            f"{spread(figure.this)} {figure.unit}",
            spread(figure.ratios),
        )
    console.print(table)

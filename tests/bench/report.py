"""The results of a case, and their output: a table for people, JSON for programs.

A missed target is shown, but is no error, because machines differ.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from math import ceil
from statistics import mean, median
from typing import Any

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A bound on a figure, or on its ratio to the yardstick that the figure names."""

    bound: float
    at_least: bool = False
    is_ratio: bool = False

    def is_met(self, value: float) -> bool:
        """Whether a value meets the target."""
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured quantity with its value in each repeat, and its ratio to a yardstick in each of them."""

    what: str
    unit: str
    values: tuple[float, ...]
    yardstick: str = ""
    ratios: tuple[float, ...] = ()
    target: Target | None = None

    @property
    def is_met(self) -> bool | None:
        """Whether the median meets the target; None without a target."""
        if self.target is None:
            return None
        return self.target.is_met(median(self.ratios if self.target.is_ratio else self.values))


@dataclass(slots=True, kw_only=True)
class Result:
    """The result of a case: its figures and every sample of its yardsticks.

    `void` is the reason why the figures are invalid, if any; `lost` is the number of deliveries that never arrived.
    """

    receiver: str
    figures: list[Figure] = field(default_factory=list)
    yardsticks: dict[str, list[float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    void: str = ""
    lost: int = 0


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the smallest value that is not exceeded by at least this percentage of all (the nearest-rank method)."""
    ordered = sorted(values)
    return ordered[max(ceil(len(ordered) * percent / 100), 1) - 1]


def compared(
    what: str,
    unit: str,
    values: Sequence[float],
    yardstick: str,
    around: Sequence[float],
    *,
    target: Target | None = None,
) -> Figure:
    """Return a figure of several repeats, each compared with the mean of the yardstick before and after it."""
    means = [mean(pair) for pair in pairwise(around)]
    ratios = tuple(value / other for value, other in zip(values, means, strict=True))
    return Figure(what=what, unit=unit, values=tuple(values), yardstick=yardstick, ratios=ratios, target=target)


def latency_figures(what: str, seconds: Sequence[float], targets: Mapping[float, Target]) -> list[Figure]:
    """Return p50, p99 and p99.9 in milliseconds."""
    return [
        Figure(
            what=f"{what}, p{percent:g}",
            unit="ms",
            values=(percentile(seconds, percent) * 1000,),
            target=targets.get(percent),
        )
        for percent in (50, 99, 99.9)
    ]


def show(console: Console, title: str, result: Result) -> None:
    """Print the table of a case."""
    table = Table("figure", "measured", "of its yardstick", "target", "met", title_justify="left")
    table.title = f"{title}\nreceiver: {result.receiver}"
    for figure in result.figures:
        table.add_row(
            figure.what,
            f"{spread(figure.values)} {figure.unit}",
            f"{spread(figure.ratios)} × {figure.yardstick}" if figure.ratios else "",
            _target(figure),
            "" if figure.is_met is None or result.void else "yes" if figure.is_met else "no",
        )
    for name, samples in result.yardsticks.items():
        table.add_row(f"yardstick {name}", spread(samples), "", "", "")
    console.print(table)
    for note in result.notes:
        console.print(f"  {note}", soft_wrap=True)
    if result.void:
        console.print(f"  VOID: {result.void}", soft_wrap=True)
    if result.lost:
        console.print(f"  LOST: {result.lost} deliveries never arrived", soft_wrap=True)


def as_json(name: str, title: str, result: Result) -> dict[str, Any]:
    """Return the JSON object of a case."""
    figures = [
        asdict(figure)
        | {"value": median(figure.values), "ratio": median(figure.ratios) if figure.ratios else None}
        | {"met": None if result.void else figure.is_met}
        for figure in result.figures
    ]
    return {"case": name, "title": title, **asdict(result), "figures": figures}


def as_markdown(results: Mapping[str, Result]) -> str:
    """Return the figures of all cases as one Markdown table."""
    lines = ["| case | figure | measured | of its yardstick | target |", "| --- | --- | --- | --- | --- |"]
    for name, result in results.items():
        for figure in result.figures:
            ratio = f"{spread(figure.ratios)} × {figure.yardstick}" if figure.ratios else ""
            measured = f"{spread(figure.values)} {figure.unit}" + (", void" if result.void else "")
            lines.append(f"| `{name}` | {figure.what} | {measured} | {ratio} | {_target(figure)} |")
        for yardstick, samples in result.yardsticks.items():
            lines.append(f"| `{name}` | yardstick {yardstick} | {spread(samples)} | | |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Return the median, with the lowest and the highest value in parentheses if there are several."""
    if not values:
        return ""
    middle = _number(median(values))
    return middle if len(values) == 1 else f"{middle} ({_number(min(values))} to {_number(max(values))})"


def _number(value: float) -> str:
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _target(figure: Figure) -> str:
    if figure.target is None:
        return ""
    sign = "≥" if figure.target.at_least else "≤"
    return f"{sign} {figure.target.bound:,g} {f'× {figure.yardstick}' if figure.target.is_ratio else figure.unit}"

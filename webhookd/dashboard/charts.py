"""Charts as SVG paths in a box of fixed size, with a summary in words for screen readers.

Pure. Lines differ by their pattern, not only by color; all numbers of a chart are in a table that the page links to.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import floor, log10

from webhookd.base.clock import iso
from webhookd.jobs.statistics import Point, Series

WIDTH, HEIGHT = 600, 120
SPARK_WIDTH, SPARK_HEIGHT = 96, 22
_STEPS = (1, 2, 2.5, 5, 10)
_LABELS = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ChartLine:
    """One line: its name, its class (the pattern), its path, the path of what is below it, and its sum or peak."""

    name: str
    pattern: str
    path: str
    below: str
    told: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spot:
    """The area of one period, which shows its numbers on hover."""

    x: float
    width: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What the template draws; `top` is the upper end of the scale and `summary` says what there is to see."""

    title: str
    summary: str
    top: str
    middle: str
    times: tuple[str, ...]
    lines: tuple[ChartLine, ...]
    spots: tuple[Spot, ...]
    is_empty: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """A line to draw: its name, its value at a point (None: a gap), and its total or percentile."""

    name: str
    value: Callable[[Point], float | None]
    total: str


_PATTERNS = ("first", "second", "third")


def chart(title: str, series: Series, wishes: Sequence[Wish], write: Callable[[float | None], str]) -> Chart:
    """Draw the lines that are asked for; `write` puts a value in words."""
    values = [[wish.value(point) for point in series.points] for wish in wishes]
    known = [value for line in values for value in line if value is not None]
    top = _round_up(max(known, default=0))
    lines = tuple(
        ChartLine(
            name=wish.name,
            pattern=pattern,
            path=_path(line, top),
            below=_below(line, top) if pattern == "first" else "",
            told=wish.total,
        )
        for wish, pattern, line in zip(wishes, _PATTERNS, values, strict=False)
    )
    step = WIDTH / max(len(series.points), 1)
    spots = tuple(
        Spot(
            x=round(index * step, 2),
            width=round(step, 2),
            text=f"{_clock(point.at)}: "
            + ", ".join(f"{wish.name} {write(line[index])}" for wish, line in zip(wishes, values, strict=True)),
        )
        for index, point in enumerate(series.points)
    )
    told = ", ".join(f"{wish.name} {wish.total}" for wish in wishes)
    shown = max(len(series.points) - 1, 1)
    marks = [series.points[round(shown * mark / (_LABELS - 1))].at for mark in range(_LABELS)] if series.points else []
    return Chart(
        title=title,
        summary=f"{title}: {told}",
        top=write(top),
        middle=write(top / 2),
        times=tuple(_clock(at) for at in marks),
        lines=lines,
        spots=spots,
        is_empty=not any(known),
    )


def sparkline(series: Series) -> tuple[str, str, str]:
    """Return a webhook's day: bars of what was delivered, upon them what failed, and both in words."""
    top = max((point.counts.delivered + point.counts.failures for point in series.points), default=0) or 1
    step = SPARK_WIDTH / max(len(series.points), 1)
    delivered: list[str] = []
    failures: list[str] = []
    for index, point in enumerate(series.points):
        left, foot = index * step + 0.5, float(SPARK_HEIGHT)
        for number, bars in ((point.counts.delivered, delivered), (point.counts.failures, failures)):
            if number:
                height = max(number / top * SPARK_HEIGHT, 1.5)
                bars.append(f"M{left:.1f} {foot:.1f}v-{height:.1f}h{step - 1:.1f}v{height:.1f}z")
                foot -= height
    total = series.total
    told = f"Last 24 hours: {total.delivered} delivered, {total.failures} failed attempts"
    return "".join(delivered), "".join(failures), told


def _points(values: Sequence[float | None], top: float) -> list[tuple[float, float] | None]:
    step = WIDTH / max(len(values), 1)
    return [
        None if value is None else (round((index + 0.5) * step, 1), round(HEIGHT - value / top * HEIGHT, 1))
        for index, value in enumerate(values)
    ]


def _path(values: Sequence[float | None], top: float) -> str:
    parts: list[str] = []
    pen_is_down = False
    placed = _points(values, top)
    for index, place in enumerate(placed):
        if place is None:
            pen_is_down = False
            continue
        x, y = place
        parts.append(f"{'L' if pen_is_down else 'M'}{x} {y}")
        following = placed[index + 1] if index + 1 < len(placed) else None
        if not pen_is_down and following is None:
            parts.append("h1.5")  # a single point would be invisible
        pen_is_down = True
    return "".join(parts)


def _below(values: Sequence[float | None], top: float) -> str:
    places = [place for place in _points([value or 0 for value in values], top) if place is not None]
    if not places:
        return ""
    line = "".join(f"L{x} {y}" for x, y in places)
    return f"M{places[0][0]} {HEIGHT}{line}L{places[-1][0]} {HEIGHT}z"


def _round_up(value: float) -> float:
    if value <= 0:
        return 1
    magnitude = 10 ** floor(log10(value))
    return float(next(step * magnitude for step in _STEPS if step * magnitude >= value))


def _clock(at: float) -> str:
    return iso(at)[11:16]

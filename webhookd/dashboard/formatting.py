"""How numbers, times and states read on a page. Pure; times are epoch seconds."""

import re
from datetime import UTC, datetime
from math import floor

from webhookd.base.clock import parse_iso

Moment = float | str | None

NOTHING = "–"  # noqa: RUF001 - a dash is what it is to look like
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SIZES = ("KiB", "MiB", "GiB", "TiB")
_SHORTEST_HEAD = 12
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.\d{3}Z")


def epoch(at: Moment) -> float | None:
    """Return a time of the API or of the journal as epoch seconds."""
    return parse_iso(at) if isinstance(at, str) else at


def duration(seconds: float | None) -> str:
    """Say how long, in the two largest units: `2 h 5 min`, `340 ms`."""
    if seconds is None:
        return NOTHING
    if seconds < 1:
        return f"{max(round(seconds * 1000), 0)} ms"
    if seconds < 10:
        return f"{seconds:.1f} s".replace(".0 ", " ")
    left = floor(seconds)
    for index, (size, unit) in enumerate(_UNITS):
        count, rest = divmod(left, size)
        if count:
            smaller, small_unit = _UNITS[min(index + 1, len(_UNITS) - 1)]
            second = rest // smaller
            return f"{count} {unit} {second} {small_unit}" if second and unit != small_unit else f"{count} {unit}"
    return "0 s"


def when(at: Moment) -> str:
    """Write a time in UTC to the second: `2025-01-31 12:00:05`."""
    moment = epoch(at)
    return NOTHING if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")


def readable(sentence: str) -> str:
    """Write the times in a sentence of the API as every page does: `2025-01-31 12:00:05 UTC`."""
    return _INSTANT.sub(r"\1 \2 UTC", sentence)


def capitalized(text: str) -> str:
    """Return a text with its first letter as a capital."""
    return f"{text[:1].upper()}{text[1:]}"


def count(number: float | None) -> str:
    """Write a number with a thin space between thousands."""
    if number is None:
        return NOTHING
    text = f"{number:,.1f}" if number != int(number) and abs(number) < 100 else f"{number:,.0f}"
    return text.replace(",", "\u202f")


def size(number: float | None) -> str:
    """Write a number of bytes: `12.4 MiB`."""
    if number is None:
        return NOTHING
    if number < 1024:
        return f"{number:.0f} B"
    value = float(number)
    for unit in _SIZES:
        value /= 1024
        if value < 1024 or unit == _SIZES[-1]:
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    raise AssertionError("the last size takes every number")


def shortened(identifier: str) -> str:
    """Return an id's prefix and its end, which tells ids of one day apart: `dlv_…8KQ2ZT`."""
    prefix, found, rest = identifier.partition("_")
    if not found or len(rest) <= _SHORTEST_HEAD:
        return identifier
    return f"{prefix}_…{rest[-6:]}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Write a number with its noun: `1 webhook`, `2 webhooks`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"

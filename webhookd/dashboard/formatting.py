"""The format of numbers, times and ids on pages. Pure; times are epoch seconds."""

import re
from datetime import UTC, datetime
from math import floor

from webhookd.base.clock import parse_iso

Moment = float | str | None

NOTHING = "–"  # noqa: RUF001 - an en dash is intended
_UNITS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))
_SIZES = ("KiB", "MiB", "GiB", "TiB")
_SHORTEST_HEAD = 12
_INSTANT = re.compile(r"(\d{4}-\d\d-\d\d)T(\d\d:\d\d:\d\d)\.\d{3}Z")


def epoch(at: Moment) -> float | None:
    """Return a time of the API (ISO-8601) or of the journal as epoch seconds."""
    return parse_iso(at) if isinstance(at, str) else at


def duration(seconds: float | None) -> str:
    """Format a duration in its two largest units: `2 h 5 min`, `340 ms`."""
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
    """Format a time in UTC to the second: `2025-01-31 12:00:05`."""
    moment = epoch(at)
    return NOTHING if moment is None else datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M:%S")


def readable(sentence: str) -> str:
    """Replace the ISO-8601 times in a sentence of the API by the format of pages: `2025-01-31 12:00:05 UTC`."""
    return _INSTANT.sub(r"\1 \2 UTC", sentence)


def capitalized(text: str) -> str:
    """Return a text with its first letter as a capital."""
    return f"{text[:1].upper()}{text[1:]}"


def count(number: float | None) -> str:
    """Format a number with a thin space between thousands."""
    if number is None:
        return NOTHING
    text = f"{number:,.1f}" if number != int(number) and abs(number) < 100 else f"{number:,.0f}"
    return text.replace(",", "\u202f")


def size(number: float | None) -> str:
    """Format a number of bytes: `12.4 MiB`."""
    if number is None:
        return NOTHING
    if number < 1024:
        return f"{number:.0f} B"
    value = float(number)
    for unit in _SIZES:
        value /= 1024
        if value < 1024 or unit == _SIZES[-1]:
            return f"{value:.1f} {unit}" if value < 100 else f"{value:.0f} {unit}"
    raise AssertionError("the last unit takes every number")


def shortened(identifier: str) -> str:
    """Return the prefix and the end of an id, which differs between ids of one day: `dlv_…8KQ2ZT`."""
    prefix, found, rest = identifier.partition("_")
    if not found or len(rest) <= _SHORTEST_HEAD:
        return identifier
    return f"{prefix}_…{rest[-6:]}"


def plural(number: int, one: str, many: str | None = None) -> str:
    """Format a number with its noun: `1 webhook`, `2 webhooks`."""
    return f"{count(number)} {one if number == 1 else many or one + 's'}"

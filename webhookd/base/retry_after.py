"""Reads Retry-After and HTTP dates as a client does (RFC 9110, 10.2.3 and 5.6.7). Pure.

A date in Retry-After is by the sender's clock, so it is compared with the Date of the same answer, if it has one. A
value is parsed in bounded time; one in none of the forms is ignored.
"""

import re
from collections.abc import Sequence
from datetime import UTC, datetime

MAX_RETRY_AFTER_SECONDS = 86_400.0
MOST_VALUES = 8  # of one repeated header

_DELAY_SECONDS = re.compile(r"[0-9]+")
_LONGEST_DATE = len("Wednesday, 31-Dec-25 23:59:59 GMT")
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
# The preferred form, and the two obsolete forms that a recipient must accept.
_IMF_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?P<day>[0-9]{1,2}) (?P<month>[A-Z]{3}) (?P<year>[0-9]{4})"
    r" (?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2}) GMT",
    re.ASCII | re.IGNORECASE,
)
_RFC850_DATE = re.compile(
    r"(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day, (?P<day>[0-9]{2})-(?P<month>[A-Z]{3})-(?P<year>[0-9]{2})"
    r" (?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2}) GMT",
    re.ASCII | re.IGNORECASE,
)
_ASCTIME_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) (?P<month>[A-Z]{3}) (?P<day>[ 0-9]?[0-9])"
    r" (?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2}) (?P<year>[0-9]{4})",
    re.ASCII | re.IGNORECASE,
)


def read_retry_after(values: Sequence[str], dates: Sequence[str], now: float) -> float | None:
    """Return how many seconds an answer asks to wait: 0 for a past date, at most 24 h, None if it doesn't ask.

    `values` are its Retry-After headers, of which the longest wait counts, and `dates` its Date headers. A date is
    compared with Date, or with `now` (epoch seconds) if that is missing, invalid or ambiguous.
    """
    sent = {parse_date(date.strip(), now) for date in dates[:MOST_VALUES]}
    sent_at = sent.pop() if len(sent) == 1 else None
    start = now if sent_at is None else sent_at
    delays = [delay for value in values[:MOST_VALUES] if (delay := _delay(value.strip(), start, now)) is not None]
    return min(max(delays), MAX_RETRY_AFTER_SECONDS) if delays else None


def _delay(value: str, start: float, now: float) -> float | None:
    if _DELAY_SECONDS.fullmatch(value):
        return float(value) if len(value) < 10 else MAX_RETRY_AFTER_SECONDS
    moment = parse_date(value, now)
    return None if moment is None else max(moment - start, 0.0)


def parse_date(text: str, now: float) -> float | None:
    """Return an HTTP-date in epoch seconds, or None for any other text.

    A year of two digits is the one that is at most 50 years after `now`.
    """
    if len(text) > _LONGEST_DATE:
        return None
    found = _IMF_DATE.fullmatch(text) or _RFC850_DATE.fullmatch(text) or _ASCTIME_DATE.fullmatch(text)
    if found is None:
        return None
    month = found["month"].lower()
    second = int(found["second"])
    if month not in _MONTHS or second > 60:
        return None
    year = int(found["year"])
    if len(found["year"]) == 2:
        this_year = datetime.fromtimestamp(now, UTC).year
        year += this_year - this_year % 100
        if year > this_year + 50:
            year -= 100
        elif year <= this_year - 50:
            year += 100
    try:
        minute = datetime(
            year, _MONTHS.index(month) + 1, int(found["day"]), int(found["hour"]), int(found["minute"]), tzinfo=UTC
        )
    except ValueError:
        return None
    return minute.timestamp() + second

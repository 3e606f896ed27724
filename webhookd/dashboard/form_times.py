"""Times in forms, in UTC as on all pages. Pure."""

from webhookd.base.clock import TimeError, iso, parse_iso

EXPECTED = "Enter a time in UTC, such as 2025-01-31 12:00."
_TO_THE_DAY, _TO_THE_MINUTE, _TO_THE_SECOND = len("2025-01-31"), len("2025-01-31T12:00"), len("2025-01-31T12:00:05")


def read_moment(text: str | None) -> tuple[float | None, str | None]:
    """Return a time as epoch seconds, and what is wrong with its text; an empty text is no time.

    Accepted are a day, a time to the minute or second as a browser's field or a person writes it, and ISO-8601.
    """
    if text is None or not text.strip():
        return None, None
    # Between day and time a space stands for a T; after the time it is a + that wasn't encoded.
    spelled = text.strip()[:_TO_THE_MINUTE].replace(" ", "T") + text.strip()[_TO_THE_MINUTE:].replace(" ", "+")
    if len(spelled) == _TO_THE_DAY:
        spelled += "T00:00:00Z"
    elif len(spelled) in {_TO_THE_MINUTE, _TO_THE_SECOND}:
        spelled += "Z"
    try:
        return parse_iso(spelled), None
    except TimeError:
        return None, EXPECTED


def read_range(since: str | None, until: str | None) -> tuple[float | None, float | None, dict[str, str]]:
    """Return both ends of a time range as epoch seconds, and what is wrong with the field `since` or `until`."""
    from_at, since_problem = read_moment(since)
    until_at, until_problem = read_moment(until)
    problems = {"since": since_problem, "until": until_problem}
    return from_at, until_at, {name: problem for name, problem in problems.items() if problem is not None}


def field_time(at: float) -> str:
    """Return a time in the format of a browser's field for times, in UTC."""
    return iso(at)[:_TO_THE_MINUTE]

"""What producers and receivers sent, as text to look at. Pure."""

import msgspec

from webhookd.base.json_text import depth

# Enough to see what it is; a browser shows no quarter of a megabyte in one piece with pleasure.
MOST_SHOWN = 16_384
MOST_INDENTATION = 1_048_576
_INDENT = 2


def indented(body: bytes) -> str:
    """Return JSON with line breaks and indentation; the values stay as they were written.

    As it is where that could make it many times as long: each of a million values may be indented 128 levels deep.
    """
    marks = sum(body.count(mark) for mark in (b",", b"[", b"]", b"{", b"}"))
    if marks * _INDENT * depth(body) > MOST_INDENTATION:
        return body.decode()
    return msgspec.json.format(body, indent=_INDENT).decode()


def shown(text: str) -> tuple[str, bool]:
    """Return what a page shows of a text, and whether there is more of it."""
    return text[:MOST_SHOWN], len(text) > MOST_SHOWN

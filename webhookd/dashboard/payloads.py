"""Payloads of producers and receivers as readable text. Pure."""

import msgspec

from webhookd.base.json_text import depth

# Enough to recognize a payload; a browser is slow with a quarter of a megabyte in one element.
MOST_SHOWN = 16_384
MOST_INDENTATION = 1_048_576
_INDENT = 2


def indented(body: bytes) -> str:
    """Return JSON with line breaks and indentation; values keep their spelling.

    A text that could become many times as long is returned unchanged: a million values may be nested 128 levels deep.
    """
    marks = sum(body.count(mark) for mark in (b",", b"[", b"]", b"{", b"}"))
    if marks * _INDENT * depth(body) > MOST_INDENTATION:
        return body.decode()
    return msgspec.json.format(body, indent=_INDENT).decode()


def shown(text: str) -> tuple[str, bool]:
    """Return the part of a text that a page shows, and whether there is more."""
    return text[:MOST_SHOWN], len(text) > MOST_SHOWN

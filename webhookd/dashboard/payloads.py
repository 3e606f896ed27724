"""What producers and receivers sent, as text to look at. Pure."""

import msgspec

# Enough to see what it is; a browser shows no quarter of a megabyte in one piece with pleasure.
MOST_SHOWN = 16_384


def indented(body: bytes) -> str:
    """Return JSON with line breaks and indentation; the values stay as they were written."""
    return msgspec.json.format(body, indent=2).decode()


def shown(text: str) -> tuple[str, bool]:
    """Return what a page shows of a text, and whether there is more of it."""
    return text[:MOST_SHOWN], len(text) > MOST_SHOWN

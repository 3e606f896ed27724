"""Checks of JSON text before it is parsed, in time linear in its length.

They use methods of `bytes`, which run in C. A Python loop over the bytes, or a regular expression for strings, would
block the event loop for seconds on a text that is made for that.
"""

from array import array
from itertools import accumulate

# As signed bytes: 1 for an opening bracket, -1 for a closing one.
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_ALL_BYTES = frozenset(range(256))
_QUOTE = ord('"')
_DIGITS_TO_ZEROS = bytes.maketrans(b"0123456789", b"0" * 10)


def depth(text: bytes) -> int:
    """Return how deep the brackets outside strings are nested; exact for valid JSON."""
    steps = outside_strings(text, b"{[}]").translate(_STEPS)
    return max(accumulate(array("b", steps)), default=0)


def outside_strings(text: bytes, marks: bytes) -> bytes:
    """Return the bytes of a JSON text that are in `marks` and outside its strings."""
    # A pair of backslashes escapes nothing that follows; only a single one can escape a quote.
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept = unescaped.translate(None, bytes(_ALL_BYTES - {_QUOTE, *marks}))
    return b"".join(kept.replace(b'""', b"").split(b'"')[::2])


def has_long_number(text: bytes, most_digits: int) -> bool:
    """Whether a JSON text has more than `most_digits` digits in a row outside its strings."""
    too_long = b"0" * (most_digits + 1)
    if too_long not in text.translate(_DIGITS_TO_ZEROS):
        return False
    # Only now are strings told from numbers. What separates two digits must stay, so it becomes a space.
    unescaped = text.replace(b"\\\\", b" ").replace(b'\\"', b" ")
    outside = b" ".join(unescaped.split(b'"')[::2])
    return too_long in outside.translate(_DIGITS_TO_ZEROS)

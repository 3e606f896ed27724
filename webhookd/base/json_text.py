"""JSON as text: what can be told of it before a parser sees it, in time linear in its length.

All of it is done in C: a loop over the bytes, or an expression that looks for the end of each string, stops the loop
for seconds on a text that was made for it.
"""

from array import array
from itertools import accumulate

# As signed bytes, an opening bracket is one step down and a closing one is one step up.
_STEPS = bytes.maketrans(b"{[}]", b"\x01\x01\xff\xff")
_ALL_BYTES = frozenset(range(256))
_QUOTE = ord('"')
_DIGITS_TO_ZEROS = bytes.maketrans(b"0123456789", b"0" * 10)


def depth(text: bytes) -> int:
    """Return how deep the brackets outside strings are nested, exact for all that is JSON."""
    steps = outside_strings(text, b"{[}]").translate(_STEPS)
    return max(accumulate(array("b", steps)), default=0)


def outside_strings(text: bytes, marks: bytes) -> bytes:
    """Return those of the bytes of `marks` that stand outside the strings of a JSON text."""
    # Backslashes pair from the left, and what one leaves over escapes what follows.
    unescaped = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept = unescaped.translate(None, bytes(_ALL_BYTES - {_QUOTE, *marks}))
    return b"".join(kept.replace(b'""', b"").split(b'"')[::2])


def has_long_number(text: bytes, most_digits: int) -> bool:
    """Whether more than so many digits stand in a row outside the strings of a JSON text."""
    too_long = b"0" * (most_digits + 1)
    if too_long not in text.translate(_DIGITS_TO_ZEROS):
        return False
    # Only now is it worth telling strings from numbers; nothing that parts two digits may go.
    unescaped = text.replace(b"\\\\", b" ").replace(b'\\"', b" ")
    outside = b" ".join(unescaped.split(b'"')[::2])
    return too_long in outside.translate(_DIGITS_TO_ZEROS)

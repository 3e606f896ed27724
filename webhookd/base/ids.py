"""Public identifiers: a prefix for the kind, and a ULID, which sorts by the time it was created.

An id never contains a `.`, because the signed content joins id, timestamp and body with dots.
"""

import os
import re
from collections.abc import Callable
from enum import StrEnum

_RANDOM_CHARACTERS = 16  # of a ULID, 80 bits
_STOCK = 256
# Crockford's alphabet; repeated eight times it maps each byte to the character of its last five bits.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CROCKFORD = _ALPHABET.encode() * 8
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")


class Prefix(StrEnum):
    """The kind of thing that an id identifies."""

    WEBHOOK = "wh"
    EVENT = "evt"
    DELIVERY = "dlv"
    ATTEMPT = "att"
    KEY = "key"
    REPLAY = "rpl"
    REQUEST = "req"
    NODE = "node"


class IdFactory:
    """Creates ids from a clock (epoch seconds) and a source of random bytes; tests replace both."""

    def __init__(self, now: Callable[[], float], random_bytes: Callable[[int], bytes] = os.urandom) -> None:
        self._now = now
        self._random_bytes = random_bytes
        self._stock: list[str] = []
        self._stamp = (-1, "")

    def new(self, prefix: Prefix) -> str:
        """Return a new id such as `evt_01JH…`; safe to call from any thread."""
        try:
            random = self._stock.pop()
        except IndexError:
            # One system call for each id would cost more than everything else.
            self._stock += self._cut()
            random = self._stock.pop()
        milliseconds = int(self._now() * 1000)
        made_at, time = self._stamp
        if made_at != milliseconds:
            # The first ten characters of a ULID: 48 bits, five to each.
            time = "".join([_ALPHABET[milliseconds >> shift & 31] for shift in range(45, -1, -5)])
            self._stamp = (milliseconds, time)
        return f"{prefix}_{time}{random}"

    def _cut(self) -> list[str]:
        text = self._random_bytes(_STOCK * _RANDOM_CHARACTERS).translate(_CROCKFORD).decode()
        return [text[start : start + _RANDOM_CHARACTERS] for start in range(0, len(text), _RANDOM_CHARACTERS)]


def is_id(prefix: Prefix, text: str) -> bool:
    """Whether `text` is an id of that kind as `IdFactory` creates them."""
    kind, _, rest = text.partition("_")
    return kind == prefix.value and _ULID.fullmatch(rest) is not None

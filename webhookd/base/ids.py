"""Public identifiers: a prefix that names the kind, and a ULID that sorts by the time it was made.

An id never contains a `.`, because the signed content joins id, timestamp and body with one.
"""

import os
import re
from collections.abc import Callable
from enum import StrEnum

_RANDOM_CHARACTERS = 16  # of a ULID, 80 bits
_STOCK = 256
# Any byte to the character of its last five bits: Crockford's alphabet, eight times over.
_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_CROCKFORD = _ALPHABET.encode() * 8
_ULID = re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}")
_EVENT_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class Prefix(StrEnum):
    """What an id names."""

    WEBHOOK = "wh"
    EVENT = "evt"
    DELIVERY = "dlv"
    ATTEMPT = "att"
    KEY = "key"
    REPLAY = "rpl"
    REQUEST = "req"


class IdFactory:
    """Makes ids from a clock (epoch seconds) and a source of random bytes, both replaceable for a repeatable run."""

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
            # A call to the kernel for each would cost more than the rest.
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
    """Whether `text` is an id of that kind as this server makes them."""
    kind, _, rest = text.partition("_")
    return kind == prefix.value and _ULID.fullmatch(rest) is not None


def is_event_id(text: str) -> bool:
    """Whether `text` can be an event's id: the server's own or the producer's, `[A-Za-z0-9_-]{1,64}`."""
    return _EVENT_ID.fullmatch(text) is not None

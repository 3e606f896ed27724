"""Opaque cursors of the lists: where the next page begins.

They contain a `.`, which no id does, so that a parameter may take either.
"""

import base64
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from webhookd.errors import ErrorCode, Rejected

T = TypeVar("T")

PREFIX = "c."


def encode(list_name: str, position: Sequence[object]) -> str:
    """Return the cursor of a position in a list."""
    text = msgspec.json.encode([list_name, *position])
    return PREFIX + base64.urlsafe_b64encode(text).decode().rstrip("=")


def decode(cursor: str, list_name: str, position: type[T]) -> T:
    """Return the position a cursor of that list stands for, as a `position` (a tuple type); Rejected INVALID_CURSOR."""
    text = cursor.removeprefix(PREFIX)
    try:
        name, *rest = msgspec.json.decode(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), type=list[object]
        )
        if not cursor.startswith(PREFIX) or name != list_name:
            raise _invalid()
        return msgspec.convert(rest, position)
    except ValueError as error:  # of base64, of msgspec, or of an empty list
        raise _invalid() from error


def _invalid() -> Rejected:
    return Rejected(ErrorCode.INVALID_CURSOR, "the cursor isn't one that this list gave out: start again without it")

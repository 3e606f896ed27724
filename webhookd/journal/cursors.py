"""Opaque cursors of the lists: where the next page begins.

They contain a `.`, which no id does, so that a parameter may take either. Only what `encode` could have made for the
same list is taken: one spelling for each position, and each number in the range of SQLite's integers, so that no query
meets a number that it can't hold.
"""

import base64
from collections.abc import Callable, Sequence
from typing import Annotated, TypeVar, get_args

import msgspec
from msgspec import Meta

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal.rows import RowPage

T = TypeVar("T")

PREFIX = "c."
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]


def encode(list_name: str, position: Sequence[object]) -> str:
    """Return the cursor of a position in a list."""
    text = msgspec.json.encode([list_name, *position])
    return PREFIX + base64.urlsafe_b64encode(text).decode().rstrip("=")


def page(found: Sequence[T], limit: int, list_name: str, position: Callable[[T], Sequence[object]]) -> RowPage[T]:
    """Return the page of `limit` items, of which one more was asked for: it says whether there is another page.

    `position` gives the place of an item, which the next page begins after.
    """
    items = list(found[:limit])
    return RowPage(items=items, next_cursor=encode(list_name, position(items[-1])) if len(found) > limit else None)


def decode(cursor: str, list_name: str, position: type[T]) -> T:
    """Return the position a cursor of that list stands for, as a `position`; Rejected INVALID_CURSOR.

    `position` is a tuple type whose integers are `Number`.
    """
    text = cursor.removeprefix(PREFIX)
    kind = tuple[(str, *get_args(position))]  # type: ignore[misc, valid-type]  # made at run time
    try:
        name, *rest = msgspec.json.decode(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), type=kind
        )
    except ValueError as error:  # of base64 or of msgspec
        raise _invalid() from error
    # Compared whole: what another reader might take for the same position isn't what was given out.
    if name != list_name or encode(name, rest) != cursor:
        raise _invalid()
    return msgspec.convert(rest, position)


def _invalid() -> Rejected:
    return Rejected(ErrorCode.INVALID_CURSOR, "the cursor isn't one that this list gave out: start again without it")

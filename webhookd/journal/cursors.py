"""Opaque cursors of lists: the position at which the next page begins.

A cursor contains a `.`, which no id does, so that one parameter may take either. `decode` accepts only what `encode`
could have returned for the same list: one text for each position, with numbers in the range of SQLite's integers, so
that no query gets a number that SQLite can't hold.
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
    """Return a page of the first `limit` items found; one more was read to know whether there is another page.

    `position` returns the position of an item, after which the next page begins.
    """
    items = list(found[:limit])
    return RowPage(items=items, next_cursor=encode(list_name, position(items[-1])) if len(found) > limit else None)


def decode(cursor: str, list_name: str, position: type[T]) -> T:
    """Return the position of a list's cursor; raises Rejected INVALID_CURSOR.

    `position` is its type: a tuple whose integers are `Number`.
    """
    text = cursor.removeprefix(PREFIX)
    kind = tuple[(str, *get_args(position))]  # type: ignore[misc, valid-type]  # made at run time
    try:
        name, *rest = msgspec.json.decode(
            base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True), type=kind
        )
    except ValueError as error:  # of base64 or of msgspec
        raise _invalid() from error
    # Compared as text: base64 and JSON allow several texts for one position.
    if name != list_name or encode(name, rest) != cursor:
        raise _invalid()
    return msgspec.convert(rest, position)


def _invalid() -> Rejected:
    return Rejected(ErrorCode.INVALID_CURSOR, "the cursor isn't one that this list gave out: start again without it")

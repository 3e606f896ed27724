"""JSON from outside: what is wrong with a text that is none, in our own words, and names that stand in it twice.

Whatever is looked at has been refused already, or is bounded in its values; each look is linear in the text's length.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping

from webhookd.base.validation import step

BOM = b"\xef\xbb\xbf"
"""A byte order mark in UTF-8, which some editors and shells put before a text; it says nothing and is left out."""

_BLANK = b" \t\r\n"
_BYTE = re.compile(r"\(byte ([0-9]+)\)\Z")
# Half of a pair, with the other half neither behind it nor before it.
_LONE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_REASONS = (
    ("trailing characters", "something follows the JSON near byte {byte}; send one value"),
    ("escape", "the escape near byte {byte} is none of JSON's"),
    ("invalid number", "the number near byte {byte} isn't written as JSON has them"),
    ("keys must be strings", "the name near byte {byte} must be in double quotes"),
    ("expected", "a quote, colon, comma or bracket is missing near byte {byte}"),
)
_LESS_THAN_A_SPACE = 0x20

_Way = tuple["_Way | None", str | int]  # to a place in a document: to what it is in, and the name or index there


def reason(text: bytes, message: str) -> str:
    """Say why a text that the parser refused with this message is no JSON.

    The parser's place may be that of the word's end.
    """
    if not text.strip(_BLANK):
        return "it is empty; send a JSON object such as {}"
    half = _LONE.search(text.replace(b"\\\\", b"  "))
    if half is not None:
        return (
            f"the escape {half[0].decode()} at byte {half.start()} is half of a surrogate pair, which is no character: "
            "write both halves, or the character itself"
        )
    found = _BYTE.search(message)
    if found is None:
        return "it ends too early: a quote, brace or bracket isn't closed"
    byte = int(found[1])
    for part, words in _REASONS:
        if part in message:
            return words.format(byte=byte)
    if byte < len(text) and text[byte] < _LESS_THAN_A_SPACE:
        return f"byte {byte} is a control character; in a string write it as an escape, such as \\n or \\u0000"
    return f"what stands near byte {byte} is no JSON"


class _Twice:
    """Stands in for an object that has a name twice."""

    def __init__(self, name: str) -> None:
        self.name = name


def find_repeated(text: bytes) -> str | None:
    """Return the JSON pointer of a name that an object of this JSON has twice; None where there is none.

    Names are compared as they are read: `"a"` and `"\\u0061"` are one.
    """
    repeats = False

    def members(pairs: list[tuple[str, object]]) -> object:
        nonlocal repeats
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        repeats = True
        return _Twice(next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1))

    document = json.loads(text, object_pairs_hook=members, parse_int=_no_number, parse_float=_no_number)
    return _place(document) if repeats else None


def _no_number(_: str) -> None:
    """Read no number: its value doesn't matter here, and a long one costs more than its length."""


def _place(document: object) -> str:
    """Return the pointer of the first name that is there twice.

    Of what is on the way there only the steps are kept: a pointer for each value would be as long, times their number,
    as the document is deep.
    """
    waiting: list[tuple[object, _Way | None]] = [(document, None)]
    while waiting:
        value, way = waiting.pop()
        if isinstance(value, _Twice):
            return _pointer((way, value.name))
        if isinstance(value, Mapping):
            waiting += [(inner, (way, name)) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(inner, (way, index)) for index, inner in enumerate(value)]
    return ""


def _pointer(way: "_Way | None") -> str:
    steps: list[str] = []
    while way is not None:
        way, last = way
        steps.append(step(str(last)))
    return "".join(reversed(steps))

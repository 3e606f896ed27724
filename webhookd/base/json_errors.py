"""Explains why a text is not valid JSON, and finds names that an object has twice.

The text was refused already, or the number of its values is bounded. Each function takes time linear in its length.
"""

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from webhookd.base.validation import step

BOM = b"\xef\xbb\xbf"
"""A byte order mark in UTF-8, which some editors and shells write before a text; it is ignored."""

_BLANK = b" \t\r\n"
_BYTE = re.compile(r"\(byte ([0-9]+)\)\Z")
# One half of a surrogate pair, without the other half after or before it.
_LONE = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}"
)
_REASONS = (
    ("trailing characters", "something follows the JSON near byte {byte}; send one value"),
    ("escape", "the escape near byte {byte} is not valid in JSON"),
    ("invalid number", "the number near byte {byte} is not valid in JSON"),
    ("keys must be strings", "the name near byte {byte} must be in double quotes"),
    ("expected", "a quote, colon, comma or bracket is missing near byte {byte}"),
)
_LESS_THAN_A_SPACE = 0x20

_Path = tuple["_Path | None", str | int]  # of a value in a document: its container's path, and its name or index


def reason(text: bytes, message: str) -> str:
    """Return why a text is not JSON, given the message of the parser that refused it.

    The parser may give the position of the end of a word instead of its start.
    """
    if not text.strip(_BLANK):
        return "it is empty; send a JSON object such as {}"
    half = _LONE.search(text.replace(b"\\\\", b"  "))
    if half is not None:
        return (
            f"the escape {half[0].decode()} at byte {half.start()} is half of a surrogate pair, not a character: "
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
    return f"what is near byte {byte} is not JSON"


@dataclass(frozen=True, slots=True)
class _Repeated:
    """Takes the place of an object that has a name twice."""

    name: str


def find_repeated(text: bytes) -> str | None:
    """Return the JSON pointer of a name that an object of this JSON has twice, or None.

    Names are compared after decoding: `"a"` and `"\\u0061"` are the same.
    """
    repeats = False

    def members(pairs: list[tuple[str, object]]) -> object:
        nonlocal repeats
        found = dict(pairs)
        if len(found) == len(pairs):
            return found
        repeats = True
        return _Repeated(next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1))

    document = json.loads(text, object_pairs_hook=members, parse_int=_no_number, parse_float=_no_number)
    return _place(document) if repeats else None


def _no_number(_: str) -> None:
    """Skip a number: its value isn't needed, and reading a long one takes more than linear time."""


def _place(document: object) -> str:
    """Return the pointer of the first repeated name.

    Paths are linked to their container's. A pointer for each value would take the depth times the number of values.
    """
    waiting: list[tuple[object, _Path | None]] = [(document, None)]
    while waiting:
        value, path = waiting.pop()
        if isinstance(value, _Repeated):
            return _pointer((path, value.name))
        if isinstance(value, Mapping):
            waiting += [(inner, (path, name)) for name, inner in value.items()]
        elif isinstance(value, list):
            waiting += [(inner, (path, index)) for index, inner in enumerate(value)]
    return ""


def _pointer(path: "_Path | None") -> str:
    steps: list[str] = []
    while path is not None:
        path, last = path
        steps.append(step(str(last)))
    return "".join(reversed(steps))

"""Recognize texts of libraries: phrases of their messages, and the places in the package that show their exceptions."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "webhookd"

_LIBRARY_PHRASES = (
    # msgspec
    *(r"Expected `", r"got `", r"Object (contains|missing)", r"Invalid (enum|value|UUID|RFC|number)"),
    *(r"JSON is malformed", r"Input data was truncated", r"out of range$", r"matching regex", r" - at `"),
    *(r"trailing characters", r"invalid character"),
    # json, datetime, ipaddress, base64, urllib, int and str
    *(r"Expecting (value|property|',')", r"Extra data", r"line \d+ column \d+", r"isoformat", r"must be in 1\.\."),
    *(r"day is out of range", r"does not appear to be an", r"has host bits set", r"Incorrect padding"),
    *(r"Non-base64", r"Invalid (base64|IPv6)", r"Octet", r"Port (could not|out of range)", r"invalid literal"),
    *(r"Exceeds the limit", r"codec can't", r"surrogates not allowed"),
    # tomllib
    *(r"Expected '", r"Invalid statement", r"Cannot (overwrite|declare|mutate)", r"Unterminated", r"Unclosed"),
    *(r"Illegal character", r"Found invalid", r"at end of document"),
    # idna, h11, werkzeug, PyJWT, SQLite
    *(r"Codepoint", r"Label (must|has|too)", r"(Remote|Local)ProtocolError", r"illegal header"),
    *(r"The (browser|requested|method|server|data value|user|page|request)\b", r"Not enough segments", r"claim \("),
    *(r"must be a (string|json)", r"Signature verification", r"UNIQUE constraint", r"no such table", r"too large to"),
    # Python itself
    *(r"Traceback", r"Error: ", r"object has no attribute", r"<class '", r" object at 0x"),
)
PHRASES = re.compile("|".join(_LIBRARY_PHRASES))
"""Phrases that occur only in messages of libraries."""


def passed_on(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line, exception types) of each handler in a module that puts the text of its exception into another text.

    Only the whole text counts: `error.strerror` is the operating system's name of the error.
    """
    for handler in ast.walk(ast.parse(path.read_text())):
        if not isinstance(handler, ast.ExceptHandler) or handler.name is None or handler.type is None:
            continue
        for node in ast.walk(handler):
            shown = node.value if isinstance(node, ast.FormattedValue) else None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in {"str", "repr"}:
                shown = node.args[0]
            if shown is not None and handler.name in _bare_names(shown):
                yield handler.lineno, ast.unparse(handler.type)
                break


def _bare_names(node: ast.expr) -> set[str]:
    """Return the names that an expression shows unchanged: alone, or as an operand of `or`."""
    options = node.values if isinstance(node, ast.BoolOp) else [node]
    return {each.id for each in options if isinstance(each, ast.Name)}


def own_exceptions() -> set[str]:
    """Return the names of the exceptions that the package defines."""
    defined = {
        node.name: {ast.unparse(base).rpartition(".")[2] for base in node.bases}
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    return {name for name, bases in defined.items() if bases & {"Exception", "ValueError", *defined}}

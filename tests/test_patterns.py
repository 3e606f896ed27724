"""No regular expression of the server takes more than linear time, and none is left out."""

import importlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from textwrap import dedent

import pytest

from tests.patterns import Use, find
from tests.slow_patterns import slow_text

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def found() -> tuple[Sequence[Use], Sequence[str]]:
    """Return the uses in the server, and the places that can't be followed."""
    return find(ROOT / "webhookd")


def test_every_expression_is_seen(found: tuple[Sequence[Use], Sequence[str]]) -> None:
    """Each use of `re` can be followed to a known expression, and each stored expression to where it is written."""
    uses, unseen = found
    assert unseen == []
    assert len(uses) > 30


def test_no_expression_grows_faster_than_its_text(found: tuple[Sequence[Use], Sequence[str]]) -> None:
    """Runs of an expression's characters, after what leads to its repeats, take linear time."""
    assert {str(use): slow for use in found[0] if (slow := slow_text(use)) is not None} == {}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Yield the directory of an empty package that can be imported."""
    monkeypatch.syspath_prepend(tmp_path)
    directory = tmp_path / "planted"
    directory.mkdir()
    (directory / "__init__.py").write_text("")
    yield directory
    for name in [name for name in sys.modules if name.partition(".")[0] == "planted"]:
        del sys.modules[name]
    importlib.invalidate_caches()


QUADRATIC = {
    "spaces around a value": """
        import re
        _LENGTH = re.compile(rb"\\r\\nContent-Length:[ \\t]*([^\\r]*?)[ \\t]*(?=\\r\\n)", re.IGNORECASE)
        def read(head):
            return _LENGTH.findall(head)
    """,
    "strings that are not closed": r"""
        from re import DOTALL, compile as expression
        strings = expression(rb'"(?:[^"\\]|\\.)*"', DOTALL)
        def without(text):
            return strings.sub(b"", text)
    """,
    "brackets that are not closed": r"""
        import re as expressions
        def steps(path):
            return expressions.findall(r"\.([^.\[]+)|\[([^\]]*)\]", path)
    """,
    "a name of words": r"""
        import re
        SPACE = r"\s*"
        def is_header(line):
            return re.match(SPACE + r"\[+" + SPACE + r"([^\[\]]+?)" + SPACE + r"\]", line) is not None
    """,
    "the end of a line": r"""
        import re
        def stripped(text):
            return re.sub(r"\s+$", "", text)
    """,
    "a repeat of a repeat": """
        from typing import Annotated
        from msgspec import Meta
        Word = Annotated[str, Meta(pattern=r"^([a-z0-9]+)+\\Z")]
    """,
    "two lists in turn": """
        import re
        KINDS = {"list": re.compile("x")}
        pair = re.compile("(?:a|b)*c|(?:a|b)*d")
        def read(text):
            return pair.search(text)
    """,
    "in another module": r"""
        import planted.expressions
        from planted.expressions import TAIL
        def read(text):
            return TAIL.search(text)
    """,
}


@pytest.mark.parametrize("code", QUADRATIC.values(), ids=list(QUADRATIC))
def test_a_planted_expression_is_found(package: Path, code: str) -> None:
    """Each form in which a bad expression was, or may be, written is followed, measured and reported."""
    (package / "expressions.py").write_text('import re\nTAIL = re.compile("[a-z]*!")\n')
    (package / "bad.py").write_text(dedent(code))
    uses, _ = find(package)
    assert [slow_text(use) is not None for use in uses if "bad.py" in use.where] == [True]


HIDDEN = {
    "an argument": """
        import re
        def found(expression, text):
            return re.search(expression, text)
    """,
    "the module handed on": """
        import re
        search = getattr(re, "search")
    """,
    "a function handed on": """
        from re import search
        searches = [search]
    """,
    "not the module's": """
        import re
        class Reader:
            line = re.compile("x*y")
    """,
    "kept in a table": """
        import re
        LINES = {"x": re.compile("x*y")}
    """,
    "the expression handed on": """
        import re
        LINE = re.compile("x*y")
        lines = map(LINE.search, [])
    """,
    "arguments by the handful": """
        from msgspec import Meta
        kind = Meta(**{"pattern": "x*y"})
    """,
    "another engine": """
        import fnmatch
    """,
    "made by a call": """
        import re
        def made():
            return re.compile("".join(["x*", "y"]))
    """,
    "a private part": """
        import re
        parser = re._parser
    """,
}


@pytest.mark.parametrize("code", HIDDEN.values(), ids=list(HIDDEN))
def test_what_cannot_be_followed_is_told(package: Path, code: str) -> None:
    """A use of an expression that isn't known before is reported, never left out."""
    (package / "hidden.py").write_text(dedent(code))
    _, unseen = find(package)
    assert unseen
    assert all("hidden.py" in place for place in unseen)

"""The page on log lines against the calls in the code that write them."""

import ast
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from webhookd.observe.logs import AttemptLine

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/logs.md").read_text()
LEVELS = {"debug": "debug", "info": "info", "warning": "warning", "error": "error", "exception": "error"}
ALWAYS = {"component", "event", "level", "timestamp"}


@dataclass
class Line:
    """The levels and fields of a log line, from all calls that write it."""

    levels: set[str] = field(default_factory=set)
    fields: set[str] = field(default_factory=set)


def calls() -> Iterator[tuple[str, ast.Call]]:
    """Yield the calls of a logger, with the method's name."""
    for path in (ROOT / "webhookd").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and node.args and isinstance(node.func, ast.Attribute):
                of = ast.unparse(node.func.value)
                if node.func.attr in LEVELS and (of == "log" or of.endswith("_log")):
                    yield node.func.attr, node


def written() -> dict[str, Line]:
    lines: defaultdict[str, Line] = defaultdict(Line)
    for method, call in calls():
        # One call may choose between names.
        for part in ast.walk(call.args[0]):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                line = lines[part.value]
                line.levels.add(LEVELS[method])
                line.fields |= {word.arg for word in call.keywords if word.arg not in {None, "exc_info"}}
    return dict(lines)


def test_every_line_is_documented() -> None:
    """Each logged name is in the list with its level and its fields, and each name in the list has a call."""
    rows = re.findall(r"^- `(\w+\.\w+)` \((\w+)(.*?)\): ", PAGE, re.MULTILINE)
    assert len(rows) == len({name for name, _, _ in rows})
    documented = {name: Line({level}, set(re.findall(r"\w+", fields))) for name, level, fields in rows}
    lines = written()
    assert len(lines) > 30
    assert documented == lines
    about = PAGE.split("## The line of an attempt")[1].split("\n## ")[0]
    items = re.findall(r"^- (`.*?): ", about, re.MULTILINE)
    assert {name for names in items for name in re.findall(r"`(\w+)`", names)} == {
        *AttemptLine.__struct_fields__
    } - ALWAYS

"""Find code in the tests that can fail on a busy machine.

A test waits for an event, uses a virtual clock, or counts work. It never sleeps for a fixed time, asserts how long
something took, sets a limit that a busy machine can exceed, or uses a port that another program may have. `look` reads
the source of one file. Time is virtual in a function that takes a `MockClock`, and in the functions inside it.
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

LEAST_SECONDS = 10
_CLOCKS = re.compile(r"(monotonic|perf_counter|process_time|thread_time|current_time)(_ns)?")
_PORT = re.compile(r"\bport ?= ?[1-9]")


class Kind(StrEnum):
    """The kinds of findings."""

    SLEEP = "sleeps for a fixed time"
    DURATION = "asserts how long something took"
    LIMIT = f"sets a limit below {LEAST_SECONDS} seconds"
    PORT = "uses a port that another program may have"


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding, with its line and the name of the function around it."""

    kind: Kind
    line: int
    function: str


def look(source: str) -> list[Finding]:
    """Return the findings in the source of a file."""
    looker = _Looker()
    looker.visit(ast.parse(source))
    return looker.found


class _Looker(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Finding] = []
        self._within: list[str] = []
        self._virtual = 0
        self._whiles = 0
        self._times: list[set[str]] = [set()]

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node)

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        parameters = [*node.args.args, *node.args.kwonlyargs]
        is_virtual = any("MockClock" in ast.dump(each.annotation) for each in parameters if each.annotation is not None)
        whiles, self._whiles = self._whiles, 0
        self._virtual += is_virtual
        self._within.append(node.name)
        self._times.append(set())
        self.generic_visit(node)
        self._times.pop()
        self._within.pop()
        self._virtual -= is_virtual
        self._whiles = whiles

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._within.append(node.name)
        self.generic_visit(node)
        self._within.pop()

    def visit_While(self, node: ast.While) -> None:
        """Visit the body, where a sleep is allowed: it is the pause between two checks, or a pace."""
        self._whiles += 1
        self.generic_visit(node)
        self._whiles -= 1

    def visit_Assign(self, node: ast.Assign) -> None:
        if self._is_time(node.value):
            self._times[-1].update(name.id for target in node.targets for name in _names(target))
        self.generic_visit(node)

    def visit_Assert(self, node: ast.Assert) -> None:
        compared = [each for each in ast.walk(node.test) if isinstance(each, ast.Compare)]
        if any(self._is_time(each) and _has_upper_bound(each) for each in compared):
            self._add(Kind.DURATION, node)
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        name = _called(node)
        first = node.args[0] if node.args else None
        if name in {"sleep", "sleep_until"} and first is not None and _is_fixed(first) and not self._whiles:
            self._add(Kind.SLEEP, node)
        seconds = [each.value for each in node.keywords if each.arg == "timeout"]
        if name in {"fail_after", "move_on_after", "wait", "join"} and first is not None:
            seconds.append(first)
        if any(_is_short(each) for each in seconds):
            self._add(Kind.LIMIT, node)
        if name in {"bind", "create_server"} and isinstance(first, ast.Tuple) and _is_a_number(first.elts[-1]):
            self._add(Kind.PORT, node, even_virtual=True)
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str) and _PORT.search(node.value):
            self._add(Kind.PORT, node, even_virtual=True)

    def _add(self, kind: Kind, node: ast.AST, *, even_virtual: bool = False) -> None:
        if even_virtual or not self._virtual:
            self.found.append(Finding(kind, getattr(node, "lineno", 0), ".".join(self._within)))

    def _is_time(self, node: ast.AST) -> bool:
        """Whether the expression reads a clock, or a variable whose value comes from one."""
        calls = (each for each in ast.walk(node) if isinstance(each, ast.Call))
        known = set[str]().union(*self._times)
        return any(_CLOCKS.fullmatch(_called(call)) for call in calls) or any(name.id in known for name in _names(node))


def _called(node: ast.Call) -> str:
    match node.func:
        case ast.Attribute(attr=name) | ast.Name(id=name):
            return name
    return ""


def _names(node: ast.AST) -> Iterator[ast.Name]:
    return (each for each in ast.walk(node) if isinstance(each, ast.Name))


def _has_upper_bound(node: ast.Compare) -> bool:
    """Whether a comparison fails when something takes longer; one with only a lower bound doesn't."""
    values = [node.left, *node.comparators]
    for position, operator in enumerate(node.ops):
        left, right = values[position], values[position + 1]
        if isinstance(operator, ast.Lt | ast.LtE) and not _is_fixed(left):
            return True
        if isinstance(operator, ast.Gt | ast.GtE) and not _is_fixed(right):
            return True
        if isinstance(operator, ast.Eq):
            return True
    return False


def _is_fixed(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=int() | float() as value):
            return value != 0
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name.isupper()
        case ast.BinOp(left=left, right=right):
            return _is_fixed(left) and _is_fixed(right)
        case ast.IfExp(body=body, orelse=other):
            return _is_fixed(body) or _is_fixed(other)
    return False


def _is_a_number(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, int) and node.value != 0


def _is_short(node: ast.AST) -> bool:
    match node:
        case ast.Constant(value=int() | float() as value):
            return 0 < value < LEAST_SECONDS
    return False

"""Find every regular expression of a package and how it is used, for `slow_patterns` to measure.

An expression is found where it is written (a call of `re`, a `Meta(pattern=…)`) and, once its module is imported,
where it is kept. A use of `re` that can't be followed is returned as well, so that nothing is left out silently.
"""

import ast
import importlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

Text = str | bytes
Pattern = re.Pattern[str] | re.Pattern[bytes]

_FUNCTIONS = {  # at which position each takes its flags
    "compile": 1, "match": 2, "fullmatch": 2, "search": 2, "findall": 2, "finditer": 2, "split": 3, "sub": 4, "subn": 4,
}  # fmt: skip
_METHODS = frozenset(_FUNCTIONS) - {"compile"}
_HARMLESS = frozenset({"escape", "Pattern", "Match", "error"})
_OTHER_ENGINES = frozenset({"fnmatch", "regex", "re2", "sre_compile", "sre_parse"})


@dataclass(frozen=True, slots=True)
class Use:
    """An expression, and the method that is called with a text."""

    where: str
    pattern: Pattern
    method: str

    def __str__(self) -> str:
        return f"{self.where} {self.method}"

    def search(self, text: Text) -> None:
        """Search a text as the code does."""
        pattern: Any = self.pattern
        match self.method:
            case "sub" | "subn":
                pattern.sub(text[:0], text)
            case "finditer":
                pattern.findall(text)
            case method:
                getattr(pattern, method)(text)


def find(package: Path) -> tuple[list[Use], list[str]]:
    """Return all uses in a package that can be imported, and the places that can't be followed."""
    uses: list[Use] = []
    unseen: list[str] = []
    for path in sorted(package.rglob("*.py")):
        where = path.relative_to(package.parent)
        name = ".".join(where.with_suffix("").parts).removesuffix(".__init__")
        # Importing the entry point would run it.
        module = ModuleType(name) if path.name == "__main__.py" else importlib.import_module(name)
        _Module(module, ast.parse(path.read_text()), str(where), uses, unseen).look()
    return list(dict.fromkeys(uses)), unseen


class _Module:
    """One module: `look` adds its uses, and the places that can't be followed."""

    def __init__(self, module: ModuleType, tree: ast.Module, where: str, uses: list[Use], unseen: list[str]) -> None:
        self._names = vars(module)
        self._tree = tree
        self._where = where
        self._uses = uses
        self._unseen = unseen
        self._parents = {child: node for node in ast.walk(tree) for child in ast.iter_child_nodes(node)}
        self._modules: set[str] = set()  # names by which `re` goes here
        self._functions: dict[str, str] = {}  # names by which its functions go
        self._written: list[Pattern] = []

    def look(self) -> None:
        for node in ast.walk(self._tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                self._import(node)
        for node in ast.walk(self._tree):
            match node:
                case ast.Call():
                    self._call(node)
                case ast.Name(id=name) if name in self._modules:
                    self._module_name(node)
                case ast.Name(id=name, ctx=ast.Load()) if name in self._functions:
                    if not self._is_called(node):
                        self._miss(node, f"{name} is used without being called")
                case ast.Name(id=name, ctx=ast.Load()) if isinstance(self._names.get(name), re.Pattern):
                    self._pattern_name(node, self._names[name])
        own = {(pattern.pattern, pattern.flags) for pattern in self._written}
        for name, value in self._names.items():
            for pattern in _patterns_in(value):
                # One that another module has written is that module's.
                if (pattern.pattern, pattern.flags) not in own and not self._is_imported(name):
                    self._unseen.append(f"{self._where}: {name} holds {pattern.pattern!r}, which is written nowhere")

    def _import(self, node: ast.Import | ast.ImportFrom) -> None:
        for name in node.names:
            module = node.module if isinstance(node, ast.ImportFrom) else name.name
            if module in _OTHER_ENGINES:
                self._miss(node, f"{module} makes expressions too")
            if module != "re":
                continue
            if isinstance(node, ast.Import):
                self._modules.add(name.asname or name.name)
            elif name.name in _FUNCTIONS:
                self._functions[name.asname or name.name] = name.name
            elif name.name not in _HARMLESS and not name.name.isupper():
                self._miss(node, f"re.{name.name} is not followed")

    def _module_name(self, node: ast.Name) -> None:
        parent = self._parents[node]
        if not isinstance(parent, ast.Attribute):
            self._miss(node, "the module re is handed on")
        elif parent.attr in _FUNCTIONS:
            if not self._is_called(parent):
                self._miss(node, f"re.{parent.attr} is used without being called")
        elif parent.attr not in _HARMLESS and not parent.attr.isupper():
            self._miss(node, f"re.{parent.attr} is not followed")

    def _call(self, call: ast.Call) -> None:
        match call.func:
            case ast.Attribute(value=ast.Name(id=name), attr=function) if name in self._modules:
                pass
            case ast.Name(id=name) if name in self._functions:
                function = self._functions[name]
            case ast.Name(id="Meta") | ast.Attribute(attr="Meta"):
                self._meta(call)
                return
            case _:
                return
        if function not in _FUNCTIONS:
            return
        given = {keyword.arg: keyword.value for keyword in call.keywords}
        at = _FUNCTIONS[function]
        written = call.args[0] if call.args else given.get("pattern")
        flags = call.args[at] if len(call.args) > at else given.get("flags")
        pattern = None if written is None else self._compiled(written, flags)
        if pattern is None or None in given or any(isinstance(argument, ast.Starred) for argument in call.args):
            self._miss(call, "the expression is not known before it is used")
            return
        self._written.append(pattern)
        if function != "compile":
            self._uses.append(Use(self._place(call), pattern, function))
            return
        match self._parents[call]:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if (
                self._names.get(name) == pattern
            ):
                pass
            case ast.Attribute() as attribute:
                self._method(attribute, pattern, self._place(call))
            case _:
                self._miss(call, "it is not kept under a name of the module")

    def _meta(self, call: ast.Call) -> None:
        for keyword in call.keywords:
            if keyword.arg is None:
                self._miss(call, "what Meta is given is not known")
            elif keyword.arg == "pattern":
                pattern = self._compiled(keyword.value, None)
                if pattern is None:
                    self._miss(call, "the expression is not known before it is used")
                else:
                    self._uses.append(Use(self._place(call), pattern, "search"))

    def _compiled(self, written: ast.expr, flags: ast.expr | None) -> Pattern | None:
        """Return the expression that a piece of code evaluates to, with the names of the imported module."""
        try:
            value = eval(ast.unparse(written), dict(self._names))  # noqa: S307 - our own code
            flag = 0 if flags is None else eval(ast.unparse(flags), dict(self._names))  # noqa: S307 - as above
        except NameError:
            return None
        return re.compile(value, flag) if isinstance(value, str | bytes) else None

    def _pattern_name(self, node: ast.Name, pattern: Pattern) -> None:
        parent = self._parents[node]
        if isinstance(parent, ast.Attribute):
            self._method(parent, pattern, self._place(node))
        else:
            self._miss(node, f"{node.id} is handed on")

    def _method(self, attribute: ast.Attribute, pattern: Pattern, where: str) -> None:
        if attribute.attr in _METHODS and self._is_called(attribute):
            self._uses.append(Use(where, pattern, attribute.attr))
        elif attribute.attr not in {"pattern", "flags"}:
            self._miss(attribute, f"its {attribute.attr} is not followed")

    def _is_called(self, node: ast.expr) -> bool:
        parent = self._parents[node]
        return isinstance(parent, ast.Call) and parent.func is node

    def _is_imported(self, name: str) -> bool:
        return any(
            (alias.asname or alias.name) == name
            for node in ast.walk(self._tree)
            if isinstance(node, ast.ImportFrom | ast.Import)
            for alias in node.names
        )

    def _place(self, node: ast.AST) -> str:
        return f"{self._where}:{getattr(node, 'lineno', 0)}"

    def _miss(self, node: ast.AST, why: str) -> None:
        self._unseen.append(f"{self._place(node)}: {why}")


def _patterns_in(value: object) -> Iterator[Pattern]:
    """Yield the expressions in a value, also in containers and classes."""
    match value:
        case re.Pattern():
            yield value
        case dict():
            yield from _patterns_of(value.values())
        case list() | tuple() | set() | frozenset():
            yield from _patterns_of(value)
        case type():
            yield from _patterns_of(vars(value).values())


def _patterns_of(values: Any) -> Iterator[Pattern]:
    yield from (value for value in values if isinstance(value, re.Pattern))

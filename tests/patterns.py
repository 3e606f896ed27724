"""Every regular expression of a package, how it is used, and texts on which a bad one takes long.

An expression is found where it is written (a call of `re`, a `Meta(pattern=…)`) and, once its module is imported,
where it is kept; whatever uses `re` in a way that can't be followed is told, so that nothing is left out in silence.
The texts are made of the expression's own parts: of its characters one for each way in which they belong to its sets,
runs of one and of two of them, behind what leads up to each repeat and before what makes the match fail.
"""

import ast
import importlib
import re
import signal
import string
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from tests.linear import MOST_GROWTH, growth

Text = str | bytes
Pattern = re.Pattern[str] | re.Pattern[bytes]

SCREENED_LENGTHS = (256, 4096)  # worse than quadratic work shows at the first, quadratic work at the second
SCREENED_SECONDS = 0.003  # what takes longer there is measured
MEASURED_LENGTH = 4096  # and 8 times that
MOST_SECONDS = 2.0  # of CPU for all texts of one use, a tenth of which they need; exponential work would never end

_FUNCTIONS = {  # at which position each takes its flags
    "compile": 1, "match": 2, "fullmatch": 2, "search": 2, "findall": 2, "finditer": 2, "split": 3, "sub": 4, "subn": 4,
}  # fmt: skip
_METHODS = frozenset(_FUNCTIONS) - {"compile"}
_HARMLESS = frozenset({"escape", "Pattern", "Match", "error"})
_OTHER_ENGINES = frozenset({"fnmatch", "regex", "re2", "sre_compile", "sre_parse"})
_POOL = string.printable + "\0\x7f\x80é²\u2028\u00a0"

_parser: Any = importlib.import_module("re._parser")  # what `re` itself reads expressions with
_REPEATS = frozenset({_parser.MAX_REPEAT, _parser.MIN_REPEAT, _parser.POSSESSIVE_REPEAT})


@dataclass(frozen=True, slots=True)
class Use:
    """An expression, and the method by which a text is searched with it."""

    where: str
    pattern: Pattern
    method: str

    def __str__(self) -> str:
        return f"{self.where} {self.method}"

    def search(self, text: Text) -> None:
        """Do with a text what the code does."""
        pattern: Any = self.pattern
        match self.method:
            case "sub" | "subn":
                pattern.sub(text[:0], text)
            case "finditer":
                pattern.findall(text)
            case method:
                getattr(pattern, method)(text)


# Finding them.


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
    """One module: `look` adds what is in it to the uses and to what is unseen."""

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
        """Return the expression that some code stands for, by what the module's names are once it is imported."""
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
    """Yield the expressions that a name stands for, in containers and on classes too."""
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


# What is hard for them.


def texts(pattern: Pattern) -> list[Callable[[int], Text]]:
    """Return makers of texts of a length, on which a bad expression takes more than its share of time."""
    tree = _parser.parse(pattern.pattern, pattern.flags & ~re.DEBUG)
    sets = list(_sets(tree))
    alphabet = _alphabet(sets, is_bytes=isinstance(pattern.pattern, bytes))
    outsider = min(alphabet, key=lambda character: sum(character in members for members in sets))
    prefixes = list(dict.fromkeys(("", *_before_repeats(tree, ""))))
    pairs = [first + second for first in alphabet for second in alphabet if first != second]
    units = list(dict.fromkeys((*alphabet, *pairs, *_words(tree), _sample(tree, 1))))
    suffixes = ("", outsider, alphabet[-1])
    makers = [_run(prefix, unit, suffix) for prefix in prefixes for unit in units if unit for suffix in suffixes]
    makers += [_two_runs(prefix, pair, outsider) for prefix in prefixes for pair in pairs]
    if isinstance(pattern.pattern, bytes):
        return [_encoded(maker) for maker in makers]
    return list(makers)


def _run(prefix: str, unit: str, suffix: str) -> Callable[[int], str]:
    return lambda length: prefix + unit * (length // len(unit)) + suffix


def _two_runs(prefix: str, pair: str, suffix: str) -> Callable[[int], str]:
    return lambda length: prefix + pair[0] * (length // 2) + pair[1] * (length // 2) + suffix


def _encoded(maker: Callable[[int], str]) -> Callable[[int], bytes]:
    return lambda length: maker(length).encode("latin-1", "replace")


def _alphabet(sets: Sequence[frozenset[str]], *, is_bytes: bool) -> list[str]:
    """Return one character for each way in which characters belong to the sets, those of the most sets first."""
    pool = dict.fromkeys((*sorted(set().union(*sets)), *_POOL))
    found: dict[tuple[bool, ...], str] = {}
    for character in pool:
        if not is_bytes or ord(character) < 256:
            found.setdefault(tuple(character in members for members in sets), character)
    return [found[ways] for ways in sorted(found, key=sum, reverse=True)][:12]


def _sets(tree: Any) -> Iterator[frozenset[str]]:
    """Yield what each place of an expression takes, of the pool and of the characters it names."""
    named = {chr(value) for operator, value in _nodes(tree) if operator in {_parser.LITERAL, _parser.NOT_LITERAL}}
    pool = named | set(_POOL)
    for operator, value in _nodes(tree):
        if (members := _members(operator, value, pool)) is not None:
            yield members


def _members(operator: Any, value: Any, pool: set[str]) -> frozenset[str] | None:
    if operator is _parser.LITERAL:
        return frozenset(chr(value))
    if operator is _parser.NOT_LITERAL:
        return frozenset(pool - {chr(value)})
    if operator is _parser.ANY:
        return frozenset(pool)
    if operator is not _parser.IN:
        return None
    taken: set[str] = set()
    is_negated = False
    for kind, argument in value:
        if kind is _parser.NEGATE:
            is_negated = True
        elif kind is _parser.LITERAL:
            taken.add(chr(argument))
        elif kind is _parser.RANGE:
            taken |= {character for character in pool if argument[0] <= ord(character) <= argument[1]}
            taken.add(chr(argument[0]))
        else:
            taken |= {character for character in pool if _CATEGORIES[str(argument)](character)}
    return frozenset(pool - taken if is_negated else taken)


def _not(is_in: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda character: not is_in(character)


def _is_word(character: str) -> bool:
    return character.isalnum() or character == "_"


_CATEGORIES: dict[str, Callable[[str], bool]] = {
    "CATEGORY_DIGIT": str.isdecimal,
    "CATEGORY_NOT_DIGIT": _not(str.isdecimal),
    "CATEGORY_SPACE": str.isspace,
    "CATEGORY_NOT_SPACE": _not(str.isspace),
    "CATEGORY_WORD": _is_word,
    "CATEGORY_NOT_WORD": _not(_is_word),
}


def _nodes(tree: Any) -> Iterator[tuple[Any, Any]]:
    for operator, value in tree:
        yield operator, value
        for part in _parts(operator, value):
            yield from _nodes(part)


def _parts(operator: Any, value: Any) -> list[Any]:
    if operator in _REPEATS:
        return [value[2]]
    if operator is _parser.SUBPATTERN:
        return [value[3]]
    if operator is _parser.BRANCH:
        return list(value[1])
    if operator in {_parser.ASSERT, _parser.ASSERT_NOT}:
        return [value[1]]
    if operator is _parser.ATOMIC_GROUP:
        return [value]
    if operator is _parser.GROUPREF_EXISTS:
        return [part for part in value[1:] if part is not None]
    return []


def _words(tree: Any) -> Iterator[str]:
    """Yield what an expression takes literally, character behind character."""
    word = ""
    for operator, value in tree:
        if operator is _parser.LITERAL:
            word += chr(value)
            continue
        yield word
        word = ""
        for part in _parts(operator, value):
            yield from _words(part)
    yield word


def _sample(tree: Any, least: int) -> str:
    """Return a text that an expression takes, with `least` rounds of what may be left out."""
    return "".join(_sample_of(operator, value, least) for operator, value in tree)


def _sample_of(operator: Any, value: Any, least: int) -> str:
    members = _members(operator, value, set(_POOL))
    if members is not None:
        return min(members, key=lambda character: (not character.isalnum(), character), default="")
    if operator in _REPEATS:
        return _sample(value[2], least) * max(int(value[0]), min(least, int(value[1])))
    if operator is _parser.BRANCH:
        return _sample(value[1][0], least)
    if operator in {_parser.SUBPATTERN, _parser.ATOMIC_GROUP}:
        return _sample(_parts(operator, value)[0], least)
    return ""


def _before_repeats(tree: Any, prefix: str) -> Iterator[str]:
    """Yield what leads up to each repeat of an expression."""
    for operator, value in tree:
        if operator in _REPEATS:
            yield prefix
        for part in _parts(operator, value):
            yield from _before_repeats(part, prefix)
        prefix += _sample_of(operator, value, 0)


# Measuring.


def slow_text(use: Use) -> str | None:
    """Return a text, shortened, on which a use grows faster than its length; None where none was found."""
    text = ""
    try:
        with _at_most(MOST_SECONDS):
            for maker in texts(use.pattern):
                text = repr(maker(40))
                is_slow = any(_seconds(use, maker(length)) > SCREENED_SECONDS for length in SCREENED_LENGTHS)
                if is_slow and growth(maker, use.search, MEASURED_LENGTH) >= MOST_GROWTH:
                    return text
    except _TooLongError:
        return text
    return None


def _seconds(use: Use, text: Text) -> float:
    started = time.thread_time()
    use.search(text)
    return time.thread_time() - started


class _TooLongError(Exception):
    """The time for all texts of a use is over."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _TooLongError in the body once it has used so much CPU; an expression at work hears of it too."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

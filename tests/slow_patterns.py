"""Find a text on which a regular expression takes more time than its length explains.

The texts are built from the expression's own parts: one character for each combination of its sets, runs of one or two
such characters, after what leads to each repeat and before a character that makes the match fail.
"""

import importlib
import re
import signal
import string
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any

from tests.linear import MOST_GROWTH, growth
from tests.patterns import Pattern, Text, Use

SCREENED_LENGTHS = (256, 4096)  # worse than quadratic work shows at the first, quadratic work at the second
SCREENED_SECONDS = 0.003  # what takes longer there is measured
MEASURED_LENGTH = 4096  # and 8 times that
MOST_SECONDS = 2.0  # of CPU for all texts of one use, a tenth of which they need; exponential work would never end

_POOL = string.printable + "\0\x7f\x80é²\u2028\u00a0"

_parser: Any = importlib.import_module("re._parser")  # what `re` itself reads expressions with
_REPEATS = frozenset({_parser.MAX_REPEAT, _parser.MIN_REPEAT, _parser.POSSESSIVE_REPEAT})


def texts(pattern: Pattern) -> list[Callable[[int], Text]]:
    """Return makers of texts of a given length, on which a bad expression takes long."""
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
    """Return one character for each combination of the sets, those in most sets first."""
    pool = dict.fromkeys((*sorted(set().union(*sets)), *_POOL))
    found: dict[tuple[bool, ...], str] = {}
    for character in pool:
        if not is_bytes or ord(character) < 256:
            found.setdefault(tuple(character in members for members in sets), character)
    return [found[ways] for ways in sorted(found, key=sum, reverse=True)][:12]


def _sets(tree: Any) -> Iterator[frozenset[str]]:
    """Yield the set of characters that each part of an expression matches, of the pool and those it names."""
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
    """Yield the literal texts of an expression."""
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
    """Return a text that an expression matches, with `least` rounds of what is optional."""
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
    """Yield the text before each repeat of an expression."""
    for operator, value in tree:
        if operator in _REPEATS:
            yield prefix
        for part in _parts(operator, value):
            yield from _before_repeats(part, prefix)
        prefix += _sample_of(operator, value, 0)


def slow_text(use: Use) -> str | None:
    """Return a text, shortened, for which a use takes more than linear time, or None."""
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
    """The time for all texts of a use is used up."""


@contextmanager
def _at_most(seconds: float) -> Iterator[None]:
    """Raise _TooLongError in the body after that much CPU time, also while an expression is matched."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)

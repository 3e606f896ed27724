"""What a type takes, in words, and where a document isn't so: every sentence here is webhookd's own.

msgspec decides whether a document is taken. What is told of one that isn't is found here by walking over it beside its
type, so that no message of the library reaches a user and each has the place of what it is about.
"""

import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sized
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import cast

from msgspec import inspect

from webhookd.base.fields import ACCEPTS

MOST_COMPLAINTS = 20
_LONGEST_NAME = 64
_FORMS: Mapping[type[inspect.Type], str] = {
    inspect.BoolType: "true or false",
    inspect.StructType: "an object",
    inspect.RawType: "an object",
}
_KINDS = {bool: "true or false", int: "a number", float: "a number", str: "a string", type(None): "null"}


def complaints(document: object, annotation: object) -> tuple[tuple[str, str], ...]:
    """Return (JSON pointer, what is wrong there) of the first parts of a document that a type doesn't take.

    Nothing where it takes all of it. The document is what a JSON parser makes of its text; a list in it may be a tuple.
    """
    return tuple(islice(_look(document, type_info(annotation), ""), MOST_COMPLAINTS))


@lru_cache(maxsize=256)
def type_info(annotation: object) -> inspect.Type:
    """Return a type as msgspec sees it."""
    return inspect.type_info(annotation)


def accepted_form(kind: inspect.Type) -> str:
    """Say in words what a type takes, such as "a whole number from 1 to 256"."""
    match kind:
        case inspect.Metadata():
            return _said(kind) or accepted_form(kind.type)
        case inspect.IntType() | inspect.FloatType():
            return f"{'a whole number' if isinstance(kind, inspect.IntType) else 'a number'}{_range(kind)}"
        case inspect.StrType():
            return _string(kind)
        case inspect.VarTupleType() | inspect.ListType():
            items = _count(kind.min_length, kind.max_length, "item")
            return f"a list{f' of {items}' if items else ''}, each item {accepted_form(kind.item_type)}"
        case inspect.DictType():
            return f"an object, each value {accepted_form(kind.value_type)}"
        case inspect.UnionType():
            return " or ".join(accepted_form(each) for each in with_values(kind))
        case inspect.EnumType() | inspect.LiteralType():
            return " or ".join(json.dumps(value) for value in _choices(kind))
        case inspect.CustomType():
            return "a path, in quotes" if kind.cls is Path else "a value of its kind"
        case _:
            return _FORMS.get(type(kind), "any value")


def _said(kind: inspect.Metadata) -> str | None:
    """Return the words in which a type says itself what it takes."""
    words = (kind.extra or {}).get(ACCEPTS)
    return words if isinstance(words, str) else None


def _string(kind: inspect.StrType) -> str:
    if kind.min_length == 1 and kind.max_length is None:
        return "a string that is not empty"
    characters = _count(kind.min_length, kind.max_length, "character")
    return f"a string of {characters}" if characters else "a string"


def _choices(kind: inspect.EnumType | inspect.LiteralType) -> list[object]:
    return [member.value for member in kind.cls] if isinstance(kind, inspect.EnumType) else list(kind.values)


def with_values(kind: inspect.UnionType) -> tuple[inspect.Type, ...]:
    """Return the parts of a union but null: what an optional value takes where it is there."""
    return tuple(each for each in kind.types if not isinstance(each, inspect.NoneType))


def name_hint(name: str, known: list[str]) -> str:
    """Return which of the known names was meant by another one, as the end of a sentence; else all that there are."""
    if len(name) <= _LONGEST_NAME and (near := difflib.get_close_matches(name, known, n=1)):
        return f"did you mean {near[0]}?"
    return f"there is {', '.join(known)}" if known else "nothing is taken here"


def shortened(text: str) -> str:
    """Cut what would fill a screen."""
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def step(name: str) -> str:
    """Return one step of a JSON pointer (RFC 6901)."""
    return f"/{shortened(name).replace('~', '~0').replace('/', '~1')}"


def _look(value: object, kind: inspect.Type, pointer: str, words: str | None = None) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a value; `words` say what is taken, where a type says so itself."""
    match kind:
        case inspect.Metadata():
            yield from _look(value, kind.type, pointer, _said(kind) or words)
        case inspect.UnionType():
            yield from _look_at_options(value, kind, pointer, words)
        case inspect.StructType() | inspect.DictType() if not isinstance(value, Mapping):
            yield pointer, _refusal(value, words or "an object")
        case inspect.StructType():
            yield from _look_into(cast("Mapping[str, object]", value), kind, pointer)
        case inspect.DictType():
            yield from _look_through(cast("Mapping[str, object]", value), kind, pointer)
        case inspect.VarTupleType() | inspect.ListType() if isinstance(value, list | tuple) and _has_length(
            value, kind
        ):
            for index, item in enumerate(value):
                yield from _look(item, kind.item_type, f"{pointer}/{index}")
        case _:
            if not _is_taken(value, kind):
                yield pointer, _refusal(value, words or accepted_form(kind))


def _look_at_options(
    value: object, kind: inspect.UnionType, pointer: str, words: str | None
) -> Iterator[tuple[str, str]]:
    if value is None and kind.includes_none:
        return
    options = with_values(kind)
    if len(options) == 1:
        yield from _look(value, options[0], pointer, words)
    elif all(any(True for _ in _look(value, each, pointer)) for each in options):
        yield pointer, _refusal(value, words or accepted_form(kind))


def _look_into(value: Mapping[str, object], kind: inspect.StructType, pointer: str) -> Iterator[tuple[str, str]]:
    known = {field.encode_name: field for field in kind.fields}
    for name, field in known.items():
        if name in value:
            yield from _look(value[name], field.type, pointer + step(name))
        elif field.required:
            yield pointer + step(name), f"is missing; takes {accepted_form(field.type)}"
    if kind.forbid_unknown_fields:
        for name in value:
            if name not in known:
                yield pointer + step(name), f"is not known here; {name_hint(name, list(known))}"


def _look_through(value: Mapping[str, object], kind: inspect.DictType, pointer: str) -> Iterator[tuple[str, str]]:
    if not _has_length(value, kind):
        yield pointer, f"takes {_count(kind.min_length, kind.max_length, 'member')}, and these are {len(value)}"
    for name, item in value.items():
        for _ in _look(name, kind.key_type, pointer):
            yield pointer + step(name), f"has a name that isn't taken here: a name is {accepted_form(kind.key_type)}"
        yield from _look(item, kind.value_type, pointer + step(name))


def _is_taken(value: object, kind: inspect.Type) -> bool:
    match kind:
        case inspect.IntType():
            return isinstance(value, int) and not isinstance(value, bool) and _is_in_range(value, kind)
        case inspect.FloatType():
            return isinstance(value, int | float) and not isinstance(value, bool) and _is_number(value, kind)
        case inspect.StrType():
            fits = isinstance(value, str) and _has_length(value, kind)
            return fits and (kind.pattern is None or re.search(kind.pattern, cast("str", value)) is not None)
        case inspect.BoolType():
            return isinstance(value, bool)
        case inspect.NoneType():
            return value is None
        case inspect.EnumType() | inspect.LiteralType():
            return isinstance(value, str) and value in _choices(kind)
        case _:
            # Any value, and what is checked elsewhere; of a list it is its kind or its length that is wrong.
            return not isinstance(kind, inspect.VarTupleType | inspect.ListType)


def _is_number(value: float, kind: inspect.FloatType) -> bool:
    try:
        number = float(value)
    except OverflowError:
        return False
    return math.isfinite(number) and _is_in_range(number, kind)


def _is_in_range(value: float, kind: inspect.IntType | inspect.FloatType) -> bool:
    return (
        (kind.gt is None or value > kind.gt)
        and (kind.ge is None or value >= kind.ge)
        and (kind.lt is None or value < kind.lt)
        and (kind.le is None or value <= kind.le)
    )


def _has_length(
    value: Sized, kind: inspect.StrType | inspect.VarTupleType | inspect.ListType | inspect.DictType
) -> bool:
    return (kind.min_length or 0) <= len(value) and (kind.max_length is None or len(value) <= kind.max_length)


def _refusal(value: object, accepted: str) -> str:
    """Say what is taken and which kind of value isn't; the value itself may be a secret."""
    kind = _KINDS.get(type(value)) or ("a list" if isinstance(value, list | tuple) else "an object")
    if isinstance(value, str | list | tuple) and kind.partition(" of ")[0] in accepted.partition(" of ")[0]:
        kind = f"{kind} of {len(value)}"
    elif isinstance(value, int | float) and not isinstance(value, bool):
        kind = shortened(str(value)) if abs(value) < 1e15 else "a number as large as that"
    return f"takes {accepted}, not {kind}"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    if kind.gt is not None:
        return f" above {kind.gt}" + ("" if kind.le is None else f", at most {kind.le}")
    if kind.le is None:
        return "" if kind.ge is None else f", at least {kind.ge}"
    return f" from {kind.ge} to {kind.le}"


def _count(least: int | None, most: int | None, what: str) -> str:
    if most is None:
        return f"at least {least} {what}{'' if least == 1 else 's'}" if least else ""
    return f"{f'{least} to ' if least else 'at most '}{most} {what}s"

"""Describes what a type accepts, and what is wrong with a document that it doesn't accept.

msgspec decides whether a document is valid. This module explains why one isn't: it compares the document with the type,
so that each message is webhookd's own and has the JSON pointer of the value in question.
"""

import difflib
import json
from collections.abc import Iterator, Mapping, Sized
from functools import lru_cache
from itertools import islice
from pathlib import Path
from types import NoneType
from typing import Annotated, cast, get_args, get_origin

import msgspec
from msgspec import inspect
from msgspec.structs import fields

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
    """Return (JSON pointer, what is wrong) of the first values of a document that a type doesn't accept.

    The document is decoded JSON; a list in it may be a tuple. The result is empty if the type accepts all of it.
    """
    return tuple(islice(_check(document, annotation, ""), MOST_COMPLAINTS))


@lru_cache(maxsize=256)
def type_info(annotation: object) -> inspect.Type:
    """Return msgspec's description of a type; cached."""
    return inspect.type_info(annotation)


def accepted_form(kind: inspect.Type, *, an_object: str = "an object") -> str:
    """Describe what a type accepts, such as "a whole number from 1 to 256"; `an_object` is what a mapping is called."""
    match kind:
        case inspect.Metadata():
            return _description(kind) or accepted_form(kind.type, an_object=an_object)
        case inspect.IntType() | inspect.FloatType():
            return f"{'a whole number' if isinstance(kind, inspect.IntType) else 'a number'}{_range(kind)}"
        case inspect.StrType():
            return _string(kind)
        case inspect.VarTupleType() | inspect.ListType():
            items = _count(kind.min_length, kind.max_length, "item")
            return f"a list{f' of {items}' if items else ''}, each item {accepted_form(kind.item_type)}"
        case inspect.DictType():
            return f"{an_object}, each value {accepted_form(kind.value_type)}"
        case inspect.UnionType():
            return " or ".join(accepted_form(each, an_object=an_object) for each in with_values(kind))
        case inspect.EnumType() | inspect.LiteralType():
            return " or ".join(json.dumps(value) for value in _choices(kind))
        case inspect.CustomType():
            return "a path, in quotes" if kind.cls is Path else "a value of its kind"
        case _:
            return _FORMS.get(type(kind), "any value")


def _description(kind: inspect.Metadata) -> str | None:
    """Return the type's own description of what it accepts, if it has one."""
    text = (kind.extra or {}).get(ACCEPTS)
    return text if isinstance(text, str) else None


def _string(kind: inspect.StrType) -> str:
    if kind.min_length == 1 and kind.max_length is None:
        return "a string that is not empty"
    characters = _count(kind.min_length, kind.max_length, "character")
    return f"a string of {characters}" if characters else "a string"


def _choices(kind: inspect.EnumType | inspect.LiteralType) -> list[object]:
    return [member.value for member in kind.cls] if isinstance(kind, inspect.EnumType) else list(kind.values)


def with_values(kind: inspect.UnionType) -> tuple[inspect.Type, ...]:
    """Return the types of a union without null."""
    return tuple(each for each in kind.types if not isinstance(each, inspect.NoneType))


def name_hint(name: str, known: list[str]) -> str:
    """Return the known name that is most like this one, else all known names, as the end of a sentence."""
    if len(name) <= _LONGEST_NAME and (near := difflib.get_close_matches(name, known, n=1)):
        return f"did you mean {near[0]}?"
    return f"there is {', '.join(known)}" if known else "nothing is accepted here"


def shortened(text: str) -> str:
    """Shorten a long text for a message."""
    return text if len(text) <= _LONGEST_NAME else f"{text[:_LONGEST_NAME]}…"


def step(name: str) -> str:
    """Return one step of a JSON pointer, its name escaped and shortened (RFC 6901)."""
    return f"/{shortened(name).replace('~', '~0').replace('/', '~1')}"


def _check(
    value: object, annotation: object, pointer: str, description: str | None = None
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a value; `description` is the type's own, if it has one."""
    kind = type_info(annotation)
    if isinstance(kind, inspect.Metadata):
        description = _description(kind) or description
        kind = kind.type
    inner = get_args(annotation)
    if get_origin(annotation) is Annotated:
        inner = get_args(inner[0])
    match kind:
        case inspect.UnionType():
            yield from _check_union(value, kind, inner, pointer, description)
        case inspect.StructType() | inspect.DictType() if not isinstance(value, Mapping):
            yield pointer, _refusal(value, description or "an object")
        case inspect.StructType():
            yield from _check_struct(cast("Mapping[str, object]", value), kind, pointer)
        case inspect.DictType():
            yield from _check_dict(cast("Mapping[str, object]", value), kind, inner, pointer)
        case inspect.VarTupleType() | inspect.ListType() if isinstance(value, list | tuple) and _has_length(
            value, kind
        ):
            for index, item in enumerate(value):
                yield from _check(item, inner[0], f"{pointer}/{index}")
        case _:
            if not isinstance(kind, inspect.RawType) and not _is_accepted(value, annotation):
                yield pointer, _refusal(value, description or accepted_form(kind))


def _check_union(
    value: object, kind: inspect.UnionType, options: tuple[object, ...], pointer: str, description: str | None
) -> Iterator[tuple[str, str]]:
    if value is None and kind.includes_none:
        return
    options = tuple(each for each in options if each not in {NoneType, msgspec.UnsetType})
    if len(options) == 1:
        yield from _check(value, options[0], pointer, description)
    elif all(any(True for _ in _check(value, each, pointer)) for each in options):
        yield pointer, _refusal(value, description or accepted_form(kind))


def _check_struct(value: Mapping[str, object], kind: inspect.StructType, pointer: str) -> Iterator[tuple[str, str]]:
    known = {field.encode_name: field for field in fields(kind.cls)}
    for name, field in known.items():
        if name in value:
            yield from _check(value[name], field.type, pointer + step(name))
        elif field.required:
            yield pointer + step(name), f"is missing; takes {accepted_form(type_info(field.type))}"
    if kind.forbid_unknown_fields:
        for name in value:
            if name not in known:
                yield pointer + step(name), f"is not known here; {name_hint(name, list(known))}"


def _check_dict(
    value: Mapping[str, object], kind: inspect.DictType, inner: tuple[object, ...], pointer: str
) -> Iterator[tuple[str, str]]:
    if not _has_length(value, kind):
        yield pointer, f"takes {_count(kind.min_length, kind.max_length, 'member')}, and these are {len(value)}"
    names, values = inner
    for name, item in value.items():
        if not _is_accepted(name, names):
            yield pointer + step(name), f"has an invalid name: a name is {accepted_form(kind.key_type)}"
        yield from _check(item, values, pointer + step(name))


def _is_accepted(value: object, annotation: object) -> bool:
    try:
        msgspec.convert(value, annotation)
    except msgspec.ValidationError:
        return False
    return True


def _has_length(
    value: Sized, kind: inspect.StrType | inspect.VarTupleType | inspect.ListType | inspect.DictType
) -> bool:
    return (kind.min_length or 0) <= len(value) and (kind.max_length is None or len(value) <= kind.max_length)


def _refusal(value: object, accepted: str) -> str:
    """Return what is accepted and what kind of value was given, but not the value: it may be a secret."""
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

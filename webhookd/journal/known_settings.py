"""Which settings a version of webhookd knows: during an upgrade, nodes of several versions share a journal. Pure.

A node ignores a setting that it doesn't know, so one must not be made while such a node is registered: a webhook would
be served in one way by one node, and in another way by the next. Each field of the API's bodies that is stored is in
`SINCE`, and each value of a field that has a list of them, under its name in the API.

With a new setting, or a new value of one, `VERSION` goes up by one, and it is added to `SINCE` with the new number.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any

import msgspec
from msgspec import NODEFAULT, UNSET, Struct
from msgspec.inspect import StructType, UnionType, type_info

VERSION = 1
"""The version of the settings that this program knows."""

SINCE: Mapping[str, int] = {
    "webhook.url": 1,
    "webhook.events": 1,
    "webhook.description": 1,
    "webhook.isActive": 1,
    "webhook.organizationId": 1,
    "webhook.metadata": 1,
    "webhook.ordering": 1,
    "webhook.ordering=strict": 1,
    "webhook.ordering=key": 1,
    "webhook.ordering=none": 1,
    "webhook.concurrency": 1,
    "webhook.rateLimit": 1,
    "webhook.rateLimit.perSecond": 1,
    "webhook.rateLimit.burst": 1,
    "webhook.timeoutSeconds": 1,
    "webhook.retry": 1,
    "webhook.retry.delays": 1,
    "webhook.retry.jitter": 1,
    "webhook.retry.maxRefusals": 1,
    "webhook.retry.maxAgeSeconds": 1,
    "webhook.retry.parkAfter": 1,
    "webhook.breakerThreshold": 1,
    "webhook.whenInactive": 1,
    "webhook.whenInactive=hold": 1,
    "webhook.whenInactive=drop": 1,
    "webhook.headers": 1,
    "webhook.signature": 1,
    "webhook.signature.form": 1,
    "webhook.signature.form=timestamped": 1,
    "webhook.signature.form=hex": 1,
    "webhook.signature.form=sha256=hex": 1,
    "webhook.signature.form=off": 1,
    "webhook.signature.ed25519": 1,
    "webhook.secret": 1,
    "eventType.name": 1,
    "eventType.description": 1,
    "eventType.schema": 1,
    "eventType.example": 1,
    "eventType.deprecated": 1,
    "key.role": 1,
    "key.role=admin": 1,
    "key.role=operator": 1,
    "key.role=viewer": 1,
    "key.role=ingest": 1,
    "key.name": 1,
    "key.organizationId": 1,
    "key.expiresAt": 1,
}
WEBHOOK, EVENT_TYPE, KEY = "webhook", "eventType", "key"

# What is stored under another name than the API has for it; None isn't a setting of its own.
_API_NAMES: Mapping[str, str | None] = {
    "schema_json": "schema",
    "example_json": "example",
    "overrides": "",
    **dict.fromkeys(
        ("pk", "id", "created_at", "last_used_at", "key_hash", "secret_hint", "ed25519_secret", "ed25519_public_key")
    ),
}


@dataclass(frozen=True, slots=True)
class KnownSettings:
    """The version of a program's settings, and since which version each of them is known."""

    version: int
    since: Mapping[str, int]

    def version_of(self, setting: str) -> int:
        """Return the first version that knows a setting; the newest for one that isn't listed."""
        return self.since.get(setting, self.version)


KNOWN = KnownSettings(version=VERSION, since=SINCE)


def chosen(kind: str, values: Struct, before: Struct | None = None) -> list[str]:
    """Return the names of the settings that `values` have, other than those by default and those of `before`.

    `kind` is what they are settings of. Of a field with a list of values, the value that is chosen has a name, too.
    """
    return list(_chosen(kind, values, before))


def _chosen(prefix: str, values: Struct, before: Struct | None) -> Iterator[str]:
    for field in msgspec.structs.fields(values):
        own = _API_NAMES.get(field.name, _camel(field.encode_name))
        if own is None:
            continue
        name = f"{prefix}.{own}" if own else prefix
        value, previous = getattr(values, field.name), getattr(before, field.name, None)
        if value is UNSET or value is None or value == previous or value == _default(field):
            continue
        if own:
            yield name
        if isinstance(value, Struct):
            yield from _chosen(name, value, previous if isinstance(previous, Struct) else None)
        elif isinstance(value, Enum):
            yield f"{name}={value.value}"


def _default(field: msgspec.structs.FieldInfo) -> object:
    return field.default if field.default_factory is NODEFAULT else field.default_factory()


def _camel(name: str) -> str:
    first, *others = name.split("_")
    return first + "".join(word.capitalize() for word in others)


# What a newer version has stored


def known_part(kind: type[Struct], stored: Mapping[str, object]) -> dict[str, object]:
    """Return what `kind` can be made of, of a document that a newer version may have stored: what it understands."""
    known: dict[str, object] = {}
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        if name not in stored:
            continue
        value, nested = stored[name], _struct_of(field.type)
        if nested is not None and isinstance(value, Mapping):
            value = known_part(nested, value)
        if _is_valid(value, field.type):
            known[name] = value
    return known


def unknown_part(kind: type[Struct], stored: Mapping[str, object]) -> dict[str, object]:
    """Return the rest of a document, which this version doesn't understand: fields, and values of fields."""
    unknown: dict[str, object] = {}
    types = {field.encode_name: field.type for field in msgspec.structs.fields(kind)}
    for name, value in stored.items():
        nested = _struct_of(types[name]) if name in types else None
        if nested is not None and isinstance(value, Mapping):
            if rest := unknown_part(nested, value):
                unknown[name] = rest
        elif name not in types or not _is_valid(value, types[name]):
            unknown[name] = value
    return unknown


def with_unknown(value: Struct, unknown: Mapping[str, object]) -> dict[str, object]:
    """Return the document of a value with what is stored next to it and not understood.

    What belongs to a setting that has been removed goes with it, and a new value replaces one that wasn't understood.
    """
    document: dict[str, object] = msgspec.to_builtins(value)
    fields = {field.encode_name: field for field in msgspec.structs.fields(value)}
    for name, rest in unknown.items():
        own = getattr(value, fields[name].name) if name in fields else None
        if isinstance(own, Struct) and isinstance(rest, Mapping):
            document[name] = with_unknown(own, rest)
        elif name not in fields or _struct_of(fields[name].type) is None:
            document.setdefault(name, rest)
    return document


def _struct_of(kind: object) -> type[Struct] | None:
    """Return the Struct that a field holds, if it is one."""
    found = type_info(kind)
    options: Iterable[Any] = found.types if isinstance(found, UnionType) else (found,)
    return next((option.cls for option in options if isinstance(option, StructType)), None)


def _is_valid(value: object, kind: object) -> bool:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return False
    return True

"""Describes the configuration: what a key accepts, and the values in force as TOML."""

import json
import re
from pathlib import Path
from types import MappingProxyType

from msgspec import inspect
from msgspec.structs import fields, replace

from webhookd.base import validation
from webhookd.base.database_url import hidden
from webhookd.config.tree import Config

KEYS = MappingProxyType(
    {section.name: {key.name: key.type for key in fields(section.type)} for section in fields(Config)}
)
"""The type of each key, by section and key."""


def describe(config: Config) -> str:
    """Return the configuration as TOML with every key; passwords are hidden, and unset keys are comments."""
    config = shown(config)
    lines = []
    for section, keys in KEYS.items():
        lines.append(f"[{section}]")
        for key in keys:
            value = getattr(getattr(config, section), key)
            if (section, key) == ("journal", "path") and config.journal.url is not None:
                lines.append("# path is not used")
                continue
            lines.append(f"# {key} is not set" if value is None else f"{key} = {to_toml(value)}")
        lines.append("")
    return "\n".join(lines)


def shown(config: Config) -> Config:
    """Return the configuration with the password of the database and the credentials of an egress proxy hidden."""
    proxy, url = config.egress.proxy, config.journal.url
    if proxy is not None:
        config = replace(config, egress=replace(config.egress, proxy=re.sub(r"//[^/]*@", "//[hidden]@", proxy)))
    if url is not None:
        config = replace(config, journal=replace(config.journal, url=hidden(url)))
    return config


def accepted_form(kind: inspect.Type) -> str:
    """Describe what a key accepts."""
    return validation.accepted_form(kind, an_object="a table such as { name = value }")


def to_toml(value: object) -> str:
    """Return a value as TOML; a value that TOML doesn't have becomes readable text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, list | tuple):
        return f"[{', '.join(to_toml(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{ {', '.join(f'{to_toml(str(key))} = {to_toml(item)}' for key, item in value.items())} }}"
    if isinstance(value, str | Path):
        # A variable or path may hold bytes that are not UTF-8. TOML escapes DEL, and JSON doesn't.
        text = str(value).encode(errors="surrogateescape").decode(errors="replace")
        return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
    return str(value)

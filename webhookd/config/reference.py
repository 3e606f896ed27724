"""The page docs/configuration.md, made from the tree: every key with its default, what it takes, and what it is for."""

from collections.abc import Iterator

from msgspec import inspect

from webhookd.config.meanings import INTRODUCTION, MEANINGS, SECTIONS
from webhookd.config.tree import Config
from webhookd.config.words import KEYS, accepted_form, to_toml

_MADE = (
    "<!-- Made by `webhookd check-config --reference > docs/configuration.md`; the words stand in "
    "webhookd/config/meanings.py. -->"
)


def reference() -> str:
    """Return the page in Markdown; KeyError for a key that nobody has said the meaning of."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield from ("# Configuration", "", _MADE, "", INTRODUCTION)
    defaults = Config()
    for section, keys in KEYS.items():
        yield from ("", f"## `[{section}]`", "")
        if section in SECTIONS:
            yield from (SECTIONS[section], "")
        yield from ("| key | default | takes | meaning |", "| --- | --- | --- | --- |")
        for key, kind in keys.items():
            value = getattr(getattr(defaults, section), key)
            default = "not set" if value is None else f"`{to_toml(value)}`"
            takes = accepted_form(inspect.type_info(kind))
            yield f"| `{key}` | {default} | {takes} | {MEANINGS[section][key]} |"

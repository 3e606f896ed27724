"""Templates and static files: read once at the start, and everything that a template prints is escaped.

A static file's address holds a hash of what is in it, so browsers may keep it for ever. No template may mark data as
safe: what producers and receivers sent is text.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from webhookd.dashboard import words
from webhookd.version import VERSION

_HERE = Path(__file__).parent
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file that browsers may keep: its bytes, and its address, which changes with them."""

    path: str
    media_type: str
    content: bytes


class Templates:
    """The templates and the static files that they name."""

    def __init__(self) -> None:
        self.static = {file.path: file for file in map(_static_file, sorted((_HERE / "static").iterdir()))}
        addresses = {file.path.rpartition("/")[2]: file.path for file in self.static.values()}
        self._environment = Environment(
            loader=FileSystemLoader(_HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
            cache_size=-1,
        )
        self._environment.globals |= {"asset": addresses.__getitem__, "version": VERSION, "plural": words.plural}
        for name in ("duration", "when", "count", "size", "shortened", "epoch", "age", "readable"):
            self._environment.filters[name] = getattr(words, name)
        for name in self._environment.list_templates():
            self._environment.get_template(name)  # which reads it, and keeps it

    def render(self, template: str, values: Mapping[str, object]) -> str:
        """Return what a template makes of these values."""
        return self._environment.get_template(template).render(values)


def _static_file(path: Path) -> StaticFile:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return StaticFile(f"/static/{digest}/{path.name}", f"{_MEDIA_TYPES[path.suffix]}; charset=utf-8", content)

"""Templates and static files, which are read once; templates escape everything that they print.

The path of a static file contains a hash of its content, so browsers may cache it without limit. No template may mark
data as safe: what producers and receivers send is text.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from webhookd.base.version import VERSION
from webhookd.dashboard import formatting

_HERE = Path(__file__).parent
_MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}


@dataclass(frozen=True, slots=True)
class StaticFile:
    """A file that browsers may cache: its content, and its path, which changes with the content."""

    path: str
    media_type: str
    content: bytes


class Templates:
    """The templates and the static files that they name; call `compile` before `render`.

    To compile all of them takes a good part of a second: do it in a thread, and only when a page is requested.
    """

    def __init__(self) -> None:
        self.static = {file.path: file for file in map(_static_file, sorted((_HERE / "static").iterdir()))}
        self._environment: Environment | None = None

    @property
    def are_compiled(self) -> bool:
        """Whether a page can be rendered."""
        return self._environment is not None

    def compile(self) -> None:
        """Read and compile every template."""
        self._environment = _environment(tuple(self.static))

    def render(self, template: str, values: Mapping[str, object]) -> str:
        """Render a template with these values."""
        assert self._environment is not None  # noqa: S101 - see above
        return self._environment.get_template(template).render(values)


@cache
def _environment(static: tuple[str, ...]) -> Environment:
    addresses = {path.rpartition("/")[2]: path for path in static}
    environment = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    environment.globals |= {"asset": addresses.__getitem__, "version": VERSION, "plural": formatting.plural}
    for name in ("duration", "when", "count", "size", "shortened", "epoch", "readable", "capitalized"):
        environment.filters[name] = getattr(formatting, name)
    for name in environment.list_templates():
        environment.get_template(name)  # compiles it into the cache
    return environment


def _static_file(path: Path) -> StaticFile:
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()[:16]
    return StaticFile(f"/static/{digest}/{path.name}", f"{_MEDIA_TYPES[path.suffix]}; charset=utf-8", content)

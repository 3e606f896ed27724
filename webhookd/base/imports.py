"""Leave optional modules out of an import: they cost memory in a server that never uses them."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def leaving_out(name: str) -> Iterator[None]:
    """Make a module look as if it weren't installed, for imports in the block; one that is imported already stays."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]  # importing it then raises ImportError
    try:
        yield
    finally:
        del sys.modules[name]

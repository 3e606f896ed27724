"""Read the files in the pages of docs/recipes: each fenced block whose first line names a file is that file."""

import re
from pathlib import Path

DOCS = Path(__file__).parents[2] / "docs"
_BLOCK = re.compile(r"^```\w*\n((?:#|//) (\S+\.\w+)\n.*?)^```$", re.DOTALL | re.MULTILINE)


def files(page: str) -> dict[str, str]:
    """Return the content of each file of a page, by name."""
    found = {name: text for text, name in _BLOCK.findall((DOCS / "recipes" / page).read_text())}
    assert found, f"{page} has no file in it"
    return found


def write(page: str, directory: Path) -> list[str]:
    """Write the files of a page into a directory; return their names."""
    found = files(page)
    for name, text in found.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(text)
    return list(found)

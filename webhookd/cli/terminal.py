"""What commands print: JSON for programs, and for people tables that fit the terminal they have.

Piped, a table is aligned lines, one a row, without colour or folding. On a terminal it is folded where it may be, and
where even that is too wide each row becomes a block of its own. Whatever came from elsewhere is made printable first:
it must not steer the terminal.
"""

import re
import sys
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import TypeVar

import click
import msgspec
from rich.cells import cell_len
from rich.console import Console
from rich.table import Table
from rich.text import Text

from webhookd.admin.schemas import Page
from webhookd.base.errors import CommandError

T = TypeVar("T")

_GAP = 2
_NARROWEST = 14  # what a column that may be folded still needs to be read
_STYLES: Mapping[str, str] = MappingProxyType(
    {
        "succeeded": "green",
        "sending": "green",
        "done": "green",
        "ok": "green",
        "pending": "yellow",
        "parked": "yellow",
        "waiting": "yellow",
        "running": "yellow",
        "retrying": "yellow",
        "failed": "red",
        "failing": "red",
        "off": "red",
        "canceled": "dim",
        "idle": "dim",
    }
)
# JSON leaves these in a string as they are: DEL, C1 controls, and what turns the direction of writing.
_STEERING = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

Rows = Sequence[Sequence[str]]


def plain(text: str) -> str:
    """Return what a terminal can show."""
    return "".join(character if character.isprintable() else "�" for character in text)


def show_json(value: object) -> None:
    """Print one JSON document, such as a view of the API."""
    click.echo(_json(msgspec.json.format(msgspec.json.encode(value), indent=2)))


def show_json_line(value: object) -> None:
    """Print one line of JSON, and let it go at once."""
    click.echo(_json(msgspec.json.encode(value)))


def show_table(titles: Sequence[str], rows: Rows, *, foldable: Collection[str] = ()) -> None:
    """Print rows under their titles; only the `foldable` columns may take several lines."""
    cells = [[plain(cell) or "-" for cell in row] for row in rows]
    console = Console(highlight=False)
    widths = [max(map(cell_len, column)) for column in zip(titles, *cells, strict=True)]
    if not console.is_terminal:
        for row in (titles, *cells):
            click.echo("".join(_padded(cell, width + _GAP) for cell, width in zip(row, widths, strict=True)).rstrip())
        return
    least = [
        min(width, _NARROWEST) if title in foldable else width for title, width in zip(titles, widths, strict=True)
    ]
    if sum(least) + _GAP * (len(least) - 1) > console.width:
        for index, row in enumerate(cells):
            if index:
                click.echo()
            show_record(list(zip(titles, row, strict=True)))
        return
    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(Text(title), overflow="fold", no_wrap=title not in foldable)
    for row in cells:
        table.add_row(*(Text(cell, style=style_of(cell)) for cell in row))
    console.print(table)


def show_record(pairs: Sequence[tuple[str, str]]) -> None:
    """Print what is known of one thing, a line for each name."""
    console = Console(highlight=False)
    cells = [(name, plain(value) or "-") for name, value in pairs]
    if not console.is_terminal:
        width = max(cell_len(name) for name, _ in cells)
        for name, value in cells:
            click.echo(f"{_padded(name, width)}  {value}")
        return
    grid = Table.grid(padding=(0, _GAP, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, value in cells:
        grid.add_row(Text(name), Text(value, style=style_of(value)))
    console.print(grid)


def tell_of_more(page: Page[T], option: str = "--cursor") -> None:
    """Say on standard error that a list goes on, and how to see more of it."""
    if page.next_cursor is not None:
        click.echo(f"there are more: --limit N, or {option} {page.next_cursor}", err=True)


def style_of(cell: str) -> str:
    """Return the colour of a word that says how something is; none for any other text."""
    return _STYLES.get(cell.partition(":")[0], "")


def confirm(question: str, *, is_given: bool, instead: str) -> None:
    """Ask a person before something is done; CommandError where there is none, click.Abort for a no.

    `is_given`: the answer was an option.
    """
    if is_given:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Nobody is there to answer: {instead}")
    click.confirm(question, abort=True, err=True)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _json(text: bytes) -> str:
    return _STEERING.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode())

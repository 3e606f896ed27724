"""The output of commands: JSON for programs, and tables that fit the terminal for people.

In a pipe a table is aligned lines, one a row, without colour or folding. On a terminal, columns are folded where
allowed; if the table is still too wide, each row becomes a block of its own. Text from outside is made printable first,
so that it can't control the terminal.
"""

import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
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
_NARROWEST = 14  # the least width of a folded column
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
        "disabled": "red",
        "canceled": "dim",
        "idle": "dim",
    }
)
# JSON doesn't escape these in a string: DEL, C1 controls, and what changes the direction of writing.
_CONTROLS = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")

Rows = Sequence[Sequence[str]]


def plain(text: str) -> str:
    """Return a text with unprintable characters replaced."""
    return "".join(character if character.isprintable() else "�" for character in text)


def show_json(value: object) -> None:
    """Print one indented JSON document, such as a view of the API."""
    click.echo(_json(msgspec.json.format(msgspec.json.encode(value), indent=2)))


def show_json_line(value: object) -> None:
    """Print one JSON document in a line, unbuffered."""
    click.echo(_json(msgspec.json.encode(value)))


def show_result(value: object, text: str, *, as_json: bool) -> None:
    """Print what a command has done: one JSON document, or a line of text for people."""
    if as_json:
        show_json(value)
    else:
        click.echo(text)


def show_page(
    page: Page[T],
    titles: Sequence[str],
    row: Callable[[T], Sequence[str]],
    *,
    foldable: Collection[str],
    as_json: bool,
    option: str = "--cursor",
) -> None:
    """Print a list: one JSON document, or a table; standard error gets the `option` to continue a longer list."""
    if as_json:
        show_json(page)
        return
    show_table(titles, [row(each) for each in page.data], foldable=foldable)
    if page.next_cursor is not None:
        click.echo(f"there are more: --limit N, or {option} {page.next_cursor}", err=True)


def show_table(titles: Sequence[str], rows: Rows, *, foldable: Collection[str] = ()) -> None:
    """Print rows under their titles; only `foldable` columns may take several lines."""
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
    """Print the fields of one thing, one a line."""
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


def style_of(cell: str) -> str:
    """Return the colour of a state, or none for any other text."""
    return _STYLES.get(cell.partition(":")[0], "")


def confirm(question: str, *, is_given: bool, instead: str) -> None:
    """Ask for a confirmation unless `is_given` by an option; click.Abort for a no.

    Raises CommandError with the option to use `instead` if standard input is not a terminal.
    """
    if is_given:
        return
    if not sys.stdin.isatty():
        raise CommandError(f"{question} Standard input is not a terminal: {instead}")
    click.confirm(question, abort=True, err=True)


def _padded(text: str, width: int) -> str:
    return text + " " * (width - cell_len(text))


def _json(text: bytes) -> str:
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text.decode())

"""Statements over many rows at once, made of the SQL that peewee writes for one.

SQLite's `executemany` takes one step a row, and each step gives up the interpreter's lock and takes it back. Beside a
busy loop that costs several times what the row does; a statement over a block of rows gives it up once. Blocks are
powers of two, so that a few statements, which the connection keeps prepared, serve every number of rows.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import chain
from typing import Any, Protocol

from peewee import Model, Query

MOST_ROWS = 128


SqlRow = tuple[Any, ...]


class SqlConnection(Protocol):
    """What is needed of SQLite's connection."""

    def execute(self, sql: str, parameters: Sequence[object] | Mapping[str, object] = ()) -> Iterable[SqlRow]:
        """Run a statement; its parameters go by place or by name."""
        ...

    def changes(self) -> int:
        """Return how many rows the last statement changed."""
        ...


def sql_of(query: Query) -> str:
    """Return the SQL of a query, whose parameters are then given at each call."""
    return str(query.sql()[0])


class BulkInsert:
    """Inserts rows of all of `columns`, in their order."""

    def __init__(self, table: type[Model], columns: Sequence[str]) -> None:
        one = sql_of(table.insert(dict.fromkeys(columns, 0)))
        self._head, _, self._row = one.partition(" VALUES ")

    def run(self, connection: SqlConnection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert the rows."""
        for block in _blocks(rows):
            connection.execute(self._sql(len(block)), list(chain.from_iterable(block)))

    @lru_cache  # noqa: B019 - these live as long as the process
    def _sql(self, count: int) -> str:
        return f"{self._head} VALUES {', '.join([self._row] * count)}"


class BulkUpdate:
    """Updates `columns` of the rows that `key` names, where `condition` holds; each row is the key, then the values."""

    def __init__(self, table: str, key: str, columns: Sequence[str], condition: str | None = None) -> None:
        changes = ", ".join(f'"{name}" = new.column{number}' for number, name in enumerate(columns, 2))
        self._head = f'UPDATE "{table}" SET {changes} FROM (VALUES '  # noqa: S608 - of names in the code alone
        self._row = f"({', '.join('?' * (len(columns) + 1))})"
        self._tail = f') AS new WHERE "{key}" = new.column1' + (f" AND {condition}" if condition else "")

    def run(self, connection: SqlConnection, rows: Sequence[tuple[object, ...]]) -> int:
        """Update the rows and return how many there were."""
        changed = 0
        for block in _blocks(rows):
            connection.execute(self.sql(len(block)), list(chain.from_iterable(block)))
            changed += connection.changes()
        return changed

    @lru_cache  # noqa: B019 - these live as long as the process
    def sql(self, count: int) -> str:
        """Return the statement over that many rows."""
        return self._head + ", ".join([self._row] * count) + self._tail


def _blocks(rows: Sequence[tuple[object, ...]]) -> Iterator[Sequence[tuple[object, ...]]]:
    start = 0
    while (left := len(rows) - start) > 0:
        size = min(MOST_ROWS, 1 << (left.bit_length() - 1))
        yield rows[start : start + size]
        start += size

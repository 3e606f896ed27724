"""Statements over many rows at once.

SQLite's `executemany` takes one step a row, and each step releases the interpreter's lock and takes it again. Next to a
busy event loop that costs several times what the row does; a statement over a block of rows releases it once. Blocks
are powers of two, so a few statements, which the connection keeps prepared, serve every number of rows.
"""

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from itertools import chain

from webhookd.journal.queries.dialect import SqlConnection

MOST_ROWS = 128


class BulkInsert:
    """Inserts rows, each with the values of `columns` in that order."""

    def __init__(self, table: str, columns: Sequence[str]) -> None:
        names = ", ".join(f'"{name}"' for name in columns)
        self._head = f'INSERT INTO "{table}" ({names})'
        self._row = f"({', '.join('?' * len(columns))})"

    def run(self, connection: SqlConnection, rows: Sequence[tuple[object, ...]]) -> None:
        """Insert the rows."""
        for block in _blocks(rows):
            connection.execute(self._sql(len(block)), list(chain.from_iterable(block)))

    @lru_cache  # noqa: B019 - these live as long as the process
    def _sql(self, count: int) -> str:
        return f"{self._head} VALUES {', '.join([self._row] * count)}"


class BulkUpdate:
    """Updates rows that `condition` holds for; each row is the value of `key`, then the values of `columns`.

    The columns in `growing` keep a greater value that they have.
    """

    def __init__(
        self,
        table: str,
        key: str,
        columns: Sequence[str],
        condition: str | None = None,
        *,
        growing: Collection[str] = (),
    ) -> None:
        news = [(name, f"new.column{number}") for number, name in enumerate(columns, 2)]
        changes = ", ".join(
            f'"{name}" = ' + (f'max("{name}", {new})' if name in growing else new) for name, new in news
        )
        self._head = f'UPDATE "{table}" SET {changes} FROM (VALUES '  # noqa: S608 - of names in the code alone
        self._row = f"({', '.join('?' * (len(columns) + 1))})"
        self._tail = f') AS new WHERE "{key}" = new.column1' + (f" AND {condition}" if condition else "")

    def run(self, connection: SqlConnection, rows: Sequence[tuple[object, ...]]) -> int:
        """Update the rows; return how many were changed."""
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

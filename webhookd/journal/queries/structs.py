"""Rows of a table as Structs: a field is the column of the same name, stored as the model says."""

from collections.abc import Mapping
from typing import Generic, TypeVar

import msgspec
from msgspec import Struct
from peewee import ColumnBase, Database, Field, Model, ModelAlias, Query

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal import cursors
from webhookd.journal.known_settings import known_part
from webhookd.journal.rows import RowPage

S = TypeVar("S", bound=Struct)
M = TypeVar("M", bound=Model)
Q = TypeVar("Q", bound=Query)


class Rows(Generic[S]):
    """Reads rows of `table` as `kind`; `joined` are the columns of other tables, or SQL, by field.

    Every method reads all rows of its query at once. An open cursor would keep the write-ahead log from being cut.
    """

    def __init__(self, kind: type[S], table: "type[M] | ModelAlias[M]", **joined: ColumnBase) -> None:
        self._kind = kind
        self.table = table
        self.columns = [
            joined[name].alias(name) if name in joined else getattr(table, name) for name in kind.__struct_fields__
        ]

    def select(self) -> Query:
        """Return the query for all rows, to be narrowed down."""
        return self.table.select(*self.columns)

    def all(self, database: Database, query: Query) -> list[S]:
        """Return the rows that a query finds."""
        return [self.convert(row) for row in query.dicts().execute(database)]

    def convert(self, row: object) -> S:
        """Return a row that was read as a dict, without what a newer version has stored in it."""
        try:
            return msgspec.convert(row, self._kind)
        except msgspec.ValidationError:
            if not isinstance(row, Mapping):
                raise
        return msgspec.convert(dict(row) | known_part(self._kind, row), self._kind)

    def find(self, database: Database, query: Query) -> S | None:
        """Return the first row that a query finds, or None."""
        return next(iter(self.all(database, query)), None)

    def get(self, database: Database, query: Query, missing: str) -> S:
        """Return the row that a query finds; raises Rejected NOT_FOUND with the message `missing`."""
        found = self.find(database, query)
        if found is None:
            raise Rejected(ErrorCode.NOT_FOUND, missing)
        return found

    def page(
        self,
        database: Database,
        query: Query,
        column: Field,
        *,
        limit: int,
        list_name: str,
        cursor: str | None,
        descending: bool = False,
        kind: type[tuple[object, ...]] = tuple[cursors.Number],
    ) -> RowPage[S]:
        """Return the page of the query's rows in the order of a unique column, whose values are of `kind`.

        Raises Rejected INVALID_CURSOR.
        """
        if cursor is not None:
            (last,) = cursors.decode(cursor, list_name, kind)
            query = query.where(column < last if descending else column > last)
        query = query.order_by(column.desc() if descending else column).limit(limit + 1)
        return cursors.page(self.all(database, query), limit, list_name, lambda row: [getattr(row, column.name)])


def narrowed(query: Q, *wanted: tuple[Field, object]) -> Q:
    """Return a query for the rows whose columns have these values; None is any value."""
    for column, value in wanted:
        if value is not None:
            query = query.where(column == value)
    return query

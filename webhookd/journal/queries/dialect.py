"""Where SQLite and PostgreSQL differ: statements that peewee doesn't write, and SQL with a text for each of them.

A statement is written with SQLite's placeholders, `?` by place or `:name` by name, and runs on both.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Protocol

import msgspec
from peewee import ColumnBase, Context, Database, PostgresqlDatabase, Query

SqlRow = tuple[Any, ...]
Parameters = Sequence[object] | Mapping[str, object]

# What may contain the first character of a placeholder without being one comes first: texts, names, and casts.
_TOKENS = re.compile(r"""'[^']*'|"[^"]*"|::|:(?P<name>[a-z_]+)|(?P<place>\?)""")
_INDEX_HINT = re.compile(r" INDEXED BY \w+")
_ORDER_HINT = re.compile(r"\bCROSS JOIN (\w+(?: AS \w+)?) ON\b")


class SqlConnection(Protocol):
    """Runs statements: SQLite's connection, or `PsycopgStatements`."""

    def execute(self, sql: str, parameters: Parameters = ()) -> Iterable[SqlRow]:
        """Run a statement; its parameters go by place or by name."""
        ...

    def changes(self) -> int:
        """Return how many rows the last statement changed."""
        ...


class PsycopgCursor(Protocol):
    """The part of psycopg's cursor that is used here."""

    rowcount: int
    description: object

    def __iter__(self) -> Iterator[SqlRow]: ...


class PsycopgConnection(Protocol):
    """The part of psycopg's connection that is used here."""

    def execute(self, query: str, params: Parameters) -> PsycopgCursor:
        """Run a statement with psycopg's placeholders."""
        ...


class PsycopgStatements:
    """Runs statements with SQLite's placeholders on a connection of psycopg."""

    def __init__(self, connection: PsycopgConnection) -> None:
        self._connection = connection
        self._changes = 0

    def execute(self, sql: str, parameters: Parameters = ()) -> Iterable[SqlRow]:
        """Run a statement; its parameters go by place or by name."""
        cursor = self._connection.execute(for_psycopg(sql), parameters)
        self._changes = cursor.rowcount
        return () if cursor.description is None else cursor

    def changes(self) -> int:
        """Return how many rows the last statement changed."""
        return self._changes


class EngineSQL(ColumnBase):
    """SQL with a text for each engine: a part of a query of peewee's, or a whole statement."""

    def __init__(self, *, sqlite: str, postgres: str) -> None:
        self.sqlite = sqlite
        self.postgres = postgres

    def on(self, database: Database) -> str:
        """Return the text for a database."""
        return self.postgres if is_postgres(database) else self.sqlite

    def __sql__(self, ctx: Context) -> Context:
        is_for_postgres = ctx.state.param == PostgresqlDatabase.param
        return ctx.literal(self.postgres if is_for_postgres else self.sqlite)


def is_postgres(database: Database) -> bool:
    """Whether a database is on PostgreSQL."""
    return isinstance(database, PostgresqlDatabase)


def statements(database: Database) -> SqlConnection:
    """Return what runs statements on a database's connection."""
    connection = database.connection()
    return PsycopgStatements(connection) if is_postgres(database) else connection


def written(query: Query, end: str = "") -> EngineSQL:
    """Return a query, followed by `end`, as a statement: to write it at each call would take longer than to run it.

    Its parameters are placeholders in `SQL`.
    """
    sqlite, postgres = (Context(param=engine.param).sql(query).query()[0] for engine in (Database, PostgresqlDatabase))
    return EngineSQL(sqlite=sqlite + end, postgres=postgres + end)


def hinted(sql: str) -> EngineSQL:
    """Return SQL with hints for SQLite's planner: `INDEXED BY`, and `CROSS JOIN … ON` to join in that order.

    PostgreSQL has no such hints.
    """
    return EngineSQL(sqlite=sql, postgres=_ORDER_HINT.sub(r"JOIN \1 ON", _INDEX_HINT.sub("", sql)))


def members(parameter: str, kind: str) -> EngineSQL:
    """Return the right side of IN for a list, which `listed` makes a parameter of; `kind` is its members' SQL type."""
    return EngineSQL(
        sqlite=f"(SELECT value FROM json_each(:{parameter}))",  # noqa: S608 - of names in the code alone
        postgres=f"(SELECT unnest(CAST(:{parameter} AS {kind}[])))",
    )


def listed(database: Database, values: Sequence[object]) -> object:
    """Return a list as a parameter: an array on PostgreSQL, JSON on SQLite."""
    return values if is_postgres(database) else msgspec.json.encode(values).decode()


@lru_cache(maxsize=1024)
def for_psycopg(sql: str) -> str:
    """Return a statement with psycopg's placeholders in place of SQLite's."""
    return _TOKENS.sub(_placeholder, sql.replace("%", "%%"))


def _placeholder(found: re.Match[str]) -> str:
    if found["place"]:
        return "%s"
    return found[0] if found["name"] is None else f"%({found['name']})s"

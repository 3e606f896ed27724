"""Connections of webhookd to a database of the tests."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from webhookd.base.database_url import parse
from webhookd.journal.postgres.database import ConnectionRole, PostgresDatabase, connect


@contextmanager
def connected(
    url: str, role: ConnectionRole = ConnectionRole.WRITER, *, application_name: str = "a test"
) -> Iterator[PostgresDatabase]:
    """Yield a connection, and close it."""
    database = connect(parse(url), role, application_name=application_name)
    try:
        yield database
    finally:
        database.close()


def rows(database: PostgresDatabase, sql: str, *parameters: object) -> list[Any]:
    """Run a statement, as webhookd does: errors are translated; return its rows."""
    with database.translated():
        cursor: Any = database.execute_sql(sql, parameters)  # type: ignore[no-untyped-call]  # peewee's stubs
        return list(cursor.fetchall()) if cursor.description else []


def value(database: PostgresDatabase, sql: str, *parameters: object) -> Any:
    """Run a query for one value."""
    [(found,)] = rows(database, sql, *parameters)
    return found

"""Statements that are written once: their placeholders for psycopg, and what PostgreSQL's text leaves out."""

from typing import Any

import pytest
from peewee import Context, PostgresqlDatabase

from webhookd.journal.queries.dialect import EngineSQL, for_psycopg, hinted
from webhookd.journal.queries.schema import FRESH, DeliveryTable


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("SELECT ?, ?", "SELECT %s, %s"),
        ("SELECT :now, (:now, :event_pks)", "SELECT %(now)s, (%(now)s, %(event_pks)s)"),
        ("SELECT :pks::bigint[] WHERE id = ':pk ?'", "SELECT %(pks)s::bigint[] WHERE id = ':pk ?'"),
        ("""SELECT "a?b", 'it''s :a', x % 2, '50 %' LIKE ?""", """SELECT "a?b", 'it''s :a', x %% 2, '50 %%' LIKE %s"""),
    ],
    ids=["by place", "by name", "text and cast", "quotes and percent"],
)
def test_placeholders_are_those_of_psycopg(statement: str, expected: str) -> None:
    """Parameters are found outside of texts, quoted names and casts, and `%` is itself."""
    assert for_psycopg(statement) == expected


def test_hints_are_for_sqlite_alone() -> None:
    """PostgreSQL gets the statement without index hints, and joins in the order that it finds best."""
    sql = "SELECT 1 FROM a AS b INDEXED BY c CROSS JOIN d AS e ON e.f = b.f CROSS JOIN (VALUES (1)) AS g"
    statement = hinted(sql)
    assert statement.sqlite == sql
    assert statement.postgres == "SELECT 1 FROM a AS b JOIN d AS e ON e.f = b.f CROSS JOIN (VALUES (1)) AS g"


def test_a_part_of_a_query_is_the_text_of_its_engine() -> None:
    """In a query of peewee's, SQL with two texts is the one for the database that the query runs on."""
    query = DeliveryTable.select(DeliveryTable.pk).where(FRESH & EngineSQL(sqlite="one", postgres="other"))
    contexts: list[Any] = [Context(param=param) for param in ("?", PostgresqlDatabase.param)]
    texts = [context.sql(query).query()[0] for context in contexts]
    assert [text.partition(" WHERE ")[2] for text in texts] == [
        "(status = 'pending' AND (backoff_step > 0) = FALSE AND one)",
        "(status = 'pending' AND (backoff_step > 0) IS FALSE AND other)",
    ]

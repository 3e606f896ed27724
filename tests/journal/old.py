"""Journals of every version of the tables, made from the dumps in fixtures/."""

from pathlib import Path

import apsw

FIXTURES = sorted((Path(__file__).parent / "fixtures").glob("v*.sql"))
VERSIONS = [int(path.stem[1:]) for path in FIXTURES]


def make_old(path: Path, version: int) -> None:
    """Make a journal of `version` with a webhook, a delivered event and a pending delivery."""
    path.touch(mode=0o600)
    connection = apsw.Connection(str(path))
    connection.execute(FIXTURES[VERSIONS.index(version)].read_text()).fetchall()
    connection.execute("PRAGMA journal_mode = WAL").fetchall()
    connection.close()


def ask(path: Path, sql: str) -> list[tuple[object, ...]]:
    """Query a journal that no process has open."""
    connection = apsw.Connection(str(path))
    try:
        return [tuple(row) for row in connection.execute(sql)]
    finally:
        connection.close()


def version_of(path: Path) -> object:
    """Return the version in a file."""
    return ask(path, "PRAGMA user_version")[0][0]


def tables_of(path: Path) -> list[tuple[object, ...]]:
    """Return the definitions of a file's tables, indexes and triggers, in one spelling."""
    found = ask(path, "SELECT type, name, sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY type, name")
    return [(kind, name, " ".join(str(sql).split())) for kind, name, sql in found if not str(name).startswith("sqlite")]

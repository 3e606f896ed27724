"""Moves of a journal between a file and a database of the tests, and what both hold."""

from pathlib import Path
from typing import Any

import apsw

from tests.journal.harness import MASTER_KEY
from webhookd.crypto.key_file import format_master_key
from webhookd.journal import Moved, Server, move_journal
from webhookd.journal.moved_tables import MOVED_TABLES

NOW = 1_700_000_000.0


def move(source: Path | Server, target: Path | Server, **settings: Any) -> Moved:
    """Move a journal in this process."""
    return move_journal(source, target, load_key=lambda: MASTER_KEY, now=NOW, **settings)


def change(path: Path, *statements: str) -> None:
    """Change a file as another program would, whatever its triggers say."""
    connection = apsw.Connection(str(path))
    try:
        for name in ("audit_appends", "audit_keeps", "audit_stays"):
            connection.execute(f"DROP TRIGGER IF EXISTS {name}")
        for statement in statements:
            connection.execute(statement)
    finally:
        connection.close()


def content(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return everything that is in a journal's file: the tables, their definitions, and the last numbers."""
    connection = apsw.Connection(str(path))
    try:
        names = [name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")]
        found = {name: sorted(connection.execute(f'SELECT * FROM "{name}"'), key=repr) for name in names}  # noqa: S608 - their names
        found["definitions"] = list(
            connection.execute("SELECT type, name, tbl_name, sql FROM sqlite_schema ORDER BY 2")
        )
        for pragma in ("user_version", "application_id", "auto_vacuum", "page_size"):
            found[pragma] = list(connection.execute(f"PRAGMA {pragma}"))
        return found
    finally:
        connection.close()


def last_numbers(path: Path) -> dict[object, Any]:
    """Return the last number of each table whose numbers are used once."""
    return dict(content(path)["sqlite_sequence"])  # type: ignore[arg-type]  # they are pairs


def tables_of(path: Path) -> dict[str, list[tuple[object, ...]]]:
    """Return the rows of the tables that are moved."""
    found = content(path)
    return {table.name: found[table.name] for table in MOVED_TABLES}


def url_of(server: Server) -> str:
    """Return the URL of a database of the tests."""
    return f"postgresql://{server.url.user}@/{server.url.database}?host={server.url.hosts[0].name}"


def write_key(directory: Path) -> Path:
    """Write the master key of the tests' journals to a file."""
    path = directory / "master.key"
    path.touch(mode=0o600)
    path.write_text(format_master_key(MASTER_KEY))
    return path

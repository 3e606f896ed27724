"""What tests reach into of a store on SQLite that is open."""

from typing import Any

from webhookd.journal import Store
from webhookd.journal.sqlite.database import ReadLimit
from webhookd.journal.sqlite.storage import SqliteEngine


def writing_database(store: Store) -> Any:
    """Return the database of the writer's connection; nothing else may use it at the same time."""
    return _engine(store)._database


def read_limit(store: Store) -> ReadLimit:
    """Return the time limit of the store's readers."""
    return _engine(store)._limit


def _engine(store: Store) -> SqliteEngine:
    assert isinstance(store._engine, SqliteEngine)
    return store._engine

"""Queries on API keys, of which the journal knows hashes alone."""

import msgspec
from peewee import Database

from webhookd.errors import ErrorCode, Rejected
from webhookd.journal.rows import KeyRow, row_of
from webhookd.journal.schema import KeyTable

_COLUMNS = [getattr(KeyTable, name) for name in KeyRow.__struct_fields__]


def all(database: Database) -> list[KeyRow]:  # noqa: A001 - reads as keys.all
    """Return every key, oldest first; expired ones too."""
    query = KeyTable.select(*_COLUMNS).order_by(KeyTable.id)
    return [row_of(KeyRow, row) for row in query.tuples().execute(database)]


def insert(database: Database, row: KeyRow) -> KeyRow:
    """Store a new key."""
    KeyTable.insert(msgspec.structs.asdict(row) | {"role": row.role.value}).execute(database)
    return row


def insert_first(database: Database, row: KeyRow) -> bool:
    """Store a key if the journal holds none yet; return whether it did."""
    if KeyTable.select().exists(database):
        return False
    insert(database, row)
    return True


def revoke(database: Database, key_id: str, organization_id: str | None) -> str:
    """Remove a key and return its id; Rejected NOT_FOUND, for another organization's key too."""
    query = KeyTable.delete().where(KeyTable.id == key_id)
    if organization_id is not None:
        query = query.where(KeyTable.organization_id == organization_id)
    if not query.execute(database):
        raise Rejected(ErrorCode.NOT_FOUND, f"there is no API key {key_id}")
    return key_id

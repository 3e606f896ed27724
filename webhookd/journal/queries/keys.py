"""Queries on API keys, of which the journal knows hashes alone."""

from collections.abc import Mapping

import msgspec
from peewee import Database, Query

from webhookd.base.errors import ErrorCode, Rejected
from webhookd.journal import cursors
from webhookd.journal.audit_entries import AuditEntry
from webhookd.journal.queries import audit
from webhookd.journal.queries.schema import KeyTable
from webhookd.journal.rows import KeyRow, RowPage, row_of

_LIST = "keys"
_COLUMNS = [getattr(KeyTable, name) for name in KeyRow.__struct_fields__]


def all(database: Database) -> list[KeyRow]:  # noqa: A001 - reads as keys.all
    """Return every key, oldest first; expired ones too."""
    query = KeyTable.select(*_COLUMNS).order_by(KeyTable.id)
    return [row_of(KeyRow, row) for row in query.tuples().execute(database)]


def page(database: Database, organization_id: str | None, *, limit: int, cursor: str | None) -> RowPage[KeyRow]:
    """Return a page of the keys, newest first; of one organization where one is given. Rejected INVALID_CURSOR."""
    query = _of(organization_id).order_by(KeyTable.id.desc()).limit(limit + 1)
    if cursor is not None:
        query = query.where(KeyTable.id < cursors.decode(cursor, _LIST, tuple[str])[0])
    found = [row_of(KeyRow, row) for row in query.tuples().execute(database)]
    return cursors.page(found, limit, _LIST, lambda row: [row.id])


def ending(database: Database, organization_id: str | None, *, after: float, before: float, limit: int) -> list[KeyRow]:
    """Return the oldest of the keys that expire between two times; of one organization where one is given."""
    is_soon = (KeyTable.expires_at > after) & (KeyTable.expires_at < before)
    query = _of(organization_id).where(is_soon).order_by(KeyTable.id).limit(limit)
    return [row_of(KeyRow, row) for row in query.tuples().execute(database)]


def insert(database: Database, row: KeyRow) -> KeyRow:
    """Store a new key."""
    KeyTable.insert(msgspec.structs.asdict(row) | {"role": row.role.value}).execute(database)
    return row


def insert_first(database: Database, row: KeyRow, entry: AuditEntry) -> bool:
    """Store a key, and who made it, if the journal holds none yet; return whether it did."""
    if KeyTable.select().exists(database):
        return False
    insert(database, row)
    audit.append(database, entry, *about(row))
    return True


def revoke(database: Database, key_id: str, organization_id: str | None) -> KeyRow:
    """Remove a key and return it; Rejected NOT_FOUND, for another organization's key too."""
    query = _of(organization_id).where(KeyTable.id == key_id)
    for values in list(query.tuples().execute(database)):
        KeyTable.delete().where(KeyTable.id == key_id).execute(database)
        return row_of(KeyRow, values)
    raise Rejected(ErrorCode.NOT_FOUND, f"there is no API key {key_id}")


def note_uses(database: Database, uses: Mapping[str, float]) -> None:
    """Store when keys were used last; one that has been revoked since is none any more."""
    for key_id, at in uses.items():
        KeyTable.update({"last_used_at": at}).where(KeyTable.id == key_id).execute(database)


def about(row: KeyRow) -> tuple[str, str | None]:
    """Return the name of a key in the audit log, and its organization."""
    return row.id, row.organization_id


def _of(organization_id: str | None) -> Query:
    query = KeyTable.select(*_COLUMNS)
    return query if organization_id is None else query.where(KeyTable.organization_id == organization_id)

"""Queries on API keys, of which the journal stores only hashes."""

from collections.abc import Mapping

import msgspec
from peewee import Database, Query

from webhookd.base.models import Role
from webhookd.journal.audit_entries import AuditEntry
from webhookd.journal.queries import audit
from webhookd.journal.queries.locks import lock, take_turn
from webhookd.journal.queries.schema import KeyTable
from webhookd.journal.queries.structs import Rows, narrowed
from webhookd.journal.rows import KeyRow, RowPage

_ROWS = Rows(KeyRow, KeyTable)
_ROLES = [role.value for role in Role]


def _known() -> Query:
    """Return the query for the keys whose role this version knows: one with a newer role opens nothing here."""
    return _ROWS.select().where(KeyTable.role.in_(_ROLES))


def all(database: Database) -> list[KeyRow]:  # noqa: A001 - reads as keys.all
    """Return every key, oldest first, expired ones included."""
    return _ROWS.all(database, _known().order_by(KeyTable.id))


def page(database: Database, organization_id: str | None, *, limit: int, cursor: str | None) -> RowPage[KeyRow]:
    """Return a page of the keys, newest first; of one organization if it is given. Raises Rejected INVALID_CURSOR."""
    query = narrowed(_known(), (KeyTable.organization_id, organization_id))
    return _ROWS.page(
        database,
        query,
        KeyTable.id,
        limit=limit,
        list_name="keys",
        cursor=cursor,
        descending=True,
        kind=tuple[str],
    )


def ending(database: Database, organization_id: str | None, *, after: float, before: float, limit: int) -> list[KeyRow]:
    """Return the oldest keys that expire between two times; of one organization if it is given."""
    query = narrowed(_known(), (KeyTable.organization_id, organization_id))
    is_soon = (KeyTable.expires_at > after) & (KeyTable.expires_at < before)
    return _ROWS.all(database, query.where(is_soon).order_by(KeyTable.id).limit(limit))


def find(database: Database, key_id: str) -> KeyRow | None:
    """Return a key, or None if it has been revoked."""
    return _ROWS.find(database, _known().where(KeyTable.id == key_id))


def insert(database: Database, row: KeyRow) -> KeyRow:
    """Store a new key."""
    KeyTable.insert(msgspec.structs.asdict(row)).execute(database)
    return row


def insert_first(database: Database, row: KeyRow, entry: AuditEntry) -> bool:
    """Store a key with its audit entry if the journal has no key yet; return whether it did."""
    take_turn(database)
    if KeyTable.select().exists(database):
        return False
    insert(database, row)
    audit.append(database, entry, *about(row))
    return True


def revoke(database: Database, key_id: str, organization_id: str | None) -> KeyRow:
    """Delete a key and return it; raises Rejected NOT_FOUND, also for another organization's key if one is given."""
    lock(database, KeyTable.id == key_id, KeyTable.id)
    query = narrowed(_known(), (KeyTable.id, key_id), (KeyTable.organization_id, organization_id))
    row = _ROWS.get(database, query, f"there is no API key {key_id}")
    KeyTable.delete().where(KeyTable.id == key_id).execute(database)
    return row


def note_uses(database: Database, uses: Mapping[str, float]) -> None:
    """Store when keys were used last; ids of keys that have been revoked are ignored."""
    for key_id, at in sorted(uses.items()):
        KeyTable.update({"last_used_at": at}).where(KeyTable.id == key_id).execute(database)


def about(row: KeyRow) -> tuple[str, str | None]:
    """Return the object that the audit log names for a key, and its organization."""
    return row.id, row.organization_id

"""The audit log: who changed what, added in the transaction of the change itself and chained by hashes.

The hash of an entry is SHA-256 over the hash before it (32 zero bytes before the first) and the entry's canonical
bytes: what is altered, taken out or put in afterwards shows at its place. Triggers refuse to change or remove a row.
An entry names fields, never what is in them.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec
from peewee import Database

from webhookd.base.stages import reached
from webhookd.journal import cursors
from webhookd.journal.audit_entries import Action, AuditEntry, AuditRow, Chain
from webhookd.journal.queries.schema import AuditTable
from webhookd.journal.rows import RowPage, row_of

P = ParamSpec("P")
T = TypeVar("T")

GENESIS = bytes(32)

_LIST = "audit"


_COLUMNS = [getattr(AuditTable, name) for name in AuditRow.__struct_fields__]
_HASHED = len(_COLUMNS) - 1  # all but the hash, which is the last


def recorded(
    change: Callable[Concatenate[Database, P], T],
    entry: AuditEntry | None,
    about: Callable[[T], tuple[str, str | None]],
) -> Callable[Concatenate[Database, P], T]:
    """Return `change` together with its entry: one commit has both or neither.

    `about` finds the object and its organization in the result. Without an entry nobody asked for the change.
    """
    if entry is None:
        return change

    def run(database: Database, /, *args: P.args, **kwargs: P.kwargs) -> T:
        result = change(database, *args, **kwargs)
        append(database, entry, *about(result))
        return result

    return run


def append(database: Database, entry: AuditEntry, what: str, organization_id: str | None) -> None:
    """Add an entry; for use inside the transaction of what it tells of."""
    last = AuditTable.select(AuditTable.sequence, AuditTable.hash).order_by(AuditTable.sequence.desc()).limit(1)
    sequence, before = next(iter(last.tuples().execute(database)), (0, GENESIS))
    actor = entry.actor
    values = (
        sequence + 1,
        entry.at,
        actor.kind.value,
        actor.id,
        None if actor.role is None else actor.role.value,
        entry.action.value,
        what,
        organization_id,
        entry.request_id,
        json.dumps(entry.fields),
    )
    row = dict(zip(AuditRow.__struct_fields__, (*values, chained(bytes(before), values)), strict=True))
    AuditTable.insert(row).execute(database)
    reached("change.written")


def chained(before: bytes, entry: Sequence[object]) -> bytes:
    """Return the hash of an entry, given as its columns in their order, after the hash before it."""
    canonical = json.dumps(list(entry), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(before + canonical.encode()).digest()


def page(
    database: Database,
    organization_id: str | None,
    *,
    actor: str | None = None,
    action: Action | None = None,
    what: str | None = None,
    since: float | None = None,
    until: float | None = None,
    limit: int,
    cursor: str | None = None,
) -> RowPage[AuditRow]:
    """Return a page of the log, newest first; of one organization where one is given."""
    query = AuditTable.select(*_COLUMNS).order_by(AuditTable.sequence.desc()).limit(limit + 1)
    for column, wanted in (
        (AuditTable.organization_id, organization_id),
        (AuditTable.actor, actor),
        (AuditTable.action, None if action is None else action.value),
        (AuditTable.object, what),
    ):
        if wanted is not None:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(AuditTable.at >= since)
    if until is not None:
        query = query.where(AuditTable.at < until)
    if cursor is not None:
        (last,) = cursors.decode(cursor, _LIST, tuple[cursors.Number])
        query = query.where(AuditTable.sequence < last)
    found = [_entry(row) for row in query.tuples().execute(database)]
    return cursors.page(found, limit, _LIST, lambda row: [row.sequence])


def verify(database: Database) -> Chain:
    """Follow the chain from its start to its end, or to where it breaks."""
    entries, head = 0, GENESIS
    for row in _stored(database):
        if row[0] != entries + 1:
            gap = f"entry {entries + 1} is missing" if row[0] > entries + 1 else f"entry {row[0]} has no place there"
            return Chain(entries=entries, head=head, broken=gap)
        if not _holds(row, head):
            broken = f"entry {row[0]} ({row[5]} of {row[6]}) isn't what was written, or an entry before it isn't"
            return Chain(entries=entries, head=head, broken=broken)
        entries, head = entries + 1, bytes(row[_HASHED])
    counter = database.execute_sql("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
    missing = (0 if counter is None else counter[0]) - entries
    cut = f"entry {entries + 1} is missing: {missing} at the end were taken out" if missing > 0 else None
    return Chain(entries=entries, head=head, broken=cut)


def last_sequence(database: Database) -> int:
    """Return the number of the last entry, 0 without any."""
    return int(database.execute_sql("SELECT coalesce(max(sequence), 0) FROM audit").fetchone()[0])


def _stored(database: Database) -> Iterator[Sequence[Any]]:
    # Past peewee, which would hold every row until the last.
    names = ", ".join(AuditRow.__struct_fields__)
    return iter(database.execute_sql(f"SELECT {names} FROM audit ORDER BY sequence"))  # noqa: S608 - names of columns


def _holds(row: Sequence[Any], before: bytes) -> bool:
    try:
        return bool(row[_HASHED] == chained(before, row[:_HASHED]))
    except (TypeError, ValueError):  # a value of a kind that was never written
        return False


def _entry(row: Sequence[Any]) -> AuditRow:
    values = dict(zip(AuditRow.__struct_fields__, row, strict=True))
    return row_of(AuditRow, row, fields=tuple(msgspec.json.decode(values["fields"])))

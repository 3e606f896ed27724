"""The audit log: who changed what, added in the transaction of the change itself and chained by hashes.

The hash of an entry is SHA-256 over the hash of the entry before it (32 zero bytes for the first) and the entry's
canonical bytes, so an entry that is changed, removed or inserted later is found at its place. Triggers refuse to change
or delete a row. An entry contains the names of fields, never their values.
"""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Concatenate, ParamSpec, TypeVar

from peewee import Database, Value

from webhookd.base.stages import reached
from webhookd.journal.audit_entries import Action, AuditEntry, AuditRow, Chain
from webhookd.journal.queries.dialect import EngineSQL, is_postgres, statements
from webhookd.journal.queries.locks import take_turn
from webhookd.journal.queries.schema import AuditTable
from webhookd.journal.queries.structs import Rows, narrowed
from webhookd.journal.rows import RowPage

P = ParamSpec("P")
T = TypeVar("T")

GENESIS = bytes(32)


_ROWS = Rows(AuditRow, AuditTable)
_HASHED = len(_ROWS.columns) - 1  # all columns but the hash, which is the last
_NAMES = ", ".join(AuditRow.__struct_fields__)
_ROWS_A_PART = 1000

# The last entry's number, also if that entry was deleted: SQLite remembers it, on PostgreSQL it has a row.
_COUNTER = EngineSQL(
    sqlite="SELECT seq FROM sqlite_sequence WHERE name = 'audit'",
    postgres="SELECT number FROM heads WHERE name = 'audit'",
)
_HEAD = "SELECT number, coalesce(hash, decode(repeat('00', 32), 'hex')) FROM heads WHERE name = 'audit'"
_SET_HEAD = "UPDATE heads SET number = ?, hash = ? WHERE name = 'audit'"


def recorded(
    change: Callable[Concatenate[Database, P], T],
    entry: AuditEntry | None,
    about: Callable[[T], tuple[str, str | None]],
) -> Callable[Concatenate[Database, P], T]:
    """Return a function that makes a change and appends its audit entry, both in one commit.

    `about` returns the object and its organization from the change's result. Without an entry it is `change` itself.
    """
    if entry is None:
        return change

    def run(database: Database, /, *args: P.args, **kwargs: P.kwargs) -> T:
        take_turn(database)  # first of all locks
        result = change(database, *args, **kwargs)
        append(database, entry, *about(result))
        return result

    return run


def append(database: Database, entry: AuditEntry, what: str, organization_id: str | None) -> None:
    """Append an entry about the object `what`, in the transaction of the change itself."""
    sequence, before = _last(database)
    actor = entry.actor
    values = (
        sequence + 1,
        entry.at,
        actor.kind,
        actor.id,
        actor.role,
        entry.action,
        what,
        organization_id,
        entry.request_id,
        json.dumps(entry.fields),
    )
    digest = chained(before, values)
    row = dict(zip(AuditRow.__struct_fields__, (*values, digest), strict=True))
    # The text that the hash is over, unchanged.
    AuditTable.insert(row | {"fields": Value(row["fields"], converter=False)}).execute(database)
    if is_postgres(database):
        statements(database).execute(_SET_HEAD, (sequence + 1, digest))
    reached("change.written")


def chained(before: bytes, entry: Sequence[object]) -> bytes:
    """Return the hash of an entry, given as its columns in order, after the entry whose hash is `before`."""
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
    """Return a page of the log, newest first; of one organization if it is given."""
    query = narrowed(
        _ROWS.select(),
        (AuditTable.organization_id, organization_id),
        (AuditTable.actor, actor),
        (AuditTable.action, action),
        (AuditTable.object, what),
    )
    if since is not None:
        query = query.where(AuditTable.at >= since)
    if until is not None:
        query = query.where(AuditTable.at < until)
    sequence = AuditTable.sequence
    return _ROWS.page(database, query, sequence, limit=limit, list_name="audit", cursor=cursor, descending=True)


def verify(database: Database) -> Chain:
    """Check the chain from its start to its end, or to where it breaks."""
    entries, head = 0, GENESIS
    for row in _stored(database):
        if row[0] != entries + 1:
            gap = f"entry {entries + 1} is missing" if row[0] > entries + 1 else f"entry {row[0]} has no place there"
            return Chain(entries=entries, head=head, broken=gap)
        if not _holds(row, head):
            broken = f"entry {row[0]} ({row[5]} of {row[6]}) isn't what was written, or an entry before it isn't"
            return Chain(entries=entries, head=head, broken=broken)
        entries, head = entries + 1, bytes(row[_HASHED])
    counter = database.execute_sql(_COUNTER.on(database)).fetchone()
    missing = (0 if counter is None else counter[0]) - entries
    cut = f"entry {entries + 1} is missing: {missing} at the end were taken out" if missing > 0 else None
    return Chain(entries=entries, head=head, broken=cut)


def last_sequence(database: Database) -> int:
    """Return the number of the last entry, 0 if there is none."""
    return int(database.execute_sql("SELECT coalesce(max(sequence), 0) FROM audit").fetchone()[0])


def _last(database: Database) -> tuple[int, bytes]:
    """Return the number and the hash of the last entry; no other entry is appended before this transaction ends."""
    if is_postgres(database):
        take_turn(database)
        last = database.execute_sql(_HEAD).fetchone()
    else:
        query = AuditTable.select(AuditTable.sequence, AuditTable.hash).order_by(AuditTable.sequence.desc()).limit(1)
        last = next(iter(query.tuples().execute(database)), None)
    return (0, GENESIS) if last is None else (last[0], bytes(last[1]))


def _stored(database: Database) -> Iterator[Sequence[Any]]:
    # In parts, and without peewee's query: neither it nor a cursor of PostgreSQL's keeps all rows in memory.
    last: list[int] = []
    while True:
        where = "WHERE sequence > ?" if last else ""
        sql = f"SELECT {_NAMES} FROM audit {where} ORDER BY sequence LIMIT {_ROWS_A_PART}"  # noqa: S608 - names of columns
        rows = list(statements(database).execute(sql, last))
        yield from rows
        if len(rows) < _ROWS_A_PART:
            return
        last = [rows[-1][0]]


def _holds(row: Sequence[Any], before: bytes) -> bool:
    try:
        return bool(row[_HASHED] == chained(before, row[:_HASHED]))
    except (TypeError, ValueError):  # a value of a kind that was never written
        return False

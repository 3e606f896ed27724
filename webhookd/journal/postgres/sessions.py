"""The sessions of the dashboard that several nodes share: sealed rows, with the times of the database.

Rows are added in turns, so the bounds of their number hold whichever nodes add them. What belongs to a session is
sealed for its key, which is the hash of the cookie's value; its caller is named outside as well, to be counted.
"""

from collections.abc import Callable
from typing import TypeVar

from peewee import Database

from webhookd.base.errors import MasterKeyError
from webhookd.crypto.vault import Vault
from webhookd.journal.queries.dialect import statements
from webhookd.journal.queries.locks import hold_master_key, take_turn
from webhookd.journal.queries.sealing import resealed
from webhookd.journal.session_rows import NewSession, SessionLimits, StoredSession
from webhookd.observe.logs import get_logger

T = TypeVar("T")

_NOW = "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"
_IS_OPEN = f"used_at > {_NOW} - :idle_seconds AND ends_at > {_NOW}"
_FIND = f"SELECT sealed, greatest({_NOW} - used_at, 0) FROM sessions WHERE key = :key AND {_IS_OPEN}"
# Each in the order of the key, as all who lock more than one row.
_DELETE = "DELETE FROM sessions WHERE key IN (SELECT key FROM sessions WHERE {} ORDER BY key FOR UPDATE)"
_DELETE_OVER = _DELETE.format(f"NOT ({_IS_OPEN})")
_DELETE_OF = _DELETE.format("place = ?")
_COUNT = "SELECT count(*), count(*) FILTER (WHERE place = ?) FROM sessions"
_GREATEST_SHARE = "SELECT share FROM sessions GROUP BY share ORDER BY count(*) DESC, share LIMIT 1"
_DELETE_OLDEST = (
    "DELETE FROM sessions WHERE key IN (SELECT key FROM sessions WHERE {} = ? ORDER BY used_at, key LIMIT ?)"
)
_ADD = f"""
INSERT INTO sessions (key, place, share, sealed, used_at, ends_at)
VALUES (:key, :place, :share, :sealed, {_NOW}, least({_NOW} + :longest_seconds, CAST(:expires_at AS double precision)))
"""
_NOTE_USE = f"UPDATE sessions SET used_at = {_NOW} WHERE key = :key AND used_at < {_NOW} - :seconds"
_LOCK = "SELECT sealed FROM sessions WHERE key = ? FOR UPDATE"
_SET = "UPDATE sessions SET sealed = ? WHERE key = ?"
_END = "DELETE FROM sessions WHERE key = ?"
_FORGET = f"""
DELETE FROM sessions WHERE key IN (SELECT key FROM sessions WHERE ends_at <= {_NOW} FOR UPDATE SKIP LOCKED)
"""
_NEXT = "SELECT key, sealed FROM sessions WHERE key > ? ORDER BY key LIMIT ? FOR UPDATE"

_log = get_logger("journal")


def begin(database: Database, vault: Vault, new: NewSession, content: bytes, limits: SessionLimits) -> None:
    """Add a session; at a bound, the one that was unused the longest ends: the caller's, or the greatest share's."""
    take_turn(database)
    hold_master_key(database, vault)
    run = statements(database).execute
    run(_DELETE_OVER, {"idle_seconds": limits.idle_seconds})
    [[all_open, own]] = run(_COUNT, (new.place,))
    if own >= limits.most_of_one_caller:
        run(_DELETE_OLDEST.format("place"), (new.place, own - limits.most_of_one_caller + 1))
    elif all_open >= limits.most:
        [[greatest]] = run(_GREATEST_SHARE)
        run(_DELETE_OLDEST.format("share"), (greatest, 1))
    values = {"key": new.key, "place": new.place, "share": new.share, "expires_at": new.expires_at}
    sealed = vault.encrypt(content, context=_context(new.key))
    run(_ADD, values | {"sealed": sealed, "longest_seconds": limits.longest_seconds})


def find(database: Database, key: bytes, idle_seconds: float) -> tuple[bytes, float] | None:
    """Return what is sealed of an open session, and how many seconds ago it was used as far as that is stored."""
    found = list(statements(database).execute(_FIND, {"key": key, "idle_seconds": idle_seconds}))
    return (bytes(found[0][0]), float(found[0][1])) if found else None


def opened(vault: Vault, key: bytes, found: tuple[bytes, float] | None) -> StoredSession | None:
    """Return a session that was found; None if it doesn't open, which is logged."""
    if found is None:
        return None
    try:
        content = vault.decrypt(found[0], context=_context(key))
    except MasterKeyError as error:
        _log.error("secret.does_not_open", place="sessions", error=str(error))
        return None
    return StoredSession(content=content, idle_seconds=found[1])


def note_use(database: Database, key: bytes, seconds: float) -> None:
    """Store that a session is used now, unless that was stored less than `seconds` ago."""
    statements(database).execute(_NOTE_USE, {"key": key, "seconds": seconds})


def change(database: Database, vault: Vault, key: bytes, changed: Callable[[bytes], tuple[bytes, T]]) -> T | None:
    """Store what `changed` makes of a session, and return its result; None once the session has ended."""
    hold_master_key(database, vault)
    run = statements(database).execute
    found = list(run(_LOCK, (key,)))
    if not found:
        return None
    content, result = changed(vault.decrypt(bytes(found[0][0]), context=_context(key)))
    run(_SET, (vault.encrypt(content, context=_context(key)), key))
    return result


def end(database: Database, key: bytes) -> None:
    """Delete a session, which may have been deleted already."""
    statements(database).execute(_END, (key,))


def end_all_of(database: Database, place: str) -> None:
    """Delete all sessions of a caller."""
    statements(database).execute(_DELETE_OF, (place,))


def forget(database: Database) -> None:
    """Delete the sessions whose time is over; those that were not used for too long go with the next sign-in."""
    statements(database).execute(_FORGET)


def reseal(database: Database, vault: Vault, after: bytes, limit: int) -> tuple[bytes | None, int]:
    """Seal the next sessions with the vault's key; return the key of the last one (None: all are done) and a count."""
    hold_master_key(database, vault)
    run = statements(database).execute
    rows = [(bytes(key), bytes(sealed)) for key, sealed in run(_NEXT, (after, limit))]
    count = 0
    for key, sealed in rows:
        if (again := resealed(vault, sealed, _context(key))) is not None:
            run(_SET, (again, key))
            count += 1
    return (rows[-1][0] if len(rows) == limit else None), count


def _context(key: bytes) -> str:
    return f"sessions:sealed:{key.hex()}"

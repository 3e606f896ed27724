"""The changes of settings that nodes tell each other: each is a row, numbered in the order of commits.

A change takes its number at its beginning, with the row of the last number, so the next change waits for its commit,
and a node that has read a number has read all lower ones. A publishing transaction reads the last number: if this node
has not followed up to it, the targets of the events may be wrong, and are found again first. So a new webhook gets
every event whose transaction begins after its own has been committed, on every node.

A database that was restored, or has lost its last commits in a failover, gives numbers out again. So each change has a
random token, too, and the one of the change before it. Where what follows isn't the next change after the last one
that a node knows, by number and token, the node reads all settings again.
"""

import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from msgspec import Struct
from peewee import Database
from psycopg import Connection

from webhookd.journal.feed import (
    EventTypeAdded,
    EventTypeRemoved,
    Feed,
    KeyAdded,
    KeyRevoked,
    MasterKeyChanged,
    ReplayAdded,
    Setting,
    SettingsReread,
    WebhookChanged,
    WebhookChangedElsewhere,
    WebhookDeleted,
)
from webhookd.journal.operations import ChangeMark
from webhookd.journal.queries import endpoints, event_types, keys, master_key
from webhookd.journal.rows import KeyRow
from webhookd.observe.logs import get_logger

CHANGES_A_READ = 500

_WEBHOOK, _EVENT_TYPE, _KEY, _MASTER_KEY, _REPLAY = "webhook", "event_type", "key", "master_key", "replay"
_log = get_logger("nodes")

LAST = "SELECT number, coalesce(hash, '') FROM heads WHERE name = 'changes'"
_NEXT = "UPDATE heads SET number = %s, hash = %s WHERE name = 'changes'"
_ADD = """
INSERT INTO changes (number, token, previous, kind, object, at)
VALUES (%s, %s, %s, %s, %s, extract(epoch FROM clock_timestamp()))
"""
_FIND = "SELECT number, token, previous, kind, object FROM changes WHERE number > %s ORDER BY number LIMIT %s"
_TOKEN_BYTES = 16
_FORGET = "DELETE FROM changes WHERE at < extract(epoch FROM clock_timestamp()) - %s"


class Followed(Struct, frozen=True):
    """A change that another node has made."""

    mark: ChangeMark
    change: Setting | None


class Reread(Struct, frozen=True):
    """All settings as of a change; what was known before isn't a past of it, or too long ago."""

    mark: ChangeMark
    settings: SettingsReread
    master_key: MasterKeyChanged | None


def take_mark(connection: "Connection[Any]") -> tuple[ChangeMark, ChangeMark]:
    """Return the last change and the one that this transaction makes; later changes wait for its commit."""
    [[number, token]] = connection.execute(f"{LAST} FOR UPDATE").fetchall()
    mark = ChangeMark(number + 1, secrets.token_bytes(_TOKEN_BYTES))
    connection.execute(_NEXT, mark)
    return ChangeMark(number, token), mark


def add(connection: "Connection[Any]", before: ChangeMark, mark: ChangeMark, change: Setting) -> None:
    """Store what was changed under a mark of this transaction."""
    match change:
        case WebhookChanged() | WebhookChangedElsewhere() | WebhookDeleted():
            kind, named = _WEBHOOK, str(change.endpoint.pk)
        case EventTypeAdded(name) | EventTypeRemoved(name):
            kind, named = _EVENT_TYPE, name
        case KeyAdded(key):
            kind, named = _KEY, key.id
        case KeyRevoked(key_id):
            kind, named = _KEY, key_id
        case MasterKeyChanged(_, _, resealed):
            kind, named = _MASTER_KEY, str(resealed)
        case ReplayAdded(endpoint_pk):
            kind, named = _REPLAY, str(endpoint_pk)
    connection.execute(_ADD, (*mark, before.token, kind, named))


def read_last(database: Database) -> ChangeMark:
    """Return the last change."""
    number, token = database.execute_sql(LAST).fetchone()
    return ChangeMark(int(number), bytes(token))


def read(database: Database, after: ChangeMark, passed_over: frozenset[bytes]) -> list[Followed] | Reread:
    """Return the next changes after one, as what they have changed is now.

    Those whose tokens are in `passed_over` are without content. If the next change isn't the one that followed `after`,
    because it was deleted or this database has had another past, return all settings instead.
    """
    rows = database.execute_sql(_FIND, (after.number, CHANGES_A_READ)).fetchall()
    if rows:
        number, _, previous = rows[0][:3]
        is_next = number == after.number + 1 and bytes(previous) == after.token
    else:
        is_next = read_last(database) == after
    if not is_next:
        return _read_all(database)
    return [
        Followed(
            ChangeMark(number, bytes(token)), None if bytes(token) in passed_over else _change(database, kind, named)
        )
        for number, token, _, kind, named in rows
    ]


def _read_all(database: Database) -> Reread:
    settings = SettingsReread(
        endpoints=endpoints.all(database),
        event_types=[row.name for row in event_types.all(database)],
        keys=keys.all(database),
    )
    return Reread(read_last(database), settings, _master_key(database))


def forget(database: Database, seconds: float) -> None:
    """Delete the changes that are older than that: every node has followed them, or was cut off for all that time."""
    database.execute_sql(_FORGET, (seconds,))


def _change(database: Database, kind: str, named: str) -> Setting | None:
    if kind == _WEBHOOK:
        endpoint, is_deleted = endpoints.by_pk(database, int(named))
        return WebhookDeleted(endpoint) if is_deleted else WebhookChangedElsewhere(endpoint)
    if kind == _EVENT_TYPE:
        return EventTypeAdded(named) if event_types.find(database, named) is not None else EventTypeRemoved(named)
    if kind == _KEY:
        key: KeyRow | None = keys.find(database, named)
        return KeyAdded(key) if key is not None else KeyRevoked(named)
    if kind == _MASTER_KEY:
        return _master_key(database, int(named))
    if kind == _REPLAY:
        return ReplayAdded(int(named))
    return None  # of a later version, which this one need not know


def _master_key(database: Database, resealed: int = 0) -> MasterKeyChanged | None:
    key_id = master_key.sealing_key_id(database)
    return None if key_id is None else MasterKeyChanged(key_id, master_key.is_resealed(database), resealed)


class ChangeFollower:
    """Announces in this process's feed what other nodes change.

    `read_changes` runs `read` on a snapshot. A change of this process is announced by itself, and `pass_over` says so.
    `steady` is a clock that goes on while the machine sleeps.
    """

    def __init__(
        self,
        feed: Feed,
        mark: ChangeMark,
        read_changes: Callable[[ChangeMark, frozenset[bytes]], Awaitable[list[Followed] | Reread]],
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.mark = mark
        """All changes up to this one are known to this process."""
        self._steady = steady
        self._current_at = steady()
        self._feed = feed
        self._read = read_changes
        self._own: set[bytes] = set()
        self._passed_over = 0
        self._one_reader = trio.Lock()

    @property
    def seconds_behind(self) -> float:
        """How long ago this process knew all changes of that moment."""
        return self._steady() - self._current_at

    def pass_over(self, before: ChangeMark, mark: ChangeMark) -> None:
        """Note that this process has announced a change; `before` is the one before it."""
        self._passed_over += 1
        if before == self.mark:
            self.mark = mark
        elif mark.number > self.mark.number:
            self._own.add(mark.token)

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Announce nothing until the block ends."""
        async with self._one_reader:
            yield

    async def follow(self) -> None:
        """Announce all changes up to the last one that is committed by now."""
        async with self._one_reader:
            while True:
                passed_over, began_at = self._passed_over, self._steady()
                found = await self._read(self.mark, frozenset(self._own))
                if isinstance(found, Reread):
                    if self._passed_over != passed_over:
                        continue  # what this process has announced meanwhile may be newer
                    _log.warning("node.settings_reread", webhooks=len(found.settings.endpoints))
                    self._own.clear()
                    self.mark = found.mark
                    self._feed.announce(found.settings)
                    if found.master_key is not None:
                        self._feed.announce(found.master_key)
                    self._current_at = began_at
                    return
                for followed in found:
                    if followed.mark.number <= self.mark.number:
                        continue  # this process has made it meanwhile
                    if followed.change is not None and followed.mark.token not in self._own:
                        self._feed.announce(followed.change)
                    self._own.discard(followed.mark.token)
                    self.mark = followed.mark
                if len(found) < CHANGES_A_READ:
                    self._current_at = began_at
                    return

"""The changes of settings that nodes tell each other: each is a row, numbered in the order of commits.

A change takes its number at its beginning, with the row of the last number, so the next change waits for its commit,
and a node that has read a number has read all lower ones. A publishing transaction reads the last number: if this node
has not followed up to it, the targets of the events may be wrong, and are found again first. So a new webhook gets
every event whose transaction begins after its own has been committed, on every node.
"""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from msgspec import Struct
from peewee import Database
from psycopg import Connection

from webhookd.base.errors import JournalError
from webhookd.journal.feed import (
    EventTypeAdded,
    EventTypeRemoved,
    Feed,
    KeyAdded,
    KeyRevoked,
    MasterKeyChanged,
    ReplayAdded,
    Setting,
    WebhookChanged,
    WebhookChangedElsewhere,
    WebhookDeleted,
)
from webhookd.journal.queries import endpoints, event_types, keys, master_key
from webhookd.journal.rows import KeyRow

CHANGES_A_READ = 500

_WEBHOOK, _EVENT_TYPE, _KEY, _MASTER_KEY, _REPLAY = "webhook", "event_type", "key", "master_key", "replay"

LAST = "SELECT number FROM heads WHERE name = 'changes'"
_NEXT = "UPDATE heads SET number = number + 1 WHERE name = 'changes' RETURNING number"
_ADD = "INSERT INTO changes (number, kind, object, at) VALUES (%s, %s, %s, extract(epoch FROM clock_timestamp()))"
_FIND = "SELECT number, kind, object FROM changes WHERE number > %s ORDER BY number LIMIT %s"
_FORGET = "DELETE FROM changes WHERE at < extract(epoch FROM clock_timestamp()) - %s"


class Followed(Struct, frozen=True):
    """A change that another node has made, with its number."""

    number: int
    change: Setting | None


def take_number(connection: "Connection[Any]") -> int:
    """Return the number of the change that this transaction makes; later changes wait for its commit."""
    [[number]] = connection.execute(_NEXT).fetchall()
    return int(number)


def add(connection: "Connection[Any]", number: int, change: Setting) -> None:
    """Store what was changed under a number of this transaction."""
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
    connection.execute(_ADD, (number, kind, named))


def read_last(database: Database) -> int:
    """Return the number of the last change."""
    return int(database.execute_sql(LAST).fetchone()[0])


def read(database: Database, after: int, passed_over: frozenset[int]) -> list[Followed]:
    """Return the next changes after a number, as what they have changed is now; without content for `passed_over`.

    Raises JournalError if some of them have been deleted, so that this process can't know any more what is true.
    """
    rows = database.execute_sql(_FIND, (after, CHANGES_A_READ)).fetchall()
    if (rows[0][0] if rows else read_last(database) + 1) > after + 1:
        raise JournalError("this node was cut off for so long that it has missed changes of settings: start it again")
    return [
        Followed(number, None if number in passed_over else _change(database, kind, named))
        for number, kind, named in rows
    ]


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
        key_id = master_key.sealing_key_id(database) or ""
        return MasterKeyChanged(key_id, master_key.is_resealed(database), int(named))
    if kind == _REPLAY:
        return ReplayAdded(int(named))
    return None  # of a later version, which this one need not know


class ChangeFollower:
    """Announces in this process's feed what other nodes change.

    `read_changes` runs `read` on a snapshot. A change of this process is announced by itself, and `pass_over` says so.
    `steady` is a clock that goes on while the machine sleeps.
    """

    def __init__(
        self,
        feed: Feed,
        number: int,
        read_changes: Callable[[int, frozenset[int]], Awaitable[list[Followed]]],
        *,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        self.number = number
        """All changes up to this one are known to this process."""
        self._steady = steady
        self._current_at = steady()
        self._feed = feed
        self._read = read_changes
        self._own: set[int] = set()
        self._one_reader = trio.Lock()

    @property
    def seconds_behind(self) -> float:
        """How long ago this process knew all changes of that moment."""
        return self._steady() - self._current_at

    def pass_over(self, number: int) -> None:
        """Note that this process has announced the change with this number."""
        if number == self.number + 1:
            self.number = number
        elif number > self.number:
            self._own.add(number)

    @asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Announce nothing until the block ends."""
        async with self._one_reader:
            yield

    async def follow(self) -> None:
        """Announce all changes up to the last one that is committed by now."""
        async with self._one_reader:
            while True:
                after, began_at = self.number, self._steady()
                found = await self._read(after, frozenset(self._own))
                for followed in found:
                    if followed.number <= self.number:
                        continue  # this process has made it meanwhile
                    if followed.change is not None and followed.number not in self._own:
                        self._feed.announce(followed.change)
                    self._own.discard(followed.number)
                    self.number = followed.number
                if len(found) < CHANGES_A_READ:
                    self._current_at = began_at
                    return

"""Wake-ups between nodes: who queues a delivery tells the node that drives its endpoint.

A notification is a hint: it may be lost with a connection. So once a second each node reads the last sequences of the
endpoints that it drives, and the number of the last change; a gap in a queue is read anyway. What is to be told is
gathered for 10 ms and sent after the commit, on a connection that doesn't sync: NOTIFY in a transaction that does
would hold a lock of the whole cluster until the disk has it.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeVar

import trio
from psycopg import Connection

from webhookd.base.errors import ReadTimeoutError
from webhookd.base.models import QueuedDelivery
from webhookd.journal.errors import ConnectionLostError, JournalFullError, MustRepeatError
from webhookd.journal.feed import DatabaseReplaced, Feed, QueueGrown, QueuesFound
from webhookd.journal.ownership import Ownership, slot_of
from webhookd.journal.postgres.database import PostgresDatabase
from webhookd.journal.postgres.outages import OutageLog
from webhookd.journal.runners import Runner

T = TypeVar("T")

CHANNEL = "webhookd"
CHANGED = "changed"
GATHER_SECONDS = 0.01
PAUSE_SECONDS = 1.0
MOST_BYTES = 7900  # of a notification: PostgreSQL takes 8,000

_LISTEN = f"LISTEN {CHANNEL}"
_NOTIFY = "SELECT pg_notify(%s, %s)"
_LOOK = "SELECT endpoint_pk, last, edition FROM sequences WHERE slot = ANY(%s)"

_LISTENING, _LOOKING = "listener", "look"
_OUTAGES = (ConnectionLostError, MustRepeatError, ReadTimeoutError, JournalFullError)


class Wakes:
    """Tells other nodes of deliveries and changes, and this one of theirs, while `run` runs.

    `connect_listener` and `connect_notifier` open their connections. `changed` is called when another node may have
    changed settings, and every `look_seconds`. `outages` has in the log that neither is possible.
    """

    def __init__(
        self,
        connect_listener: Callable[[], PostgresDatabase],
        connect_notifier: Callable[[], PostgresDatabase],
        runner: Runner,
        feed: Feed,
        ownership: Ownership,
        *,
        outages: OutageLog,
        slots: Callable[[], frozenset[int]],
        changed: Callable[[], Awaitable[None]],
        look_seconds: float,
        is_used: Callable[[PostgresDatabase], bool],
    ) -> None:
        self._connect_listener = connect_listener
        self._connect_notifier = connect_notifier
        self._runner = runner
        self._feed = feed
        self._ownership = ownership
        self._outages = outages
        self._slots = slots
        self._changed = changed
        self._look_seconds = look_seconds
        self._notifier: PostgresDatabase | None = None
        self._one_call = trio.Lock()
        self._to_tell: dict[int, int] = {}  # the last sequences, by endpoint
        self._has_changed = False
        self._has_news = trio.Event()
        self._looked_at: float | None = None
        self._seen: dict[int, tuple[int, int]] = {}  # the last sequence and edition of each endpoint; -1 if unknown
        self._is_used = is_used
        self._replaced = 0
        self._listening = trio.CancelScope()
        feed.follow(DatabaseReplaced, self._begin_again)

    @property
    def look_age_seconds(self) -> float | None:
        """How long ago this process looked for what others have queued and changed; None before the first time."""
        return None if self._looked_at is None else trio.current_time() - self._looked_at

    def queued(self, deliveries: Iterable[QueuedDelivery]) -> None:
        """Note that deliveries of this process were committed: the nodes that drive their endpoints are told."""
        for delivery in deliveries:
            if self._ownership.owns(delivery.endpoint_pk):
                self._note(delivery.endpoint_pk, delivery.sequence)
            else:
                self._to_tell[delivery.endpoint_pk] = delivery.sequence
        if self._to_tell:
            self._has_news.set()

    def requeued(self, endpoint_pk: int) -> None:
        """Note that something in an endpoint's queue was changed."""
        if not self._ownership.owns(endpoint_pk):
            self._to_tell.setdefault(endpoint_pk, 0)
            self._has_news.set()

    def settings_changed(self) -> None:
        """Note that this process has changed settings."""
        self._has_changed = True
        self._has_news.set()

    async def run(self) -> None:
        """Tell and listen until canceled."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._tell_on)
                nursery.start_soon(self._listen_on)
                nursery.start_soon(self._look_on)
        finally:
            if self._notifier is not None:
                self._notifier.close()

    async def _tell_on(self) -> None:
        while True:
            await self._has_news.wait()
            await trio.sleep(GATHER_SECONDS)
            self._has_news = trio.Event()
            told, self._to_tell = self._to_tell, {}
            has_changed, self._has_changed = self._has_changed, False
            texts = list(_notifications(told, has_changed=has_changed))
            # Those that aren't told look by themselves.
            with suppress(*_OUTAGES):
                await self._call(partial(_notify, texts))

    async def _listen_on(self) -> None:
        while True:
            database: PostgresDatabase | None = None
            try:
                database = await self._runner.run(self._connect_listener)
                await self._runner.run(partial(_begin_to_listen, database))
                await self._changed()  # what was told before nobody has heard
                self._outages.succeeded(_LISTENING)
                with trio.CancelScope() as self._listening:
                    await self._listen(database)
            except _OUTAGES as error:
                self._outages.failed(_LISTENING, error)
            finally:
                if database is not None:
                    database.close()
            await trio.sleep(PAUSE_SECONDS)

    def _begin_again(self, _: DatabaseReplaced) -> None:
        """Drop what is known of another database, and the connection that hears it."""
        self._seen.clear()
        self._replaced += 1
        self._listening.cancel()

    async def _listen(self, database: PostgresDatabase) -> None:
        """Hear until the connection is lost."""
        connection: Connection[Any] = database.connection()
        while True:
            with database.translated():
                connection.pgconn.consume_input()  # what has arrived; it doesn't wait
                while (notification := connection.pgconn.notifies()) is not None:
                    await self._hear(notification.extra.decode())
            await trio.lowlevel.wait_readable(connection.pgconn.socket)

    async def _hear(self, text: str) -> None:
        for part in text.split():
            if part == CHANGED:
                await self._changed()
                continue
            endpoint_pk, _, sequence = part.partition(":")
            self._heard(int(endpoint_pk), int(sequence))

    def _heard(self, endpoint_pk: int, sequence: int) -> None:
        last, _ = self._seen.get(endpoint_pk, (0, 0))
        if self._ownership.owns(endpoint_pk) and (sequence == 0 or sequence > last):
            self._note(endpoint_pk, sequence)
            self._feed.announce(QueueGrown(endpoint_pk))

    def _note(self, endpoint_pk: int, sequence: int) -> None:
        last, edition = self._seen.get(endpoint_pk, (0, -1))
        if sequence > last:
            self._seen[endpoint_pk] = (sequence, edition)

    async def _look_on(self) -> None:
        while True:
            await trio.sleep(self._look_seconds)
            began_at = trio.current_time()
            try:
                await self._changed()
                await self._look()
            except _OUTAGES as error:
                self._outages.failed(_LOOKING, error)
            else:
                self._looked_at = began_at
                self._outages.succeeded(_LOOKING)

    async def _look(self) -> None:
        """Read the last sequences of the endpoints that this process drives."""
        slots, replaced = sorted(self._slots()), self._replaced
        if not slots:
            return
        rows: list[tuple[int, int, int]] = await self._call(
            lambda connection: connection.execute(_LOOK, (slots,)).fetchall()
        )
        if replaced != self._replaced:
            return
        unknown: set[int] = set()
        for endpoint_pk, last, edition in rows:
            if (seen := self._seen.get(endpoint_pk)) is None:
                self._seen[endpoint_pk] = (last, edition)
                if last:
                    unknown.add(slot_of(endpoint_pk))
                continue
            seen_last, seen_edition = seen
            # What this process has queued since the query began is seen already.
            self._seen[endpoint_pk] = (max(last, seen_last), edition)
            is_new = last > seen_last or edition > max(seen_edition, 0)
            if is_new and self._ownership.owns(endpoint_pk):
                self._feed.announce(QueueGrown(endpoint_pk))
        if unknown:
            # Few of them have anything queued. Which do is read once for all, after what this look has seen.
            self._feed.announce(QueuesFound(frozenset(unknown)))

    async def _call(self, function: "Callable[[Connection[Any]], T]") -> T:
        async with self._one_call:
            return await self._runner.run(partial(self._run, function))

    def _run(self, function: "Callable[[Connection[Any]], T]") -> T:
        if self._notifier is not None and not self._is_used(self._notifier):
            self._notifier.close()
            self._notifier = None
        if self._notifier is None:
            self._notifier = self._connect_notifier()
        try:
            with self._notifier.translated():
                return function(self._notifier.connection())
        except ConnectionLostError:
            self._notifier.close()
            self._notifier = None
            raise


def _notifications(told: dict[int, int], *, has_changed: bool) -> Iterator[str]:
    """Yield the texts of as few notifications as hold all of it."""
    words = [CHANGED] if has_changed else []
    words += [f"{endpoint_pk}:{sequence}" for endpoint_pk, sequence in told.items()]
    text: list[str] = []
    size = 0
    for word in words:
        if size + len(word) + 1 > MOST_BYTES:
            yield " ".join(text)
            text, size = [], 0
        text.append(word)
        size += len(word) + 1
    if text:
        yield " ".join(text)


def _notify(texts: Iterable[str], connection: "Connection[Any]") -> None:
    for text in texts:
        connection.execute(_NOTIFY, (CHANNEL, text))


def _begin_to_listen(database: PostgresDatabase) -> None:
    with database.translated():
        database.connection().execute(_LISTEN)

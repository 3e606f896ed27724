"""Reading beside the writer: a few query-only connections, and the actors' windows gathered into single hops.

A hop to a thread costs more than the query it carries. So all actors that ask for a window while one hop is under way
are answered together by the next, and the bodies that they will need first come along.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeVar

import trio
from peewee import Database

from webhookd.journal import events, windows
from webhookd.journal.database import Reader
from webhookd.journal.operations import Ticket
from webhookd.journal.rows import Window, WindowRequest
from webhookd.journal.runners import Runner
from webhookd.models import Message

T = TypeVar("T")

CACHE_BYTES = 16 * 1024 * 1024
PREFETCH_BYTES = 1024 * 1024
PREFETCH_ROWS = 200
MAX_HOP = 200


class Messages:
    """The bodies that were accepted or sent last, up to 16 MiB of them."""

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._messages: OrderedDict[int, Message] = OrderedDict()

    def __contains__(self, event_pk: int) -> bool:
        return event_pk in self._messages

    def get(self, event_pk: int) -> Message | None:
        """Return a message that is here, which keeps it here longer."""
        message = self._messages.get(event_pk)
        if message is not None:
            self._messages.move_to_end(event_pk)
        return message

    def put(self, event_pk: int, message: Message) -> None:
        """Keep a message, letting go of those that nobody asked for the longest."""
        if event_pk in self._messages:
            return
        self._messages[event_pk] = message
        self._bytes += len(message.body)
        while self._bytes > self._max_bytes:
            _, oldest = self._messages.popitem(last=False)
            self._bytes -= len(oldest.body)


class Readers:
    """The query-only connections; each query takes one that is free."""

    def __init__(self, readers: Sequence[Reader], runner: Runner) -> None:
        self._free = list(readers)
        self._all = tuple(readers)
        self._runner = runner
        self._tokens = trio.Semaphore(len(self._free))

    async def run(self, query: Callable[[Database], T]) -> T:
        """Run a query on one snapshot; ReadTimeoutError past the time limit."""
        async with self._tokens:
            reader = self._free.pop()
            try:
                return await self._runner.run(partial(reader.run, query))
            finally:
                self._free.append(reader)

    def close(self) -> None:
        """Close the connections."""
        for reader in self._all:
            reader.close()


class WindowReader:
    """Answers the actors' questions for windows while `run` runs."""

    def __init__(self, readers: Readers, messages: Messages) -> None:
        self._readers = readers
        self._messages = messages
        self._asked: list[tuple[WindowRequest, Ticket[Window]]] = []
        self._was_asked = trio.Event()

    async def ask(self, request: WindowRequest) -> Window:
        """Return a window as of a moment after this call."""
        ticket: Ticket[Window] = Ticket()
        self._asked.append((request, ticket))
        self._was_asked.set()
        return await ticket.wait()

    async def run(self) -> None:
        """Answer until canceled."""
        while True:
            await self._was_asked.wait()
            hop, self._asked = self._asked[:MAX_HOP], self._asked[MAX_HOP:]
            if not self._asked:
                self._was_asked = trio.Event()
            try:
                found, bodies = await self._readers.run(partial(self._read, [request for request, _ in hop]))
            except Exception as error:  # noqa: BLE001 - each asker gets it, and its supervisor logs it
                for _, ticket in hop:
                    ticket.fail(error)
                continue
            for event_pk, message in bodies.items():
                self._messages.put(event_pk, message)
            for (_, ticket), window in zip(hop, found, strict=True):
                ticket.succeed(window)

    def _read(self, requests: Sequence[WindowRequest], database: Database) -> tuple[list[Window], dict[int, Message]]:
        found = [windows.read(database, request) for request in requests]
        bodies: dict[int, Message] = {}
        budget = PREFETCH_BYTES
        for window in found:
            for delivery in window.line[: max(PREFETCH_ROWS // len(found), 1)]:
                if budget <= 0 or delivery.event_pk in bodies or delivery.event_pk in self._messages:
                    continue
                bodies[delivery.event_pk] = events.message(database, delivery.event_pk)
                budget -= len(bodies[delivery.event_pk].body)
        return found, bodies

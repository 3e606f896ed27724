"""Reads next to the writer: a few query-only connections, and the gathering of actors' questions into batches.

A call in a thread costs more than the query that it makes. So all questions of actors, for a window or a message, that
are asked during one call are answered together by the next. With a message come those that its endpoint needs next.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Generic, TypeVar

import trio
from peewee import Database

from webhookd.base.errors import Rejected
from webhookd.base.models import Message
from webhookd.journal.errors import ConnectionLostError, DamagedDatabaseError, DiskError
from webhookd.journal.planning import unreachable
from webhookd.journal.queries import events, windows
from webhookd.journal.rows import Window, WindowRequest
from webhookd.journal.runners import Runner
from webhookd.journal.storage import Reader
from webhookd.observe.logs import get_logger

_log = get_logger("journal")

T = TypeVar("T")
Q = TypeVar("Q")
A = TypeVar("A")

PATIENCE_SECONDS, RETRY_SECONDS = 10.0, 0.2
PREFETCH_BYTES = 1024 * 1024
MOST_QUESTIONS = 200  # that are answered by one call
CALLS_A_TURN = 64  # before other tasks get a turn: each may send a request


class Readers:
    """The query-only connections; each query takes one that is free.

    `watch` raises the error after which the journal can't be trusted: a damaged page, or a disk that can't be read.
    """

    def __init__(self, readers: Sequence[Reader], runner: Runner) -> None:
        self._failure: DiskError | None = None
        self._has_failed = trio.Event()
        self._free = list(readers)
        self._runner = runner
        self._tokens = trio.Semaphore(len(self._free))

    async def run(self, query: Callable[[Database], T]) -> T:
        """Run a query on one snapshot; raises ReadTimeoutError after the time limit.

        While the database can't be reached, or finds itself damaged, it tries again, and raises Rejected
        JOURNAL_UNREACHABLE after 10 s.
        """
        given_up_at = trio.current_time() + PATIENCE_SECONDS
        while True:
            try:
                return await self._run_once(query)
            except ConnectionLostError as error:
                if trio.current_time() > given_up_at:
                    if isinstance(error, DamagedDatabaseError):  # an outage has its lines already
                        _log.error("journal.query_failed", error=str(error))
                    raise unreachable() from error
            await trio.sleep(RETRY_SECONDS)

    async def _run_once(self, query: Callable[[Database], T]) -> T:
        async with self._tokens:
            reader = self._free.pop()
            try:
                return await self._runner.run(partial(reader.run, query))
            except DiskError as error:
                self._failure = error
                self._has_failed.set()
                raise
            finally:
                self._free.append(reader)

    async def watch(self) -> None:
        """Wait until a query finds the journal damaged or unreadable, and raise that DiskError."""
        await self._has_failed.wait()
        assert self._failure is not None  # noqa: S101 - set with the event
        raise self._failure


class Gathering(Generic[Q, A]):
    """Answers questions while `run` runs: all that are asked during one call in a thread share the next one.

    `answer` is called in the thread with the questions, and returns their answers in the same order. The one who asked
    takes the answer in one step and returns the calls that pass it on. Other tasks get their turns between these calls.
    """

    def __init__(self, readers: Readers, answer: Callable[[Sequence[Q], Database], list[A]]) -> None:
        self._readers = readers
        self._answer = answer
        self._asked: list[tuple[Q, Callable[[A | Exception], Iterable[Callable[[], None]]]]] = []
        self._was_asked = trio.Event()
        self.asked = 0

    def ask(self, question: Q, answered: Callable[[A | Exception], Iterable[Callable[[], None]]]) -> None:
        """Call `answered` later with the answer, read after this call, or with an error."""
        self.asked += 1
        self._asked.append((question, answered))
        self._was_asked.set()

    async def run(self) -> None:
        """Answer until canceled."""
        while True:
            await self._was_asked.wait()
            batch, self._asked = self._asked[:MOST_QUESTIONS], self._asked[MOST_QUESTIONS:]
            if not self._asked:
                self._was_asked = trio.Event()
            answers = await self._answers([question for question, _ in batch])
            calls = (call for (_, answered), answer in zip(batch, answers, strict=True) for call in answered(answer))
            for number, call in enumerate(calls, 1):
                call()
                if number % CALLS_A_TURN == 0:
                    await trio.lowlevel.checkpoint()

    async def _answers(self, questions: Sequence[Q]) -> Sequence[A | Exception]:
        """Return an answer or an error for each question; actors wait while a database can't be reached."""
        while True:
            try:
                return await self._readers.run(partial(self._answer, questions))
            except Rejected:  # it could not be reached for long
                continue
            except Exception as error:  # noqa: BLE001 - each who asked gets it, and its supervisor logs it
                return [error] * len(questions)


def read_windows(requests: Sequence[WindowRequest], database: Database) -> list[Window]:
    """Return the requested windows."""
    return [windows.read(database, request) for request in requests]


def read_messages(asked: Sequence[tuple[int, ...]], database: Database) -> list[dict[int, Message]]:
    """Return the messages of each question: always the first one, and the others while they are small.

    The others are sent next; 1 MiB of bodies a call is enough to save most later calls.
    """
    needed = events.messages(database, {question[0] for question in asked})
    ahead = {event_pk for question in asked for event_pk in question[1:]} - needed.keys()
    further = events.messages(database, ahead, max_bytes=PREFETCH_BYTES)
    found = needed | further
    return [{event_pk: found[event_pk] for event_pk in question if event_pk in found} for question in asked]

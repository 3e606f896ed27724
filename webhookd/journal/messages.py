"""The messages in memory, so that most attempts read nothing from the journal.

A message that was just published is kept for the first attempts of its deliveries, and let go with the last of them. In
a burst the oldest is needed first, so no newer one takes its place: one that finds no room isn't kept, and is read from
the journal when it is needed. Not every delivery gets its first attempt soon. Its webhook may be disabled, deleted,
slow or failing, or the delivery expires. So what is older than 5 s makes room for the message of another event.

Messages that were read from the journal, and those that are sent after them, have a room of their own, so that neither
kind displaces the other. Several endpoints may send the same ones, each at its own pace: those that were read first
make room for others. A message that is being read for one delivery isn't read again for the next.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

from webhookd.base.models import AcceptedEvent, Message

PUBLISHED_BYTES = 4 * 1024 * 1024
READ_BYTES = 4 * 1024 * 1024
KEPT_SECONDS = 5.0
_OVERHEAD_BYTES = 512  # of a message, without its body


Got = Callable[[Message | Exception], None]
Found = dict[int, Message] | Exception
Answered = Callable[[Found], Iterable[Callable[[], None]]]
"""Takes the messages that were read, and returns the calls that pass them on."""
Ask = Callable[[tuple[int, ...], Answered], None]
"""Has the messages of events read; of those after the first one some may be left out."""


@dataclass(slots=True, eq=False)
class _Published:
    message: Message
    accepted_at: float
    first_attempts: int  # that are still to come


class Messages:
    """What attempts send of events, by the events' row numbers; both kinds are bounded in bytes."""

    def __init__(self, ask: Ask, published_bytes: int = PUBLISHED_BYTES, read_bytes: int = READ_BYTES) -> None:
        self._ask = ask
        self._bytes = published_bytes, read_bytes
        self._forgotten = 0
        self._awaited: dict[int, list[Got]] = {}  # by the events whose messages are being read
        self._published: OrderedDict[int, _Published] = OrderedDict()
        self._published_room = published_bytes
        self._read: OrderedDict[int, Message] = OrderedDict()
        self._read_room = read_bytes

    def __contains__(self, event_pk: object) -> bool:
        return event_pk in self._published or event_pk in self._read

    def published(self, event_pk: int, event: AcceptedEvent, first_attempts: int) -> None:
        """Keep the message of a new event for so many first attempts, if there is room."""
        if not first_attempts:
            return
        size = _size_of(event.body)
        while size > self._published_room and self._has_old(event.accepted_at):
            self._let_go(next(iter(self._published)))
        if size <= self._published_room:
            self._published[event_pk] = _Published(event.message, event.accepted_at, first_attempts)
            self._published_room -= size

    def take(self, event_pk: int, *, is_first_attempt: bool) -> Message | None:
        """Return the message for an attempt, if it is in memory."""
        if (published := self._published.get(event_pk)) is None:
            return self._read.get(event_pk)
        if is_first_attempt:
            published.first_attempts -= 1
            if not published.first_attempts:
                self._let_go(event_pk)
        return published.message

    def read(self, event_pk: int, upcoming: Callable[[], Iterable[int]], got: Got) -> None:
        """Read a message and call `got` with it; those of `upcoming` events are read with it, while they are small."""
        if (awaited := self._awaited.get(event_pk)) is not None:
            awaited.append(got)
            return
        question = dict.fromkeys((event_pk, *(pk for pk in upcoming() if pk not in self and pk not in self._awaited)))
        self._awaited |= {pk: [] for pk in question}
        self._awaited[event_pk].append(got)
        self._ask(tuple(question), partial(self._answer, tuple(question), self._forgotten))

    def forget(self) -> None:
        """Drop all messages, and those that are being read: the numbers may be those of other events by now.

        Who waits for one gets no answer.
        """
        self._forgotten += 1
        self._awaited.clear()
        self._published.clear()
        self._read.clear()
        self._published_room, self._read_room = self._bytes

    def _answer(self, question: tuple[int, ...], forgotten: int, found: Found) -> list[Callable[[], None]]:
        """Keep the messages that were found; return the calls that pass them on."""
        if forgotten != self._forgotten:
            return []
        calls: list[Callable[[], None]] = []
        for event_pk in question:
            awaited = self._awaited.pop(event_pk)
            if isinstance(found, Exception):
                calls += [partial(got, found) for got in awaited]
            elif (message := found.get(event_pk)) is not None:
                self._keep(event_pk, message)
                calls += [partial(got, message) for got in awaited]
            elif event_pk == question[0]:
                calls += [partial(got, LookupError(f"the event in row {event_pk} is gone")) for got in awaited]
            else:
                calls += [partial(self.read, event_pk, tuple, got) for got in awaited]
        return calls

    def _keep(self, event_pk: int, message: Message) -> None:
        """Keep a message that was read, in place of those that were read first."""
        if event_pk in self:
            return
        self._read[event_pk] = message
        self._read_room -= _size_of(message.body)
        while self._read_room < 0:
            _, first = self._read.popitem(last=False)
            self._read_room += _size_of(first.body)

    def _has_old(self, now: float) -> bool:
        oldest = next(iter(self._published.values()), None)
        # The clock may have been set back, so what was accepted in the future is old as well.
        return oldest is not None and abs(now - oldest.accepted_at) > KEPT_SECONDS

    def _let_go(self, event_pk: int) -> None:
        self._published_room += _size_of(self._published.pop(event_pk).message.body)


def _size_of(body: bytes) -> int:
    return len(body) + _OVERHEAD_BYTES

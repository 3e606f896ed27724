"""The messages in memory, so that most attempts read nothing from the journal. Pure bookkeeping, without I/O.

A message that was just published is kept for the first attempts of its deliveries, and let go with the last of them. In
a burst the oldest is needed first, so no newer one takes its place: one that finds no room isn't kept, and is read from
the journal when it is needed. Not every delivery gets its first attempt soon. Its webhook may be disabled, deleted,
slow or failing, or the delivery expires. So what is older than 5 s makes room for the message of another event.

Messages that were read from the journal, and those that are sent after them, have a room of their own, so that neither
kind displaces the other. Several endpoints may send the same ones, each at its own pace: those that were read first
make room for others.
"""

from collections import OrderedDict
from dataclasses import dataclass

from webhookd.base.models import AcceptedEvent, Message

PUBLISHED_BYTES = 4 * 1024 * 1024
READ_BYTES = 4 * 1024 * 1024
KEPT_SECONDS = 5.0
_OVERHEAD_BYTES = 512  # of a message, without its body


@dataclass(slots=True, eq=False)
class _Published:
    message: Message
    accepted_at: float
    first_attempts: int  # that are still to come


class Messages:
    """What attempts send of events, by the events' row numbers; both kinds are bounded in bytes."""

    def __init__(self, published_bytes: int = PUBLISHED_BYTES, read_bytes: int = READ_BYTES) -> None:
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

    def read(self, event_pk: int, message: Message) -> None:
        """Keep a message that was read from the journal, in place of those that were read first."""
        if event_pk in self:
            return
        self._read[event_pk] = message
        self._read_room -= _size_of(message.body)
        while self._read_room < 0:
            _, first = self._read.popitem(last=False)
            self._read_room += _size_of(first.body)

    def take(self, event_pk: int, *, is_first_attempt: bool) -> Message | None:
        """Return the message for an attempt, if it is in memory."""
        if (published := self._published.get(event_pk)) is None:
            return self._read.get(event_pk)
        if is_first_attempt:
            published.first_attempts -= 1
            if not published.first_attempts:
                self._let_go(event_pk)
        return published.message

    def _has_old(self, now: float) -> bool:
        oldest = next(iter(self._published.values()), None)
        # The clock may have been set back, so what was accepted in the future is old as well.
        return oldest is not None and abs(now - oldest.accepted_at) > KEPT_SECONDS

    def _let_go(self, event_pk: int) -> None:
        self._published_room += _size_of(self._published.pop(event_pk).message.body)


def _size_of(body: bytes) -> int:
    return len(body) + _OVERHEAD_BYTES

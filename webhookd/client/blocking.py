"""The blocking client, for programs without an event loop; any number of threads may share it.

Each call uses a channel of its own: an outbox with a connection. It is an idle one or a new one, and is returned when
everything on it is answered. Nothing else is shared, so calls of different threads don't wait for each other, and the
server commits together what they send at the same time.
"""

import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Self, Unpack

from webhookd.base.errors import Rejected
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import PublishResult
from webhookd.client.answers import Lost
from webhookd.client.events import Event, EventFields
from webhookd.client.outbox import MOST_UNANSWERED, Outbox, Submission
from webhookd.client.socket import SocketLink

if TYPE_CHECKING:
    from webhookd.client.http import HttpLink, HttpLinks

_MOST_IDLE = 16


@dataclass(frozen=True, slots=True)
class _Channel:
    """An outbox with its connection, used by one call at a time."""

    outbox: Outbox
    link: "SocketLink | HttpLink"


class Client:
    """A producer for the server at `target`: the path of its socket, or the URL of its API and a `key`.

    A key needs the role `ingest` or `admin`. After `timeout` seconds without any answer a call raises
    ServerUnavailable. Connections are opened when they are needed, and again after they were closed or lost. The client
    may be used from any thread, and after a fork.
    """

    def __init__(
        self,
        target: str | os.PathLike[str],
        timeout: float = 30.0,
        *,
        key: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        self._where = os.fspath(target)
        self._timeout = timeout
        self._key = key
        self._ssl_context = ssl_context
        self._start()

    def _start(self) -> None:
        """Start without connections: at first, and in a child process, since its parent still uses the old ones."""
        # At the fork another thread of the parent may have held the old lock, which is never released here.
        self._lock = threading.Lock()
        # The parent's factory would give the child's events the ids of the parent's next events.
        self._ids = IdFactory(time.time)
        self._links = self._make_links()
        self._idle: list[_Channel] = []
        self._process = os.getpid()

    def _make_links(self) -> "HttpLinks | None":
        if not self._where.startswith(("http://", "https://")):
            return None  # links to the socket share nothing
        from webhookd.client.http import HttpLinks  # noqa: PLC0415 - httpx is slow to import, and not always needed

        return HttpLinks(self._where, self._key, self._ssl_context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close idle connections; a later call opens new ones."""
        with self._lock:
            idle, self._idle = self._idle, []
            if self._links is not None:
                self._links.close()
        for channel in idle:
            channel.link.close()

    def send(
        self,
        type: str,  # noqa: A002 - the event's own field
        data: Mapping[str, object] | bytes,
        id: str | None = None,  # noqa: A002 - the event's own field
        **fields: Unpack[EventFields],
    ) -> PublishResult:
        """Submit one event and return its result, once it is on the server's disk; `fields` as in `Event`.

        Raises Rejected, with its code, if the server refuses it; ServerUnavailable if no answer arrives in time;
        ValueError for data that JSON can't represent.
        """
        event = Event(type=type, data=data, id=id, **fields)
        (result,) = self.send_many([event])
        if isinstance(result, Rejected):
            raise result
        return result

    def send_many(self, events: Iterable[Event], window: int = 256) -> Iterator[PublishResult | Rejected]:
        """Submit events without waiting for each; yield their results or refusals in the order of the events.

        At most `window` (1 to 1024) events, or 4 MiB, are unanswered at a time. On the socket each event is sent as
        soon as `events` yields it, and results are yielded after the next event; with a window of 1 the next event is
        taken only after the last was answered. Over HTTP, `window` events are one request. Raises as `send` does if the
        producer itself is refused or the server doesn't answer in time: the event named in the error, and those after
        it, have no result yet.
        """
        if not 1 <= window <= MOST_UNANSWERED:
            raise ValueError(f"window must be 1 to {MOST_UNANSWERED}")
        channel = self._take_channel()
        waiting: deque[Submission] = deque()
        try:
            for event in events:
                submission = channel.outbox.submission(event, time.monotonic())
                channel.outbox.put(submission)
                waiting.append(submission)
                self._exchange(channel, most=window - 1)
                yield from _answered(waiting)
            while waiting:
                self._exchange(channel, most=len(channel.outbox) - 1)
                yield from _answered(waiting)
        finally:
            self._give_back(channel)

    def _take_channel(self) -> _Channel:
        if self._process != os.getpid():
            self._start()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        link = SocketLink(self._where) if self._links is None else self._links.link()
        return _Channel(Outbox(self._where, self._timeout, self._new_id, link.final_codes), link)

    def _new_id(self) -> str:
        return self._ids.new(Prefix.EVENT)

    def _give_back(self, channel: _Channel) -> None:
        # Results of unanswered events would be taken for those of other events.
        if not len(channel.outbox):
            with self._lock:
                if self._process == os.getpid() and len(self._idle) < _MOST_IDLE:
                    self._idle.append(channel)
                    return
        channel.link.close()

    def _exchange(self, channel: _Channel, *, most: int) -> None:
        """Send events and read results, until at most `most` events are unanswered.

        If the connection is lost after some results, it returns with those.
        """
        outbox = channel.outbox
        outbox.attend(time.monotonic())
        while True:
            before = len(outbox)
            try:
                while channel.link.step(outbox, wait=outbox.is_over(most)):
                    pass
                if not outbox.is_over(most):
                    return
            except Lost as lost:
                channel.link.close()
                outbox.lose(lost, time.monotonic())
                if len(outbox) < before:
                    return
                time.sleep(max(min(outbox.try_at, outbox.oldest_deadline()) - time.monotonic(), 0.0))
                outbox.expire(time.monotonic())


def _answered(waiting: deque[Submission]) -> Iterator[PublishResult | Rejected]:
    while waiting and waiting[0].is_done:
        yield waiting.popleft().value()

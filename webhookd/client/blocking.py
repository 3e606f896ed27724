"""The client that blocks, for programs without an event loop; one may be shared by any number of threads.

Each call has a line of its own while it lasts: an outbox with a connection, taken from those that are idle or made
anew, and given back when everything on it was answered. Nothing else is shared, so calls of different threads don't
wait for each other, and the server commits together what they send at the same time.
"""

import os
import ssl
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeAlias, Unpack

from webhookd.base.errors import Rejected
from webhookd.base.ids import IdFactory, Prefix
from webhookd.base.models import PublishResult
from webhookd.client.answers import Lost
from webhookd.client.events import Event, EventFields
from webhookd.client.outbox import MOST_UNANSWERED, Outbox, Submission
from webhookd.client.socket import SocketLink, SocketLinks

if TYPE_CHECKING:
    from webhookd.client.http import HttpLink, HttpLinks

_MOST_IDLE = 16


Link: TypeAlias = "SocketLink | HttpLink"
Links: TypeAlias = "SocketLinks | HttpLinks"


class _Line:
    """An outbox with its connection, of one call at a time."""

    def __init__(self, outbox: Outbox, link: Link) -> None:
        self.outbox = outbox
        self.link = link


class Client:
    """A producer for the server at `target`: the path of its socket, or the URL of its API and a `key`.

    A key needs the role `ingest` or `admin`. `timeout` is how long, in seconds, to go on without any answer before
    ServerUnavailable. Connections are made when they are needed; what was closed or lost is opened again. Calls are
    safe from any thread and after a fork.
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
        """Begin with nothing open: at first, and in a child process, whose parent goes on with what it has."""
        # Another thread of the parent may have held its lock at the fork, for ever.
        self._lock = threading.Lock()
        # A child that went on with its parent's factory would give its events the ids of the parent's next ones.
        self._ids = IdFactory(time.time)
        self._links = self._make_links()
        self._idle: list[_Line] = []
        self._process = os.getpid()

    def _make_links(self) -> Links:
        if not self._where.startswith(("http://", "https://")):
            return SocketLinks(self._where)
        from webhookd.client.http import HttpLinks  # noqa: PLC0415 - httpx is slow to import, and not always needed

        return HttpLinks(self._where, self._key, self._ssl_context)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close what is open and idle; the next call would open it again."""
        with self._lock:
            idle, self._idle = self._idle, []
            self._links.close()
        for line in idle:
            line.link.close()

    def send(
        self,
        type: str,  # noqa: A002 - the event's own field
        data: Mapping[str, object] | bytes,
        id: str | None = None,  # noqa: A002 - the event's own field
        **fields: Unpack[EventFields],
    ) -> PublishResult:
        """Submit one event and return its result, once it is on the server's disk; `fields` as in `Event`.

        Raises Rejected, with its code, where the server refuses it; ServerUnavailable where no answer comes in time;
        ValueError for what has no JSON form.
        """
        event = Event(type=type, data=data, id=id, **fields)
        (result,) = self.send_many([event])
        if isinstance(result, Rejected):
            raise result
        return result

    def send_many(self, events: Iterable[Event], window: int = 256) -> Iterator[PublishResult | Rejected]:
        """Submit events without waiting for each; yield, in their order, each one's result or its refusal.

        At most `window` (1 to 1024) are unanswered at a time, or 4 MiB of them. On the socket each event is sent as
        soon as `events` gives it, and results are yielded when the next event has been given; 1 means that the next is
        asked for only after the last was answered. Over HTTP `window` events are one request. Raises as `send` does
        where the producer itself is refused or the server was away for too long: the event named there and those
        behind it have no result yet.
        """
        if not 1 <= window <= MOST_UNANSWERED:
            raise ValueError(f"window must be 1 to {MOST_UNANSWERED}")
        line = self._take_line()
        waiting: deque[Submission] = deque()
        try:
            for event in events:
                submission = line.outbox.submission(event, time.monotonic())
                line.outbox.put(submission)
                waiting.append(submission)
                self._exchange(line, most=window - 1)
                yield from _answered(waiting)
            while waiting:
                self._exchange(line, most=len(line.outbox) - 1)
                yield from _answered(waiting)
        finally:
            self._give_back(line)

    def _take_line(self) -> _Line:
        if self._process != os.getpid():
            self._start()
        with self._lock:
            if self._idle:
                return self._idle.pop()
        outbox = Outbox(self._where, self._timeout, self._new_id, self._links.final_codes)
        return _Line(outbox, self._links.link())

    def _new_id(self) -> str:
        return self._ids.new(Prefix.EVENT)

    def _give_back(self, line: _Line) -> None:
        # What is still unanswered would be taken for the results of other events.
        if not len(line.outbox):
            with self._lock:
                if self._process == os.getpid() and len(self._idle) < _MOST_IDLE:
                    self._idle.append(line)
                    return
        line.link.close()

    def _exchange(self, line: _Line, *, most: int) -> None:
        """Send, and take results: those that are there, and more until at most `most` are awaited.

        Returns with what it has where the connection is lost, so that no result is lost with it.
        """
        outbox = line.outbox
        outbox.attend(time.monotonic())
        while True:
            before = len(outbox)
            try:
                while line.link.step(outbox, wait=outbox.is_over(most)):
                    pass
                if not outbox.is_over(most):
                    return
            except Lost as lost:
                line.link.close()
                outbox.lose(lost, time.monotonic())
                if len(outbox) < before:
                    return
                time.sleep(max(min(outbox.try_at, outbox.oldest_deadline()) - time.monotonic(), 0.0))
                outbox.expire(time.monotonic())


def _answered(waiting: deque[Submission]) -> Iterator[PublishResult | Rejected]:
    while waiting and waiting[0].is_done:
        yield waiting.popleft().value()

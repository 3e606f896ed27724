"""One connection of a client, from its first byte to its close.

Each write has a deadline. Whatever goes wrong with a client cancels the scope of its own connection and nothing else.

Input of a client that has left is not parsed: after a reset, or once a Unix socket's other end is closed. Over TCP, a
client that has closed looks the same as one that has ended its side and waits for the answer. Both get their answers,
but one such connection at a time: many of them delay each other and no other client.
"""

import select
from enum import Enum

import trio
from hypercorn.config import Config
from hypercorn.events import Closed, Event, RawData, Updated
from hypercorn.trio.task_group import TaskGroup
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import AppWrapper, ConnectionState, LifespanState

from webhookd.admin.protocol import HttpProtocol, NewRequestId
from webhookd.observe.logs import get_logger

_MOST_READ_BYTES = 65_536
_WRITE_TIMEOUT_SECONDS = 30.0
_LAST_ANSWER_SECONDS = 1.0
_LINGER_SECONDS = 2.0
_LINGER_BYTES = 4 * 1024 * 1024

_log = get_logger("admin.guard")


class _Client(Enum):
    """The state of the client's side of a connection."""

    THERE = "there"
    HAS_ENDED = "has ended its side, or has gone"
    GONE = "gone"


class Turns:
    """Lets one task through in each pass of the event loop, in order of arrival."""

    def __init__(self) -> None:
        self._lock = trio.Lock()

    async def take(self) -> None:
        """Wait for the caller's turn."""
        async with self._lock:
            await trio.lowlevel.checkpoint()


class HttpConnection:
    """Serves one accepted stream; `run` returns when it is closed, and raises only for a bug."""

    def __init__(
        self,
        app: AppWrapper,
        config: Config,
        context: WorkerContext,
        state: LifespanState,
        stream: trio.SocketStream,
        *,
        turns: Turns,
        new_request_id: NewRequestId,
    ) -> None:
        self._stream = stream
        self._config = config
        self._context = context
        self._sending = trio.Lock()
        self._poll = select.poll()
        self._poll.register(stream.socket, select.POLLRDHUP)
        self._turns = turns
        self._tasks = TaskGroup()
        self._protocol = HttpProtocol(
            app,
            config,
            context,
            self._tasks,
            ConnectionState(state),
            ssl=False,
            client=None,
            server=None,
            send=self._send,
        )
        self._protocol.new_request_id = new_request_id
        self._all = trio.CancelScope()
        self._idle = trio.CancelScope()
        self._reading = trio.CancelScope()
        self._is_closing = trio.Event()
        self._has_unread_input = True

    def cancel(self) -> None:
        """End the connection at once."""
        self._all.cancel()

    async def run(self) -> None:
        """Serve until either side closes; the stream is closed on return."""
        with self._all:
            async with self._stream:
                try:
                    self._protocol.client = _address(self._stream.socket.getpeername())
                    self._protocol.server = _address(self._stream.socket.getsockname())
                except OSError:
                    return  # reset before it was served
                async with self._tasks:
                    self._become_idle()
                    await self._read_data()
                    self._idle.cancel()
                await self._linger()

    async def _send(self, event: Event) -> None:
        """Write for the protocol; a client that doesn't read is disconnected at the deadline."""
        if isinstance(event, RawData):
            async with self._sending:
                with trio.move_on_after(_WRITE_TIMEOUT_SECONDS) as writing:
                    try:
                        await self._stream.send_all(event.data)
                    except (trio.BrokenResourceError, trio.ClosedResourceError):
                        self._all.cancel()
                if writing.cancelled_caught:
                    _log.warning("http.client_does_not_read", deadline_seconds=_WRITE_TIMEOUT_SECONDS)
                    self._all.cancel()
        elif isinstance(event, Closed):
            if self._protocol.has_begun_to_answer:
                # The body is broken, and the application answers without it: let the answer out.
                with trio.move_on_after(_LAST_ANSWER_SECONDS):
                    await self._is_closing.wait()
            # What is being written may be the reader's refusal, which must be sent whole. The reader may be this very
            # task, which informs the application when it ends.
            async with self._sending:
                self._is_closing.set()
                self._reading.cancel()
        elif isinstance(event, Updated):
            if event.idle:
                self._become_idle()
            else:
                self._idle.cancel()

    async def _read_data(self) -> None:
        with self._reading:
            while True:
                try:
                    data = await self._stream.receive_some(_MOST_READ_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    self._has_unread_input = False
                    break
                client = self._client()
                if client is _Client.GONE:
                    self._has_unread_input = False
                    break
                if data and client is _Client.HAS_ENDED:
                    await self._turns.take()
                await self._protocol.handle(RawData(bytes(data)))
                if not data:
                    self._has_unread_input = False
                    # A client may end its side before it reads the answer.
                    if self._protocol.is_answering:
                        await self._is_closing.wait()
                    break
        await self._protocol.handle(Closed())

    def _client(self) -> _Client:
        for _, events in self._poll.poll(0):
            return _Client.GONE if events & (select.POLLHUP | select.POLLERR) else _Client.HAS_ENDED
        return _Client.THERE

    def _become_idle(self) -> None:
        self._idle.cancel()
        self._idle = trio.CancelScope()
        self._tasks.spawn(self._end_when_idle, self._idle)

    async def _end_when_idle(self, idle: trio.CancelScope) -> None:
        with idle:
            with trio.move_on_after(self._config.keep_alive_timeout):
                await self._context.terminated.wait()
            self._all.cancel()

    async def _linger(self) -> None:
        """Let the client read the last answer: to close with unread input would reset the connection."""
        try:
            await self._stream.send_eof()
            if not self._has_unread_input:
                return
            taken = 0
            with trio.move_on_after(_LINGER_SECONDS):
                while taken < _LINGER_BYTES and (data := await self._stream.receive_some(_MOST_READ_BYTES)):
                    taken += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the client is gone


def _address(name: object) -> tuple[str, int] | None:
    """Return host and port of a socket's name; None for that of a Unix socket."""
    return (str(name[0]), int(name[1])) if isinstance(name, tuple) else None

"""The ingest server: accepts producers on a Unix socket, checks who they are, and drains on request.

A connection's failure is its own. The socket file is taken away at the end, if it is still ours.
"""

import errno
import os
import socket
from collections.abc import Callable
from math import inf

import trio

from webhookd.base.errors import ErrorCode
from webhookd.config import IngestConfig
from webhookd.ingest.connection import EventTicket, ProducerConnection, Publisher, encode_refusal
from webhookd.ingest.listener import bind_unix, file_identity
from webhookd.ingest.peer import is_allowed, read_peer
from webhookd.observe.logs import Log, get_logger

__all__ = ["EventTicket", "IngestServer", "Publisher"]

_MODE = 0o660
_BACKLOG = 512
_WRITE_TIMEOUT_SECONDS = 30.0
_REFUSAL_TIMEOUT_SECONDS = 1.0
_OVERLOADED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_OVERLOAD_PAUSE_SECONDS = 0.5
_COMPLAINT_PAUSE_SECONDS = 1.0


def _untold(_code: str) -> None:
    """Tell nobody of a refusal."""


class _Complaint:
    """Counts what is to be complained of: whoever connects again and again doesn't fill the log."""

    def __init__(self) -> None:
        self._count = 0
        self._told_at = -inf

    def note(self) -> int:
        """Count one; return how many there were since it was told last, or 0 where that was just now."""
        self._count += 1
        now = trio.current_time()
        if now - self._told_at < _COMPLAINT_PAUSE_SECONDS:
            return 0
        count, self._count, self._told_at = self._count, 0, now
        return count


class IngestServer:
    """The listener of `[ingest] socket` and its connections; `bind`, then `run` once, then `drain`.

    `refused` hears the code of each event that isn't taken, and of each producer that is turned away.
    """

    def __init__(
        self,
        config: IngestConfig,
        publisher: Publisher,
        *,
        refused: Callable[[str], None] = _untold,
        log: Log | None = None,
        write_timeout_seconds: float = _WRITE_TIMEOUT_SECONDS,
    ) -> None:
        self._config = config
        self._publisher = publisher
        self._refused = refused
        self._log = get_logger("ingest") if log is None else log
        self._write_timeout_seconds = write_timeout_seconds
        self._listener: socket.socket | None = None
        self._identity: tuple[int, int] | None = None
        self._connections: set[ProducerConnection] = set()
        self._peers_refused = _Complaint()
        self._turned_away = _Complaint()
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._is_running = False
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """How many producers are connected now."""
        return len(self._connections)

    def bind(self) -> None:
        """Listen on the socket; clients may connect from now on and are served by `run`.

        Raises ConfigError for a path that is too long, CommandError for a place that is taken or can't be used.
        """
        self._listener = bind_unix(self._config.socket, mode=_MODE, key="ingest.socket", backlog=_BACKLOG)
        self._identity = file_identity(self._config.socket)

    def close(self) -> None:
        """Stop listening and take the socket file away if it is still ours; may be called at any time."""
        if self._listener is None:
            return
        if self._identity is not None and file_identity(self._config.socket) == self._identity:
            self._config.socket.unlink(missing_ok=True)
        self._listener.close()
        self._listener = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or cancelled; binds first if that wasn't done."""
        if self._listener is None:
            self.bind()
        self._is_running = True
        try:
            with self._serving:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    with self._accepting:
                        await self._accept(nursery)
                    self.close()
        finally:
            self.close()
            self._ended.set()

    async def drain(self, deadline_seconds: float) -> None:
        """Take no more, answer all that was taken, close; what isn't answered by the deadline is cut off.

        Cut off means unanswered, not lost: what was published is still committed. Returns when all is closed.
        """
        self._accepting.cancel()
        for connection in self._connections:
            connection.stop_taking()
        if not self._is_running:
            self.close()
            return
        with trio.move_on_after(deadline_seconds):
            await self._ended.wait()
        if not self._ended.is_set():
            self._log.warning("ingest.drain_cut_off", connections=len(self._connections))
            self._serving.cancel()
            await self._ended.wait()

    async def _accept(self, nursery: trio.Nursery) -> None:
        assert self._listener is not None  # noqa: S101 - `run` has bound it
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(self._listener))
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _OVERLOADED:
                    raise
                # Connections wait in the backlog meanwhile.
                self._log.error("ingest.accept_failed", error=os.strerror(error.errno))
                await trio.sleep(_OVERLOAD_PAUSE_SECONDS)
                continue
            nursery.start_soon(self._serve, stream)

    async def _serve(self, stream: trio.SocketStream) -> None:
        refusal = self._refusal(stream)
        if refusal is not None:
            await self._refuse(stream, *refusal)
            return
        connection = ProducerConnection(
            stream,
            self._publisher,
            max_event_bytes=self._config.max_event_bytes,
            write_timeout_seconds=self._write_timeout_seconds,
            log=self._log,
            refused=self._refused,
        )
        self._connections.add(connection)
        if self._accepting.cancel_called:
            connection.stop_taking()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)

    def _refusal(self, stream: trio.SocketStream) -> tuple[ErrorCode, str] | None:
        """Return why this connection isn't served, or None."""
        uids, gids = self._config.allowed_uids, self._config.allowed_gids
        if uids or gids:
            try:
                peer = read_peer(stream.socket)
            except OSError as error:
                self._log.error("ingest.peer_unknown", error=str(error))
                return ErrorCode.FORBIDDEN, "the kernel doesn't say who is asking"
            if not is_allowed(peer, uids, gids):
                if (connections := self._peers_refused.note()) > 0:
                    self._log.warning(
                        "ingest.peer_refused",
                        connections=connections,
                        uid=peer.uid,
                        gids=sorted(peer.gids),
                        pid=peer.pid,
                    )
                return (
                    ErrorCode.FORBIDDEN,
                    f"user {peer.uid} may not submit events here; ingest.allowed_uids and allowed_gids say who may",
                )
        most = self._config.max_connections
        if len(self._connections) >= most:
            if (connections := self._turned_away.note()) > 0:
                self._log.warning("ingest.too_many_connections", connections=connections, most=most)
            return ErrorCode.RATE_LIMITED, f"{most} connections are open, and ingest.max_connections allows no more"
        return None

    async def _refuse(self, stream: trio.SocketStream, code: ErrorCode, message: str) -> None:
        self._refused(code.value)
        async with stream:
            try:
                with trio.move_on_after(_REFUSAL_TIMEOUT_SECONDS):
                    await stream.send_all(encode_refusal(code, message))
            except trio.BrokenResourceError as gone:
                self._log.debug("ingest.client_gone", error=str(gone))

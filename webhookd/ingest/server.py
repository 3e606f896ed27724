"""The ingest server: accepts producers on a Unix socket, checks their user and groups, and drains on request.

A failure of one connection doesn't affect the others.
"""

from collections.abc import Callable

import trio

from webhookd.base.errors import ErrorCode
from webhookd.config import IngestConfig
from webhookd.ingest.connection import ProducerConnection, Publisher, encode_refusal
from webhookd.observe.logs import get_logger
from webhookd.sockets.accept import RefusedConnections, accept
from webhookd.sockets.peer import is_allowed, read_peer
from webhookd.sockets.unix import UnixListener, bind_unix

_MODE = 0o660
_BACKLOG = 512
_WRITE_TIMEOUT_SECONDS = 30.0
_REFUSAL_TIMEOUT_SECONDS = 1.0

_log = get_logger("ingest")


class IngestServer:
    """The listener of `[ingest] socket` and its connections; call `bind`, then `run` once, then `drain`.

    `refused` is called with the error code of each refused event and each refused connection.
    """

    def __init__(
        self,
        config: IngestConfig,
        publisher: Publisher,
        *,
        refused: Callable[[str], None] = lambda _code: None,
        write_timeout_seconds: float = _WRITE_TIMEOUT_SECONDS,
    ) -> None:
        self._config = config
        self._publisher = publisher
        self._refused = refused
        self._write_timeout_seconds = write_timeout_seconds
        self._listener: UnixListener | None = None
        self._connections: set[ProducerConnection] = set()
        self._forbidden = RefusedConnections()
        self._over_limit = RefusedConnections()
        self._accepting = trio.CancelScope()
        self._serving = trio.CancelScope()
        self._is_running = False
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """The number of producers that are connected."""
        return len(self._connections)

    def bind(self) -> None:
        """Listen on the socket; clients may connect from now on, and `run` serves them.

        Raises ConfigError if the path is too long, and CommandError if it is in use or can't be used.
        """
        self._listener = bind_unix(self._config.socket, mode=_MODE, key="ingest.socket", backlog=_BACKLOG)

    def close(self) -> None:
        """Stop listening and remove the socket file; may be called at any time."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until drained or canceled."""
        assert self._listener is not None  # noqa: S101 - `bind` was called
        bound = self._listener.socket
        self._is_running = True
        try:
            with self._serving:
                async with trio.open_nursery() as nursery:
                    task_status.started()
                    with self._accepting:
                        await accept(
                            bound,
                            lambda stream: nursery.start_soon(self._serve, stream),
                            lambda error: _log.error("ingest.accept_failed", error=error),
                        )
                    self.close()
        finally:
            self.close()
            self._ended.set()

    async def drain(self, deadline_seconds: float) -> None:
        """Read no more events, answer those that were read, and close; at the deadline close without answering.

        An event without an answer is not lost: what was published is still committed. Returns when all is closed.
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
            _log.warning("ingest.drain_cut_off", connections=len(self._connections))
            self._serving.cancel()
            await self._ended.wait()

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
        """Return why this connection is refused, or None."""
        uids, gids = self._config.allowed_uids, self._config.allowed_gids
        if uids or gids:
            try:
                peer = read_peer(stream.socket)
            except OSError as error:
                _log.error("ingest.peer_unknown", error=str(error))
                return ErrorCode.FORBIDDEN, "the kernel doesn't report your user"
            if not is_allowed(peer, uids, gids):
                if (connections := self._forbidden.count()) > 0:
                    _log.warning(
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
            if (connections := self._over_limit.count()) > 0:
                _log.warning("ingest.too_many_connections", connections=connections, most=most)
            return ErrorCode.RATE_LIMITED, f"{most} connections are open, and ingest.max_connections allows no more"
        return None

    async def _refuse(self, stream: trio.SocketStream, code: ErrorCode, message: str) -> None:
        self._refused(code.value)
        async with stream:
            try:
                with trio.move_on_after(_REFUSAL_TIMEOUT_SECONDS):
                    await stream.send_all(encode_refusal(code, message))
            except trio.BrokenResourceError as gone:
                _log.debug("ingest.client_gone", error=str(gone))

"""The guard around Hypercorn: one hostile connection costs itself, and nothing that happens here stops a delivery.

Hypercorn's own server on trio runs all connections in one nursery, so that the exception of one ends them all, and the
process (https://github.com/pgjones/hypercorn/issues/225). Here every connection has a scope and a root of its own:
what it raises is logged and goes no further. The listeners are bound beforehand and outlive `run`, so that it can be
restarted under a supervisor while clients wait in the backlog. The number of connections is bounded for each kind of
listener: a flood over TCP leaves the control socket free.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence
from logging import getLogger

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, LifespanState
from quart_trio import QuartTrio

from webhookd.admin.connection import Connection, NewRequestId, refusal
from webhookd.errors import ErrorCode
from webhookd.logs import Log, get_logger

LOCAL_ADMIN = "webhookd.local_admin"
"""In an ASGI scope's state, the uid of a caller whom the kernel vouches for; only the control socket sets it."""

_UCRED = struct.Struct("=iII")
_OVERLOADED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_OVERLOAD_PAUSE_SECONDS = 0.5
_REQUESTS_PER_CONNECTION = 1000
_HEAD_BYTES = 16 * 1024
_MOST_CONTROL_CONNECTIONS = 100


class Guard:
    """Serves one application on TCP listeners and on control (Unix) listeners that are bound already.

    `run` serves until it is cancelled or drained; after a crash it may be run again. `drain` ends the requests in
    progress and closes the listeners. A request's head must be in after `head_timeout_seconds`, which is also how long
    a connection may be idle; each write must be taken by the client within `write_timeout_seconds`.
    """

    def __init__(
        self,
        app: QuartTrio,
        *,
        tcp: Sequence[socket.socket],
        control: Sequence[socket.socket],
        max_connections: int,
        new_request_id: NewRequestId,
        head_timeout_seconds: float = 15.0,
        write_timeout_seconds: float = 30.0,
        log: Log | None = None,
    ) -> None:
        self._app = app
        self._tcp = tuple(tcp)
        self._control = tuple(control)
        self._max_connections = max_connections
        self._new_request_id = new_request_id
        self._write_timeout_seconds = write_timeout_seconds
        self._log = get_logger("admin.guard") if log is None else log
        self._config = _hypercorn_config(head_timeout_seconds)
        self._context = WorkerContext(None)
        self._connections: dict[bool, set[Connection]] = {False: set(), True: set()}
        self._accepting = trio.CancelScope()
        self._is_running = False
        self._is_draining = False
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """How many clients are connected now."""
        return sum(len(kind) for kind in self._connections.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or drained."""
        if self._is_draining:
            return
        self._is_running = True
        self._accepting = trio.CancelScope()
        try:
            async with trio.open_nursery() as background:
                self._app.nursery = background
                await self._app.startup()
                async with trio.open_nursery() as connections:
                    with self._accepting:
                        async with trio.open_nursery() as accepting:
                            for listener in self._tcp:
                                accepting.start_soon(self._accept, listener, False, connections)
                            for listener in self._control:
                                accepting.start_soon(self._accept, listener, True, connections)
                            task_status.started()
                    self._stop_listening()
                background.cancel_scope.cancel()
        finally:
            self._is_running = False
            self._ended.set()

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, let requests in progress end until the deadline, cut off the rest, and close."""
        self._is_draining = True
        self._ended = trio.Event()
        self._accepting.cancel()
        await self._context.terminated.set()
        if not self._is_running:
            self.close()
            return
        with trio.move_on_after(deadline_seconds):
            await self._ended.wait()
        if not self._ended.is_set():
            self._log.warning("http.drain_cut_off", connections=self.connections)
            for kind in self._connections.values():
                for connection in kind:
                    connection.cancel()
            await self._ended.wait()

    def close(self) -> None:
        """Close the listeners; who bound a socket file takes it away."""
        for listener in (*self._tcp, *self._control):
            listener.close()

    def _stop_listening(self) -> None:
        # Not before: trio must not lose a descriptor that a task waits for in `accept`.
        if self._is_draining:
            self.close()

    async def _accept(self, bound: socket.socket, is_control: bool, connections: trio.Nursery) -> None:
        listener = trio.SocketListener(trio.socket.from_stdlib_socket(bound))
        most = min(self._max_connections, _MOST_CONTROL_CONNECTIONS) if is_control else self._max_connections
        while True:
            try:
                stream = await listener.accept()
            except OSError as error:
                if error.errno not in _OVERLOADED:
                    raise
                # Clients wait in the backlog meanwhile.
                self._log.error("http.accept_failed", error=os.strerror(error.errno))
                await trio.sleep(_OVERLOAD_PAUSE_SECONDS)
                continue
            if len(self._connections[is_control]) >= most:
                self._turn_away(stream, most)
                continue
            connection = self._connection(stream, is_control=is_control)
            self._connections[is_control].add(connection)
            connections.start_soon(self._serve, connection, is_control)

    def _connection(self, stream: trio.SocketStream, *, is_control: bool) -> Connection:
        state = LifespanState()
        if is_control and (uid := _peer_uid(stream)) in {0, os.geteuid()}:
            state[LOCAL_ADMIN] = uid
        app: ASGIFramework = self._app
        return Connection(
            ASGIWrapper(app),
            self._config,
            self._context,
            state,
            stream,
            write_timeout_seconds=self._write_timeout_seconds,
            new_request_id=self._new_request_id,
            log=self._log,
        )

    async def _serve(self, connection: Connection, is_control: bool) -> None:
        try:
            await connection.run()
        except* Exception:  # noqa: BLE001 - a connection's root: what it raises ends here, with its traceback
            self._log.exception("http.connection_failed")
        finally:
            self._connections[is_control].discard(connection)

    def _turn_away(self, stream: trio.SocketStream, most: int) -> None:
        """Answer in one step, without a wait that a flood could multiply."""
        self._log.warning("http.too_many_connections", most=most)
        detail = f"{most} connections are open, and server.max_connections allows no more"
        headers, body = refusal(ErrorCode.RATE_LIMITED.status, detail, self._new_request_id())
        head = b"".join(b"%s: %s\r\n" % header for header in (*headers, (b"retry-after", b"1")))
        descriptor = stream.socket.detach()
        with socket.socket(fileno=descriptor) as turned_away:
            turned_away.setblocking(False)
            try:
                turned_away.send(b"HTTP/1.1 429 Too Many Requests\r\n" + head + b"\r\n" + body)
            except OSError as error:
                self._log.debug("http.client_gone", error=str(error))


def _peer_uid(stream: trio.SocketStream) -> int:
    credentials = stream.socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    _, uid, _ = _UCRED.unpack(credentials)
    return int(uid)


def _hypercorn_config(head_timeout_seconds: float) -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = getLogger("hypercorn.error")
    config.include_server_header = False
    config.h11_max_incomplete_size = _HEAD_BYTES
    config.keep_alive_max_requests = _REQUESTS_PER_CONNECTION
    config.keep_alive_timeout = head_timeout_seconds
    return config

"""The HTTP server around Hypercorn's protocol: a hostile connection ends only itself and stops no delivery.

Hypercorn's own server on trio runs all connections in one nursery, so an exception of one connection ends all of them
and the process (https://github.com/pgjones/hypercorn/issues/225). Here every connection has its own scope, and its
exceptions are logged and go no further. The listeners are bound before and outlive `run`, so that a supervisor can
restart it while clients wait in the backlog. The number of connections is limited for each kind of listener and for
each address: a flood over TCP leaves the control socket free, and one address leaves connections for others. Only the
server's own user and root may use the control socket: the kernel reports the peer's uid, in addition to the file mode.
"""

import os
import socket
from collections import Counter
from collections.abc import Sequence
from http import HTTPStatus
from logging import getLogger

import trio
from hypercorn.app_wrappers import ASGIWrapper
from hypercorn.config import Config as HypercornConfig
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ASGIFramework, LifespanState

from webhookd.admin.connection import HttpConnection, Turns
from webhookd.admin.limits import site_of
from webhookd.admin.protocol import NewRequestId, refusal
from webhookd.observe.logs import get_logger
from webhookd.sockets.accept import RefusedConnections, accept
from webhookd.sockets.peer import read_uid

LOCAL_ADMIN = "webhookd.local_admin"
"""The key, in an ASGI scope's state, of the uid that the kernel reports; only the control socket sets it."""

_REQUESTS_PER_CONNECTION = 1000
_MOST_CONTROL_CONNECTIONS = 100

_log = get_logger("admin.guard")


class Guard:
    """Serves one application on bound TCP listeners and control (Unix) listeners.

    `run` serves until it is cancelled or drained; after a crash it may be run again. `drain` ends the requests in
    progress and closes the listeners. The head of a request must arrive within `head_timeout_seconds`, which is also
    how long a connection may be idle. The application's ASGI lifespan is not used.
    """

    def __init__(
        self,
        app: ASGIFramework,
        *,
        tcp: Sequence[socket.socket],
        control: Sequence[socket.socket],
        max_connections: int,
        max_connections_per_address: int,
        new_request_id: NewRequestId,
        head_timeout_seconds: float = 15.0,
    ) -> None:
        self._app = app
        self._tcp = tuple(tcp)
        self._control = tuple(control)
        self._max_connections = max_connections
        self._max_per_address = max_connections_per_address
        self._new_request_id = new_request_id
        self._config = _hypercorn_config(head_timeout_seconds)
        self._context = WorkerContext(None)
        self._turns = Turns()
        self._connections: dict[bool, set[HttpConnection]] = {False: set(), True: set()}
        self._addresses: Counter[str] = Counter()
        self._refused = RefusedConnections()
        self._accepting = trio.CancelScope()
        self._is_running = False
        self._is_draining = False
        self._ended = trio.Event()

    @property
    def connections(self) -> int:
        """The number of connected clients."""
        return sum(len(kind) for kind in self._connections.values())

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled or drained."""
        if self._is_draining:
            return
        self._is_running = True
        self._accepting = trio.CancelScope()
        try:
            async with trio.open_nursery() as connections:
                with self._accepting:
                    async with trio.open_nursery() as accepting:
                        for listener in self._tcp:
                            accepting.start_soon(self._accept, listener, False, connections)
                        for listener in self._control:
                            accepting.start_soon(self._accept, listener, True, connections)
                        task_status.started()
                self._stop_listening()
        finally:
            self._is_running = False
            self._ended.set()

    async def drain(self, deadline_seconds: float) -> None:
        """Stop accepting, wait for requests in progress until the deadline, cancel the rest, and close."""
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
            _log.warning("http.drain_cut_off", connections=self.connections)
            for kind in self._connections.values():
                for connection in kind:
                    connection.cancel()
            await self._ended.wait()

    def close(self) -> None:
        """Close the listeners; the caller that bound a socket file removes it."""
        for listener in (*self._tcp, *self._control):
            listener.close()

    def _stop_listening(self) -> None:
        # Not before: trio must not lose a descriptor on which a task waits in `accept`.
        if self._is_draining:
            self.close()

    async def _accept(self, bound: socket.socket, is_control: bool, connections: trio.Nursery) -> None:
        await accept(
            bound,
            lambda stream: self._take(stream, is_control, connections),
            lambda error: _log.error("http.accept_failed", error=error),
        )

    def _take(self, stream: trio.SocketStream, is_control: bool, connections: trio.Nursery) -> None:
        address = "" if is_control else _address(stream)
        refused = self._control_refusal(stream) if is_control else self._tcp_refusal(address)
        if refused is not None:
            self._turn_away(stream, *refused)
            return
        connection = self._connection(stream, is_control=is_control)
        self._connections[is_control].add(connection)
        self._addresses[address] += 1
        connections.start_soon(self._serve, connection, is_control, address)

    def _control_refusal(self, stream: trio.SocketStream) -> tuple[HTTPStatus, str] | None:
        uid = read_uid(stream.socket)
        if uid not in {0, os.geteuid()}:
            return HTTPStatus.FORBIDDEN, f"this socket is for the server's own user and root; you are user {uid}"
        if len(self._connections[True]) >= _MOST_CONTROL_CONNECTIONS:
            return HTTPStatus.TOO_MANY_REQUESTS, f"{_MOST_CONTROL_CONNECTIONS} connections to this socket are open"
        return None

    def _tcp_refusal(self, address: str) -> tuple[HTTPStatus, str] | None:
        if len(self._connections[False]) >= self._max_connections:
            detail = f"{self._max_connections} connections are open, and server.max_connections allows no more"
        elif self._addresses[address] >= self._max_per_address:
            detail = (
                f"{self._max_per_address} connections from {address} are open, and server.max_connections_per_address "
                "allows no more"
            )
        else:
            return None
        return HTTPStatus.TOO_MANY_REQUESTS, detail

    def _connection(self, stream: trio.SocketStream, *, is_control: bool) -> HttpConnection:
        state = LifespanState()
        if is_control:
            state[LOCAL_ADMIN] = read_uid(stream.socket)
        return HttpConnection(
            ASGIWrapper(self._app),
            self._config,
            self._context,
            state,
            stream,
            turns=self._turns,
            new_request_id=self._new_request_id,
        )

    async def _serve(self, connection: HttpConnection, is_control: bool, address: str) -> None:
        try:
            await connection.run()
        except* Exception:  # noqa: BLE001 - a connection's root: what it raises ends here, with its traceback
            _log.exception("http.connection_failed")
        finally:
            self._connections[is_control].discard(connection)
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    def _turn_away(self, stream: trio.SocketStream, status: HTTPStatus, detail: str) -> None:
        """Answer in one step, without a wait or a line of the log that a flood could multiply."""
        if (count := self._refused.count()) > 0:
            _log.warning("http.turned_away", connections=count, detail=detail)
        headers, body = refusal(status, detail, self._new_request_id())
        if status is HTTPStatus.TOO_MANY_REQUESTS:
            headers.append((b"retry-after", b"1"))
        head = b"".join(b"%s: %s\r\n" % header for header in headers)
        descriptor = stream.socket.detach()
        with socket.socket(fileno=descriptor) as turned_away:
            turned_away.setblocking(False)
            try:
                turned_away.send(f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() + head + b"\r\n" + body)
            except OSError as error:
                _log.debug("http.client_gone", error=str(error))


def _address(stream: trio.SocketStream) -> str:
    """Return the address by which a client's connections are counted; empty if the client has left."""
    try:
        return site_of(str(stream.socket.getpeername()[0]))
    except OSError:
        return ""  # reset before it was served, which the connection notices by itself


def _hypercorn_config(head_timeout_seconds: float) -> HypercornConfig:
    config = HypercornConfig()
    config.accesslog = None
    config.errorlog = getLogger("hypercorn.error")
    config.include_server_header = False
    config.keep_alive_max_requests = _REQUESTS_PER_CONNECTION
    config.keep_alive_timeout = head_timeout_seconds
    return config

"""Clients that have left, or ended their side: what they sent before is dropped, or takes its turn."""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypercorn.typing import ASGIReceiveCallable, ASGISendCallable, Scope

from tests.admin.raw import split_replies
from webhookd.admin.guard import Guard
from webhookd.sockets.tcp import bind_tcp
from webhookd.sockets.unix import bind_unix

ASK = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
RESET = struct.pack("ii", 1, 0)  # SO_LINGER: close() sends RST and drops what is unread


class Passes(trio.abc.Instrument):
    """Counts the passes of the loop."""

    number = 0

    def before_io_wait(self, timeout: float) -> None:
        self.number += 1


class Application:
    """Answers each request once it may, and knows in which pass of the loop each began and which were cut off."""

    def __init__(self) -> None:
        self.passes = Passes()
        self.began: list[int] = []
        self.may_answer = trio.Event()
        self.may_answer.set()
        self.cut_off = 0

    async def __call__(self, scope: Scope, receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
        self.began.append(self.passes.number)
        while (await receive())["type"] != "http.request":
            pass
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._watch, receive, nursery.cancel_scope)
            await self.may_answer.wait()
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok", "more_body": False})
            nursery.cancel_scope.cancel()

    async def _watch(self, receive: ASGIReceiveCallable, whole: trio.CancelScope) -> None:
        await receive()
        self.cut_off += 1
        whole.cancel()


@asynccontextmanager
async def guarded(directory: Path) -> AsyncIterator[tuple[Application, Guard, tuple[str, int], str]]:
    """Serve the application on a port of loopback and on a Unix socket."""
    app = Application()
    path = directory / "control.sock"
    tcp = bind_tcp("127.0.0.1", 0)
    control = bind_unix(path, mode=0o600, key="server.control_socket", backlog=512).socket
    address: tuple[str, int] = tcp[0].getsockname()
    guard = Guard(
        app,
        tcp=tcp,
        control=[control],
        max_connections=100,
        max_connections_per_address=100,
        new_request_id=lambda: "req_1",
    )
    trio.lowlevel.add_instrument(app.passes)
    async with trio.open_nursery() as nursery:
        await nursery.start(guard.run)
        with trio.fail_after(60):  # noqa: ASYNC100 - the tests wait in it
            yield app, guard, address, str(path)
        nursery.cancel_scope.cancel()
    trio.lowlevel.remove_instrument(app.passes)
    guard.close()


async def connected(guard: Guard, count: int, address: tuple[str, int]) -> list[socket.socket]:
    """Return clients, each of which the server waits for."""
    clients = [socket.create_connection(address) for _ in range(count)]
    while guard.connections < count:
        await trio.lowlevel.checkpoint()
    await trio.testing.wait_all_tasks_blocked()
    return clients


async def answer(client: socket.socket) -> bytes:
    """Return all that a client gets until the server closes."""
    with trio.socket.from_stdlib_socket(client) as stream:
        received = b""
        while chunk := await stream.recv(65_536):
            received += chunk
        return received


async def test_requests_of_clients_that_have_left_are_not_begun(tmp_path: Path) -> None:
    """Input of a connection that was reset is dropped, and other clients are served."""
    async with guarded(tmp_path) as (app, guard, address, _):
        *gone, there = await connected(guard, 21, address)
        # In one step, as after a stall: the server finds each request and each reset at once.
        for client in gone:
            client.sendall(ASK)
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
        there.sendall(ASK)
        there.shutdown(socket.SHUT_WR)
        [reply], rest = split_replies(await answer(there))
        assert (reply.status, rest) == (200, b"")
        while guard.connections:
            await trio.lowlevel.checkpoint()
        assert len(app.began) == 1


async def test_clients_that_have_ended_their_side_take_turns(tmp_path: Path) -> None:
    """Each client gets its answer, and no two requests start in one pass of the event loop."""
    async with guarded(tmp_path) as (app, guard, address, _):
        clients = await connected(guard, 20, address)
        for client in clients:
            client.sendall(ASK)
            client.shutdown(socket.SHUT_WR)
        for client in clients:
            [reply], rest = split_replies(await answer(client))
            assert (reply.status, reply.body, rest) == (200, b"ok", b"")
        assert len(set(app.began)) == len(app.began) == 20


@pytest.mark.parametrize("leaves", [True, False], ids=["closes", "ends its side"])
async def test_the_control_socket_knows_who_has_left(tmp_path: Path, leaves: bool) -> None:
    """A request ends at once when its Unix socket is closed, but not when the client only ended its side."""
    async with guarded(tmp_path) as (app, guard, _, path):
        app.may_answer = trio.Event()
        client = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        client.connect(path)
        client.sendall(ASK)
        while not app.began:
            await trio.lowlevel.checkpoint()
        if leaves:
            client.close()
            while guard.connections:
                await trio.lowlevel.checkpoint()
            assert app.cut_off == 1
            return
        client.shutdown(socket.SHUT_WR)
        await trio.testing.wait_all_tasks_blocked()
        app.may_answer.set()
        [reply], _ = split_replies(await answer(client))
        assert (reply.status, app.cut_off) == (200, 0)

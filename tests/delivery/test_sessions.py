"""TLS sessions: resumed if the server accepts them, taken out once, and never the reason for a failed attempt."""

import socket
import ssl
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread

import pytest
import trio

from tests.delivery.hostile import Stream, saying, serving
from tests.delivery.late_ticket import LateTicketServer
from tests.delivery.out import OK, client_context, sending, server_context
from tests.patience import PATIENCE_SECONDS, until
from webhookd.base.models import DeliveryError
from webhookd.delivery.http.connection import Connection
from webhookd.delivery.http.tls_sessions import MAX_SESSIONS, Resumable, TlsSessions
from webhookd.delivery.http.transport import DirectTransport

CLOSING = OK.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
SERVER = ("receiver.example", 443)
_PRE_SHARED_KEY = 41  # RFC 8446, 4.2


def offers_a_session(hello: bytes) -> bool:
    """Whether a ClientHello (RFC 8446, 4.1.2) has the extension that resumes a session."""
    at = 5 + 4 + 2 + 32  # record and handshake headers, version, random
    at += 1 + hello[at]  # session id
    at += 2 + struct.unpack_from("!H", hello, at)[0]  # cipher suites
    at += 1 + hello[at]  # compression
    end = at + 2 + struct.unpack_from("!H", hello, at)[0]
    at += 2
    while at < end:
        kind, size = struct.unpack_from("!HH", hello, at)
        if kind == _PRE_SHARED_KEY:
            return True
        at += 4 + size
    return False


def has_ticket(connection: Connection) -> bool:
    session = connection.stream.session
    return session is not None and session.has_ticket


@contextmanager
def receiver(*, chokes: bool) -> Iterator[tuple[str, list[str]]]:
    """Answer over TLS and note whether each client resumes; one that `chokes` closes the connection then."""
    listener = socket.create_server(("127.0.0.1", 0))
    context = server_context("127.0.0.1")
    seen: list[str] = []

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                resumes = offers_a_session(connection.recv(65536, socket.MSG_PEEK))
                seen.append("resumes" if resumes else "afresh")
                if resumes and chokes:
                    continue
                with context.wrap_socket(connection, server_side=True) as tls:
                    tls.recv(65536)
                    tls.sendall(CLOSING)

    thread = Thread(target=serve)
    thread.start()
    try:
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/", seen
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


async def test_a_session_is_resumed() -> None:
    """A second connection to a receiver resumes the first one's session."""
    with receiver(chokes=False) as (url, seen):
        async with sending() as out:
            assert [(await out.send(url)).status for _ in range(3)] == [200, 200, 200]
    assert seen == ["afresh", "resumes", "resumes"]


async def test_a_receiver_that_chokes_on_its_session_is_asked_without() -> None:
    """A handshake that fails with a session is tried again without it, within the same attempt."""
    with receiver(chokes=True) as (url, seen):
        async with sending() as out:
            assert [(await out.send(url)).status for _ in range(3)] == [200, 200, 200]
    assert seen == ["afresh", "resumes", "afresh", "resumes", "afresh"]


async def test_a_ticket_that_comes_while_a_connection_is_idle_leaves_it_good(tmp_path: Path) -> None:
    """A session ticket is no answer that nobody asked for: the sender reads it, and reuses the connection."""
    is_idle = trio.Event()

    async def script(stream: Stream, number: int) -> None:
        server = LateTicketServer(stream, tmp_path / f"keys of {number}")
        await server.shake_hands()
        await server.read_until(b"{}")
        await server.send(OK)
        await is_idle.wait()
        await server.send_ticket()
        await server.read_until(b"{}")
        await server.send(OK)

    async with sending() as out, serving(script) as served:
        with trio.fail_after(PATIENCE_SECONDS):
            url = served.url.replace("http:", "https:")
            assert (await out.send(url)).status == 200
            transport = out.sender.transport
            assert isinstance(transport, DirectTransport)
            [idle] = transport._idle
            assert not has_ticket(idle)
            is_idle.set()
            await until(lambda: idle.is_closed or has_ticket(idle))
            outcome = await out.send(url)
        assert (outcome.status, outcome.is_reused, served.connections) == (200, True, 1)


async def test_a_bad_certificate_is_no_session_matter() -> None:
    """A handshake that fails without a session fails the attempt at once."""
    async with sending() as out, serving(saying(OK), ssl_context=server_context("127.0.0.2")) as wrong:
        assert (await out.send(wrong.url)).error is DeliveryError.TLS
        assert wrong.connections == 1


@pytest.fixture
def session() -> ssl.SSLSession:
    """Return a session of a handshake in memory."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context().wrap_bio(to_client, to_server, server_hostname="127.0.0.1")
    server = server_context("127.0.0.1").wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    server.write(b"x")
    client.read()
    assert client.session is not None
    return client.session


def test_a_session_is_given_out_once_and_until_it_expires(session: ssl.SSLSession) -> None:
    """A session is taken out once, and not after it has expired."""
    sessions = TlsSessions()
    for now in (0.0, 159.0):
        sessions.put(SERVER, Resumable(session, 160.0))
        assert sessions.take(SERVER, now) == Resumable(session, 160.0)
        assert sessions.take(SERVER, now) is None
    sessions.put(SERVER, Resumable(session, 160.0))
    assert sessions.take(SERVER, 160.0) is None


def test_sessions_are_bounded(session: ssl.SSLSession) -> None:
    """The oldest sessions are dropped when there are too many."""
    sessions = TlsSessions()
    for number in range(MAX_SESSIONS + 1):
        sessions.put((f"h{number}", 443), Resumable(session, 1.0))
    assert sessions.take(("h0", 443), 0.0) is None
    assert sessions.take(("h1", 443), 0.0) is not None

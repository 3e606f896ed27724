"""A pooler between webhookd and the database is found, and what it does: a small one stands in for PgBouncer."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.postgres_server import PostgresServer
from webhookd.base.database_url import parse
from webhookd.journal import Pooler, Server, look_at_server

_NAME = ".s.PGSQL.5432"


class StandIn:
    """Passes messages on as a pooler does, in the mode `session` or `transaction`.

    Like PgBouncer it tells each client of a process that isn't the one of the server, and gives the connection that
    was free last.
    """

    def __init__(self, server: Path, directory: Path, mode: str) -> None:
        self._server = server
        self._mode = mode
        self._free: list[socket.socket] = []
        self._has_free = threading.Condition()
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(directory / _NAME))
        self._listener.listen()
        self._all: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._all:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._all.append(client)
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError):
            backend: socket.socket | None = socket.socket(socket.AF_UNIX)
            assert backend is not None
            self._all.append(backend)
            backend.connect(str(self._server / _NAME))
            backend.sendall(_startup(client))
            self._answer(backend, client, is_shared=True)
            while True:
                kind, message = _message(client)
                if kind == b"X":
                    return
                with self._has_free:
                    self._has_free.wait_for(lambda: self._free)
                    backend = self._free.pop()
                self._transact(client, backend, kind, message)

    def _transact(self, client: socket.socket, backend: socket.socket, kind: bytes, message: bytes) -> None:
        """Pass on the messages of a transaction, or of the whole session."""
        while True:
            backend.sendall(message)
            is_shared = self._mode == "transaction"
            if kind in {b"Q", b"S"} and self._answer(backend, client, is_shared=is_shared) == b"I" and is_shared:
                return
            kind, message = _message(client)

    def _give_back(self, backend: socket.socket) -> None:
        with self._has_free:
            self._free.append(backend)
            self._has_free.notify()

    def _answer(self, backend: socket.socket, client: socket.socket, *, is_shared: bool) -> bytes:
        """Pass on what the server says until it is ready; return the state of the transaction.

        A connection that `is_shared` is given back after a transaction, before the client knows that it has ended.
        """
        while True:
            kind, message = _message(backend)
            if kind == b"K":  # the process and the secret with which a client may cancel
                message = message[:5] + struct.pack("!I", 1) + message[9:]
            if kind == b"Z" and message[5:6] == b"I" and is_shared:
                self._give_back(backend)
            client.sendall(message)
            if kind == b"Z":
                return message[5:6]


def _read(source: socket.socket, size: int) -> bytes:
    read = b""
    while len(read) < size:
        chunk = source.recv(size - len(read))
        if not chunk:
            raise EOFError
        read += chunk
    return read


def _startup(client: socket.socket) -> bytes:
    size = _read(client, 4)
    return size + _read(client, struct.unpack("!I", size)[0] - 4)


def _message(source: socket.socket) -> tuple[bytes, bytes]:
    """Read a message of the protocol (https://www.postgresql.org/docs/current/protocol-message-formats.html)."""
    head = _read(source, 5)
    return head[:1], head + _read(source, struct.unpack("!I", head[1:])[0] - 4)


@contextmanager
def pooled(postgres: PostgresServer, directory: Path, database: str, mode: str) -> Iterator[str]:
    """Run a stand-in; yield the URL of the database through it."""
    url = parse(database)
    stand_in = StandIn(postgres.directory, directory, mode)
    try:
        yield f"postgresql://{url.user}@/{url.database}?host={directory}"
    finally:
        stand_in.close()


@pytest.mark.parametrize("mode", [Pooler.SESSION, Pooler.TRANSACTION])
def test_a_pooler_is_found(
    postgres_server: PostgresServer, tmp_path: Path, journal_database: str, mode: Pooler
) -> None:
    """A pooler in session mode is distinguished from one in transaction mode, which loses the state of a session."""
    with (
        pooled(postgres_server, tmp_path, journal_database, mode) as url,
        look_at_server(Server(url=parse(url))) as (_, facts),
    ):
        assert facts.pooler is mode


def test_a_direct_connection_has_none(journal_database: str) -> None:
    """Without a pooler the driver knows the process that serves it."""
    with look_at_server(Server(url=parse(journal_database))) as (_, facts):
        assert facts.pooler is Pooler.NONE

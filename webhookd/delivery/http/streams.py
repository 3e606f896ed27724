"""A byte stream over one non-blocking socket, clear or TLS: the system calls, and trio's wait where they would block.

trio's own streams make each call a turn of the scheduler. Here a request that fits the socket's buffer is handed over
in one call, and an answer costs the one wait for it. OpenSSL works on the socket itself, so TLS costs no further copy.
Errors are the system's: OSError, of which ssl.SSLError is one.
"""

import errno
import os
import select
import socket
import ssl

import trio


class ByteStream:
    """A connected stream to the numeric address `peer`; used by one task at a time, closed by whoever has it."""

    __slots__ = ("_poll", "_socket", "_tls", "peer")

    def __init__(self, connected: socket.socket) -> None:
        self.peer: str = connected.getpeername()[0].partition("%")[0]
        self._socket = connected
        self._tls: ssl.SSLSocket | None = None
        self._poll = select.poll()
        self._poll.register(connected.fileno(), select.POLLIN)

    async def secure(
        self, context: ssl.SSLContext, server_hostname: str, session: ssl.SSLSession | None = None
    ) -> None:
        """Shake hands as `server_hostname`'s client, resuming `session` if it is given and still taken.

        Raises ssl.SSLError, OSError, or ValueError for a name that can't be one; the stream is then only to be closed.
        """
        tls = context.wrap_socket(
            self._socket, server_hostname=server_hostname, do_handshake_on_connect=False, session=session
        )
        self._socket = self._tls = tls
        while True:
            try:
                tls.do_handshake()
            except ssl.SSLWantReadError:
                wait = trio.lowlevel.wait_readable
            except ssl.SSLWantWriteError:
                wait = trio.lowlevel.wait_writable
            else:
                return
            await wait(tls)

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session to resume; under TLS 1.3 only there once something was received."""
        return None if self._tls is None else self._tls.session

    @property
    def was_resumed(self) -> bool:
        """Whether the TLS session goes on from another one."""
        return self._tls is not None and bool(self._tls.session_reused)

    @property
    def is_readable(self) -> bool:
        """Whether something has come that nobody has read: bytes, or the end."""
        # OpenSSL may have taken it off the socket already.
        return bool(self._poll.poll(0)) or (self._tls is not None and self._tls.pending() > 0)

    async def send_all(self, data: bytes) -> None:
        """Send all of it; returns without a turn of the scheduler where the socket's buffer takes it at once."""
        left: bytes | memoryview = data
        while True:
            try:
                sent = self._socket.send(left)
            except (BlockingIOError, ssl.SSLWantWriteError):
                wait = trio.lowlevel.wait_writable
            except ssl.SSLWantReadError:
                wait = trio.lowlevel.wait_readable
            else:
                if sent == len(left):
                    return
                left = memoryview(left)[sent:]
                continue
            await wait(self._socket)

    async def receive(self, max_bytes: int) -> bytes:
        """Wait for something and return it; empty at the end of the stream."""
        while True:
            if self._tls is None or not self._tls.pending():
                await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(max_bytes)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue  # woken for nothing, or for a part of a TLS record
            except ssl.SSLWantWriteError:
                pass
            await trio.lowlevel.wait_writable(self._socket)

    def cut_off(self) -> None:
        """Have whoever waits on the stream now get trio.ClosedResourceError; it stays for them to close."""
        trio.lowlevel.notify_closing(self._socket)

    def close(self) -> None:
        """Close at once; a TLS goodbye could block."""
        self._socket.close()


async def dial(address: str, port: int) -> ByteStream:
    """Connect to a numeric address; OSError where that fails."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    dialed = socket.socket(family, socket.SOCK_STREAM)
    try:
        await _connect(dialed, address, port)
        return ByteStream(dialed)
    except BaseException:
        dialed.close()
        raise


async def _connect(dialed: socket.socket, address: str, port: int) -> None:
    dialed.setblocking(False)
    dialed.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    number = dialed.connect_ex((address, port))
    if number == errno.EINPROGRESS:
        await trio.lowlevel.wait_writable(dialed)
        number = dialed.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    if number != 0:
        raise OSError(number, os.strerror(number))

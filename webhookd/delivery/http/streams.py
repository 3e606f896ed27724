"""A byte stream over one non-blocking socket, plain or TLS: system calls, and a wait in trio where they would block.

trio's own streams run the scheduler at each call. Here a request that fits the socket's buffer is sent in one call, and
an answer costs one wait. OpenSSL works on the socket itself, so TLS costs no further copy. Errors are the system's:
OSError, of which ssl.SSLError is a subclass.
"""

import errno
import os
import select
import socket
import ssl

import trio


class ByteStream:
    """A connected stream to the numeric address `peer`, for one task at a time; its owner closes it."""

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
        """Make the TLS handshake with `server_hostname`, resuming `session` if the server still accepts it.

        Raises ssl.SSLError, OSError, or ValueError for an invalid name; the stream can then only be closed.
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
        """The TLS session to resume later; with TLS 1.3 there is none before something was received."""
        return None if self._tls is None else self._tls.session

    @property
    def was_resumed(self) -> bool:
        """Whether the TLS session was resumed."""
        return self._tls is not None and bool(self._tls.session_reused)

    @property
    def is_readable(self) -> bool:
        """Whether there is something to read: bytes, or the end of the stream."""
        # OpenSSL may have read bytes from the socket already.
        return bool(self._poll.poll(0)) or (self._tls is not None and self._tls.pending() > 0)

    async def send_all(self, data: bytes) -> None:
        """Send all the data, without running trio's scheduler if the socket's buffer takes it at once."""
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
        """Wait for bytes and return them; empty at the end of the stream."""
        while True:
            if self._tls is None or not self._tls.pending():
                await trio.lowlevel.wait_readable(self._socket)
            try:
                return self._socket.recv(max_bytes)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue  # a false wake-up, or a part of a TLS record
            except ssl.SSLWantWriteError:
                pass
            await trio.lowlevel.wait_writable(self._socket)

    def cut_off(self) -> None:
        """Raise trio.ClosedResourceError in the task that waits on the stream, which then closes it."""
        trio.lowlevel.notify_closing(self._socket)

    def close(self) -> None:
        """Close at once; a TLS close message could block."""
        self._socket.close()


async def dial(address: str, port: int) -> ByteStream:
    """Connect to a numeric address; OSError if that fails."""
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

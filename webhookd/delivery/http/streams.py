"""A byte stream over one non-blocking socket, plain or TLS: the system's calls, none of which waits.

Only connecting and the TLS handshake wait, in trio. OpenSSL works on the socket itself, so TLS costs no further copy.
Errors are the system's: OSError, of which ssl.SSLError is a subclass.
"""

import errno
import os
import socket
import ssl

import trio


class ByteStream:
    """A connected stream to the numeric address `peer`; its owner closes it.

    `needs_write`: the last `receive` can go on only once the socket can be written to, which TLS may ask for.
    """

    __slots__ = ("_tls", "needs_write", "peer", "socket")

    def __init__(self, connected: socket.socket) -> None:
        self.peer: str = connected.getpeername()[0].partition("%")[0]
        self.socket = connected
        self.needs_write = False
        self._tls: ssl.SSLSocket | None = None

    async def secure(
        self, context: ssl.SSLContext, server_hostname: str, session: ssl.SSLSession | None = None
    ) -> None:
        """Make the TLS handshake with `server_hostname`, resuming `session` if the server still accepts it.

        Raises ssl.SSLError, OSError, or ValueError for an invalid name; the stream can then only be closed.
        """
        tls = context.wrap_socket(
            self.socket, server_hostname=server_hostname, do_handshake_on_connect=False, session=session
        )
        self.socket = self._tls = tls
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
    def has_more(self) -> bool:
        """Whether `receive` returns bytes that have been read from the socket already: no event announces them."""
        return self._tls is not None and self._tls.pending() > 0

    def send(self, data: bytes | memoryview) -> int:
        """Send what the socket's buffer takes; return how many bytes that were, perhaps 0."""
        try:
            return self.socket.send(data)
        except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
            return 0

    def receive(self, max_bytes: int) -> bytes | None:
        """Return bytes that have come, empty at the end of the stream; None if there are none yet."""
        self.needs_write = False
        try:
            return self.socket.recv(max_bytes)
        except (BlockingIOError, ssl.SSLWantReadError):
            return None  # a false alarm, or a part of a TLS record
        except ssl.SSLWantWriteError:
            self.needs_write = True
            return None

    def close(self) -> None:
        """Close at once; a TLS close message could block."""
        self.socket.close()


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

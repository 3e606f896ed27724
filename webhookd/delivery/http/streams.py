"""A byte stream over one non-blocking socket, plain or TLS. Only connecting and the TLS handshake wait, in trio.

OpenSSL works in memory, and is given a bounded piece at a time. On the socket itself it would read for as long as the
peer sends records without data, such as session tickets, and everything else would stop meanwhile. Errors are the
system's: OSError, of which ssl.SSLError is a subclass.
"""

import errno
import os
import socket
import ssl
from contextlib import suppress

import trio

CHUNK_BYTES = 16 * 1024
MAX_BYTES_WITHOUT_DATA = 64 * 1024  # in a row; a server sends a few session tickets of less than 1 KiB each
_NOTHING = memoryview(b"")


class _Tls:
    """OpenSSL, and the encrypted bytes that come in and go out."""

    __slots__ = ("incoming", "outgoing", "side")

    def __init__(self, context: ssl.SSLContext, server_hostname: str, session: ssl.SSLSession | None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.side = context.wrap_bio(self.incoming, self.outgoing, server_hostname=server_hostname, session=session)


class ByteStream:
    """A connected stream to the numeric address `peer`; its owner closes it."""

    __slots__ = ("_bytes_without_data", "_tls", "_unsent", "peer", "socket")

    def __init__(self, connected: socket.socket) -> None:
        self.peer: str = connected.getpeername()[0].partition("%")[0]
        self.socket = connected
        self._unsent = _NOTHING
        self._tls: _Tls | None = None
        self._bytes_without_data = 0

    async def secure(
        self, context: ssl.SSLContext, server_hostname: str, session: ssl.SSLSession | None = None
    ) -> None:
        """Make the TLS handshake with `server_hostname`, resuming `session` if the server still accepts it.

        Raises ssl.SSLError, OSError, or ValueError for an invalid name; the stream can then only be closed.
        """
        tls = self._tls = _Tls(context, server_hostname, session)
        is_done = False
        while not is_done:
            try:
                tls.side.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError:
                with suppress(OSError):
                    self.send()  # an alert, which tells the server why
                raise
            is_sent = self.send()
            while not is_sent:
                await trio.lowlevel.wait_writable(self.socket)
                is_sent = self.send()
            if not is_done:
                await trio.lowlevel.wait_readable(self.socket)
                self._fill(tls)
        self._bytes_without_data = 0

    @property
    def session(self) -> ssl.SSLSession | None:
        """The TLS session to resume later; with TLS 1.3 there is none before something was received."""
        return None if self._tls is None else self._tls.side.session

    @property
    def was_resumed(self) -> bool:
        """Whether the TLS session was resumed."""
        return self._tls is not None and bool(self._tls.side.session_reused)

    @property
    def is_sent(self) -> bool:
        """Whether the system has taken all that was to be sent."""
        return not self._unsent

    @property
    def has_more(self) -> bool:
        """Whether bytes have been read from the socket that `receive` hasn't returned: no event announces them."""
        return self._tls is not None and (self._tls.incoming.pending > 0 or self._tls.side.pending() > 0)

    def send(self, data: bytes = b"") -> bool:
        """Send what is left to be sent, and then these data, as far as the socket's buffer takes them.

        Returns whether that is all of it.
        """
        if self._tls is not None:
            data = self._encrypted(self._tls, data)
        unsent: bytes | memoryview = data
        if self._unsent:
            unsent = b"".join((self._unsent, data)) if data else self._unsent
        if not unsent:
            return True
        try:
            sent = self.socket.send(unsent)
        except BlockingIOError:
            sent = 0
        if sent == len(unsent):
            self._unsent = _NOTHING
            return True
        self._unsent = memoryview(unsent)[sent:]
        return False

    def receive(self, max_bytes: int) -> bytes | None:
        """Return bytes that have come, empty at the end of the stream; None if there are none yet."""
        if (tls := self._tls) is None:
            try:
                return self.socket.recv(max_bytes)
            except BlockingIOError:
                return None
        if self.has_more and (data := self._decrypted(tls, max_bytes)) is not None:
            return data
        return self._decrypted(tls, max_bytes) if self._fill(tls) else None

    def _fill(self, tls: _Tls) -> bool:
        """Read from the socket once; return whether there was something, be it the end."""
        try:
            received = self.socket.recv(CHUNK_BYTES)
        except BlockingIOError:
            return False
        if received:
            tls.incoming.write(received)
            self._bytes_without_data += len(received)
        else:
            tls.incoming.write_eof()
        return True

    def _decrypted(self, tls: _Tls, max_bytes: int) -> bytes | None:
        data = None
        try:
            data = tls.side.read(max_bytes)
            self._bytes_without_data = 0
        except ssl.SSLWantReadError:
            if self._bytes_without_data > MAX_BYTES_WITHOUT_DATA:
                raise OSError("the receiver sends TLS records without data") from None
        except (ssl.SSLEOFError, ssl.SSLZeroReturnError):
            return b""  # also without TLS's goodbye, which many servers omit
        if tls.outgoing.pending:
            self.send()  # an answer of TLS itself, as to a request for new keys
        return data

    @staticmethod
    def _encrypted(tls: _Tls, data: bytes) -> bytes:
        """Return data as TLS records, after what TLS itself has to send."""
        records = []
        for start in range(0, len(data), CHUNK_BYTES):  # OpenSSL's buffer stays as large as it once was
            tls.side.write(data[start : start + CHUNK_BYTES])
            records.append(tls.outgoing.read())
        return b"".join(records) or tls.outgoing.read()

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

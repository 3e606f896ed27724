"""Connections to the egress proxy, for httpcore: nothing else is dialled, and each response is bounded and checked.

A response is read twice, by our own reader and then by httpcore, and accepted only if both agree on it and on its end.
httpcore is given the head in the normal form of our own reader. So the same bounds and checks apply as on direct
connections.
"""

import ssl
from collections.abc import Iterable
from functools import partial
from ipaddress import ip_address
from math import inf

import httpcore
import trio

from webhookd.delivery.egress.addresses import interleaved
from webhookd.delivery.egress.rules import MAX_DIALED, Resolver
from webhookd.delivery.http.exchange import deepest, reason_of
from webhookd.delivery.http.happy_eyeballs import FailedAddress, most_telling, race
from webhookd.delivery.http.wire import ResponseReader, WireError

_CHUNK_BYTES = 16 * 1024


class EnoughError(httpcore.ReadError):
    """No more of a response is read; `reader` has the beginning."""

    def __init__(self, reader: ResponseReader) -> None:
        super().__init__()
        self.reader = reader


class TlsError(httpcore.ConnectError):
    """TLS with the receiver failed; the text says why."""


class ClosedWhileIdleError(httpcore.ReadError):
    """A reused connection ended before a byte of a response."""


class ToTheProxy(httpcore.AsyncNetworkBackend):
    """Dials the proxy and nothing else; with a context it also makes the TLS handshake with the proxy."""

    def __init__(self, host: str, port: int, resolver: Resolver, ssl_context: ssl.SSLContext | None = None) -> None:
        self._host = host
        self._port = port
        self._resolver = resolver
        self._ssl_context = ssl_context
        self._dialer = httpcore.TrioBackend()
        self._open: set[trio.socket.SocketType] = set()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Connect to the proxy, at the first of its addresses that answers."""
        if (host, port) != (self._host, self._port):
            raise httpcore.ConnectError(f"{host}:{port} is not the proxy")
        lost: list[FailedAddress[httpcore.ConnectError]] = []
        with trio.move_on_after(inf if timeout is None else timeout):
            try:
                answers = await self._resolver.resolve(host, port)
            except OSError as error:
                raise httpcore.ConnectError(f"the proxy's name doesn't resolve: {error.strerror or error}") from error
            addresses = [str(address) for address in interleaved(ip_address(answer) for answer in answers)]
            if not addresses:
                raise httpcore.ConnectError("the proxy's name has no address")
            connect = partial(self._reach, local_address, tuple(socket_options or ()))
            reached = await race(addresses[:MAX_DIALED], connect, lost)
            if reached is not None:
                return reached
            raise most_telling(lost).error
        raise httpcore.ConnectTimeout

    async def _reach(
        self, local_address: str | None, socket_options: Iterable[httpcore.SOCKET_OPTION], address: str
    ) -> "TunnelStream | FailedAddress[httpcore.ConnectError]":
        """Dial one of the proxy's addresses and, for https, make the TLS handshake: only then is it connected."""
        try:
            inner = await self._dialer.connect_tcp(address, self._port, None, local_address, socket_options)
        except httpcore.ConnectError as error:
            return FailedAddress(httpcore.ConnectError(f"can't connect to the proxy: {reason_of(error)}"), address)
        stream = TunnelStream(inner, self._open)
        if self._ssl_context is None:
            return stream
        try:
            secured = await stream.start_tls(self._ssl_context, self._host)
        except httpcore.ConnectError as error:
            stream.close()
            return FailedAddress(error, address, got_through=True)
        except BaseException:
            stream.close()
            raise
        secured.is_secured_already = True
        return secured

    def close(self) -> None:
        """Close every connection that was opened here."""
        while self._open:
            self._open.pop().close()


class TunnelStream(httpcore.AsyncNetworkStream):
    """A connection to the proxy or through it, on which our own reader reads each response first."""

    def __init__(self, inner: httpcore.AsyncNetworkStream, is_open: set[trio.socket.SocketType]) -> None:
        self._inner = inner
        self._socket: trio.socket.SocketType = inner.get_extra_info("socket")
        self._open = is_open
        is_open.add(self._socket)
        self.reader = ResponseReader()
        self.is_secured_already = False
        self._requests = 0
        self._is_asking = False

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ASYNC109 - httpcore's signature
        """Return the next bytes of a response; an error of httpcore's if our own reader refuses it."""
        reader, self._is_asking = self.reader, False
        if reader.is_complete:
            raise httpcore.RemoteProtocolError("the receiver's answer can be read in two ways")
        readable = b""
        try:
            while not readable:  # to httpcore no bytes are the end, so a part of a head is held back
                data = await self._inner.read(min(max_bytes, reader.room, _CHUNK_BYTES), timeout)
                if not data:
                    if not self._was_lost_while_idle:
                        reader.end()
                    break
                readable = reader.feed(data)
        except httpcore.ReadError as error:
            if not self._was_lost_while_idle:
                # An alert, such as one that asks for a client certificate, comes after TLS 1.3's handshake.
                kind = TlsError if isinstance(deepest(error), ssl.SSLError) else httpcore.ReadError
                raise kind(f"the connection broke: {reason_of(error)}") from error
        except WireError as error:
            raise httpcore.RemoteProtocolError(str(error)) from error
        if self._was_lost_while_idle:
            raise ClosedWhileIdleError("the connection was closed without a byte of an answer")
        if reader.room <= 0:
            raise EnoughError(reader)
        return readable

    @property
    def _was_lost_while_idle(self) -> bool:
        """Whether nothing has been read of this response and the connection had been used before."""
        return self._requests > 1 and not self.reader.has_bytes

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ASYNC109 - as above
        """Send bytes of a request; the first ones after a response begin the next request."""
        if not self._is_asking:
            self._is_asking = True
            self._requests += 1
            self.reader = ResponseReader()
        await self._inner.write(buffer, timeout)

    async def aclose(self) -> None:
        """Close at once; a TLS close message could block, and httpcore shields it."""
        self.close()

    def close(self) -> None:
        """Close at once."""
        self._open.discard(self._socket)
        self._socket.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore's signature
    ) -> "TunnelStream":
        """Make the TLS handshake with the proxy or, once it has answered CONNECT, with the receiver."""
        if self.is_secured_already:
            self.is_secured_already = False  # httpcore asks for TLS once more
            return self
        name = server_hostname.strip("[]") if server_hostname else None
        try:
            return TunnelStream(await self._inner.start_tls(ssl_context, name, timeout), self._open)
        except (httpcore.ConnectError, ssl.SSLError, ValueError) as error:
            kind = TlsError if self._requests else httpcore.ConnectError
            raise kind(f"the TLS handshake failed: {reason_of(error)}") from error

    def get_extra_info(self, info: str) -> object:
        """Return a fact about the connection; httpcore closes an idle one that `is_readable`."""
        if info == "is_readable" and (not self.reader.is_reusable or self._holds_bytes):
            return True
        return self._inner.get_extra_info(info)

    @property
    def _holds_bytes(self) -> bool:
        """Whether TLS has read something from the socket: bytes that belong to no request, or the end."""
        tls: ssl.SSLObject | None = self._inner.get_extra_info("ssl_object")
        if tls is None:
            return False
        try:
            tls.read(1)
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass  # whatever it is, no request can be sent over it
        return True

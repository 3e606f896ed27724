"""The way out: one HTTP/1.1 request over a connection of ours, to an address that the egress policy has checked.

A pool that all receivers share collapses under many of them, so each endpoint has its own few connections, kept alive
while they are idle. One that the receiver closed meanwhile shows only when it is used: what fails on a reused one
before a byte of an answer is sent once more on a fresh one, as part of the same exchange.
"""

import os
import select
import ssl
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address

import httpx
import trio

from webhookd.delivery.egress import BlockedError, EgressPolicy, Resolver, Target
from webhookd.delivery.wire import ResponseReader, WireError
from webhookd.models import DeliveryError

IDLE_SECONDS = 30.0
MAX_IDLE = 1024
MAX_IDLE_AN_ENDPOINT = 32

_CHUNK_BYTES = 16 * 1024
_ENDPOINT = "webhookd.endpoint"

Headers = Iterable[tuple[str, str]]


class TransportError(Exception):
    """An exchange that brought no response; `code` is what it is recorded as, the text what went wrong."""

    def __init__(self, code: DeliveryError, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


@dataclass(slots=True)
class Progress:
    """How far an exchange has come; still there when it is cut off."""

    doing: str = "resolving the name"
    remote_address: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """A response: at most 4 KiB of its body, and whether there was more."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_truncated: bool


@dataclass(eq=False, slots=True)
class _Connection:
    origin: tuple[str, str, int]
    endpoint_id: str
    stream: trio.SocketStream | trio.SSLStream[trio.SocketStream]
    socket: trio.socket.SocketType
    remote_address: str
    is_reused: bool = False
    idle_since: float = field(default=0.0)

    def close(self) -> None:
        """Close at once; a TLS goodbye could block."""
        self.socket.close()

    @property
    def was_closed(self) -> bool:
        """Whether something came while it was idle: the end, or bytes that nobody asked for."""
        poll = select.poll()
        poll.register(self.socket.fileno(), select.POLLIN)
        if poll.poll(0):
            return True
        if not isinstance(self.stream, trio.SSLStream):
            return False
        try:  # TLS may have taken it off the socket already
            self.stream._ssl_object.read(1)  # noqa: SLF001 - the stream would wait
        except ssl.SSLWantReadError:
            return False
        except ssl.SSLError:
            pass
        return True


class DirectTransport(httpx.AsyncBaseTransport):
    """Sends requests itself, each endpoint over its own connections.

    `exchange` is the whole of it; `handle_async_request` offers the same to httpx.
    """

    def __init__(
        self,
        policy: EgressPolicy,
        resolver: Resolver,
        ssl_context: ssl.SSLContext,
        *,
        connect_timeout_seconds: float,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._ssl_context = ssl_context
        self._connect_timeout_seconds = connect_timeout_seconds
        self._idle: OrderedDict[_Connection, None] = OrderedDict()  # the one that is idle the longest first
        self._idle_of: dict[str, list[_Connection]] = {}

    @property
    def idle_connections(self) -> int:
        """How many connections wait for their next request."""
        return len(self._idle)

    async def exchange(
        self, endpoint_id: str, url: str, headers: Headers, body: bytes, progress: Progress
    ) -> Exchanged:
        """Send one POST and return its response; TransportError for everything that keeps it from coming.

        There is no deadline but the one for connecting: set one around it.
        """
        try:
            target = self._policy.parse(url)
        except BlockedError as error:
            raise TransportError(DeliveryError.BLOCKED, str(error)) from error
        request = _encode(target, headers, body)
        connection = self._take(endpoint_id, target)
        if connection is not None:
            try:
                return await self._use(connection, request, progress)
            except _ClosedWhileIdleError:
                # Most likely the request never got there; and receivers know a repeated one by its id.
                progress.doing = "connecting again"
        connection = await self._connect(endpoint_id, target, progress)
        return await self._use(connection, request, progress)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send httpx's request, a POST with a known body; its connections go by `extensions["webhookd.endpoint"]`."""
        body = await request.aread()
        names = {"host", "content-length"}
        headers = [(name, value) for name, value in request.headers.multi_items() if name not in names]
        endpoint_id = request.extensions.get(_ENDPOINT, str(request.url.netloc))
        try:
            exchanged = await self.exchange(endpoint_id, str(request.url), headers, body, Progress())
        except TransportError as error:
            raise httpx.TransportError(f"{error.code.value}: {error.detail}") from error
        return httpx.Response(exchanged.status, headers=exchanged.headers, stream=httpx.ByteStream(exchanged.body))

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        for connection in self._idle_of.pop(endpoint_id, []):
            del self._idle[connection]
            connection.close()
        await trio.lowlevel.checkpoint()

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since before that time (trio's clock)."""
        while self._idle and (oldest := next(iter(self._idle))).idle_since < before:
            self._drop(oldest)

    async def aclose(self) -> None:
        """Close every idle connection."""
        self.close_idle(float("inf"))
        await trio.lowlevel.checkpoint()

    async def _use(self, connection: _Connection, request: bytes, progress: Progress) -> Exchanged:
        progress.remote_address = connection.remote_address
        progress.doing = "waiting for the answer"
        reader = ResponseReader()
        try:
            await self._speak(connection, request, reader)
        except BaseException:
            connection.close()
            raise
        if reader.is_reusable:
            self._keep(connection)
        else:
            connection.close()
        return Exchanged(
            status=reader.status,
            headers=tuple(reader.headers),
            body=bytes(reader.body),
            is_truncated=reader.is_truncated,
        )

    async def _speak(self, connection: _Connection, request: bytes, reader: ResponseReader) -> None:
        stream = connection.stream
        broken: trio.BrokenResourceError | None = None
        try:
            await stream.send_all(request)
        except trio.BrokenResourceError as error:
            broken = error  # it may have answered before it closed
        try:
            while not reader.is_complete:
                data = await stream.receive_some(min(reader.room, _CHUNK_BYTES))
                if not data:
                    if connection.is_reused and not reader.has_bytes:
                        raise _ClosedWhileIdleError
                    reader.end()
                else:
                    reader.feed(bytes(data))
        except trio.BrokenResourceError as error:
            if connection.is_reused and not reader.has_bytes:
                raise _ClosedWhileIdleError from error
            # An alert, as of a receiver that wants a certificate, comes behind TLS 1.3's handshake.
            code = DeliveryError.TLS if isinstance(error.__cause__, ssl.SSLError) else DeliveryError.PROTOCOL
            raise TransportError(code, f"the connection broke: {_reason(broken or error)}") from error
        except WireError as error:
            raise TransportError(DeliveryError.PROTOCOL, str(error)) from error

    async def _connect(self, endpoint_id: str, target: Target, progress: Progress) -> _Connection:
        progress.remote_address = None
        with trio.move_on_after(self._connect_timeout_seconds):
            addresses = await self._resolve(target, progress)
            progress.doing = "connecting"
            stream = await self._dial(target, addresses, progress)
            try:
                connection = await self._secure(endpoint_id, target, stream, progress)
            except BaseException:
                stream.socket.close()
                raise
            return connection
        raise TransportError(
            DeliveryError.TIMEOUT, f"{progress.doing} took longer than {self._connect_timeout_seconds:g} s"
        )

    async def _resolve(self, target: Target, progress: Progress) -> list[str]:
        if target.address is not None:
            return [str(target.address)]
        progress.doing = "resolving the name"
        try:
            answers = await self._resolver.resolve(target.host, target.port)
            addresses = [str(address) for address in self._policy.check(target, answers)]
        except OSError as error:
            raise TransportError(
                DeliveryError.DNS, f"{target.host} doesn't resolve: {error.strerror or error}"
            ) from error
        except BlockedError as error:
            raise TransportError(DeliveryError.BLOCKED, str(error)) from error
        if not addresses:
            raise TransportError(DeliveryError.DNS, f"{target.host} doesn't resolve: it has no address")
        return addresses

    async def _dial(self, target: Target, addresses: list[str], progress: Progress) -> trio.SocketStream:
        failure: Exception = OSError("the name has no address")
        for tried, address in enumerate(addresses):
            progress.remote_address = f"[{address}]:{target.port}" if ":" in address else f"{address}:{target.port}"
            family = trio.socket.AF_INET6 if ":" in address else trio.socket.AF_INET
            dialed = trio.socket.socket(family, trio.socket.SOCK_STREAM)
            try:
                # One address that swallows everything must leave time for the others.
                left = self._connect_timeout_seconds / (len(addresses) - tried)
                with trio.move_on_after(left if tried + 1 < len(addresses) else float("inf")) as patience:
                    await dialed.connect((address, target.port))
                    self._policy.check_address(ip_address(dialed.getpeername()[0].partition("%")[0]))
                    return trio.SocketStream(dialed)
                if patience.cancelled_caught:
                    failure = TimeoutError("no answer")
            except OSError as error:
                failure = error
            except BlockedError as error:
                dialed.close()
                raise TransportError(DeliveryError.BLOCKED, str(error)) from error
            except BaseException:
                dialed.close()
                raise
            dialed.close()
        # trio's text repeats the address.
        reason = os.strerror(failure.errno) if isinstance(failure, OSError) and failure.errno else str(failure)
        raise TransportError(DeliveryError.CONNECT, f"can't connect to {progress.remote_address}: {reason}")

    async def _secure(
        self, endpoint_id: str, target: Target, stream: trio.SocketStream, progress: Progress
    ) -> _Connection:
        origin = (target.scheme, target.host, target.port)
        remote_address = progress.remote_address or ""
        if target.scheme == "http":
            return _Connection(origin, endpoint_id, stream, stream.socket, remote_address)
        progress.doing = "the TLS handshake"
        secured = trio.SSLStream(stream, self._ssl_context, server_hostname=target.host, https_compatible=True)
        try:
            await secured.do_handshake()
        except (trio.BrokenResourceError, ssl.SSLError, ValueError) as error:
            raise TransportError(DeliveryError.TLS, f"the TLS handshake failed: {_reason(error)}") from error
        return _Connection(origin, endpoint_id, secured, stream.socket, remote_address)

    def _take(self, endpoint_id: str, target: Target) -> _Connection | None:
        """Return an idle connection to the target; those that can't be used any more are closed on the way."""
        origin = (target.scheme, target.host, target.port)
        own = self._idle_of.get(endpoint_id)
        while own:
            connection = own.pop()
            del self._idle[connection]
            if connection.origin == origin and not connection.was_closed:
                connection.is_reused = True
                return connection
            connection.close()
        return None

    def _keep(self, connection: _Connection) -> None:
        own = self._idle_of.setdefault(connection.endpoint_id, [])
        if len(own) >= MAX_IDLE_AN_ENDPOINT:
            connection.close()
            return
        connection.idle_since = trio.current_time()
        own.append(connection)
        self._idle[connection] = None
        if len(self._idle) > MAX_IDLE:
            self._drop(next(iter(self._idle)))

    def _drop(self, connection: _Connection) -> None:
        del self._idle[connection]
        own = self._idle_of[connection.endpoint_id]
        own.remove(connection)
        if not own:
            del self._idle_of[connection.endpoint_id]
        connection.close()


class _ClosedWhileIdleError(Exception):
    """A reused connection ended before a byte of an answer."""


def _encode(target: Target, headers: Headers, body: bytes) -> bytes:
    lines = [f"POST {target.raw} HTTP/1.1", f"host: {target.authority}"]
    lines += [f"{name}: {value}" for name, value in headers]
    lines.append(f"content-length: {len(body)}\r\n\r\n")
    return "\r\n".join(lines).encode("ascii") + body


def _reason(error: BaseException) -> str:
    """Return what the deepest cause says; trio wraps OpenSSL's and the kernel's reasons."""
    while error.__cause__ is not None:
        error = error.__cause__
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

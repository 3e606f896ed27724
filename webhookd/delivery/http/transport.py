"""The way out: one HTTP/1.1 request over a connection of ours, to an address that the egress policy has checked.

A pool that all receivers share collapses under many of them, so each endpoint has its own few connections, kept alive
while they are idle. One that the receiver closed meanwhile shows only when it is used: what fails on a reused one
at once, before a byte of an answer, is sent once more on a fresh one, as part of the same exchange.

No request leaves over a connection whose name, addresses, verdict or certificate were looked at longer ago than the
greatest age: a receiver that has moved is followed, and a certificate that has expired is noticed, within that time.
"""

import random
import ssl
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from math import inf

import httpx
import trio

from webhookd.base.models import DeliveryError
from webhookd.base.stages import reached
from webhookd.delivery.egress.rules import BlockedError, DialTarget, EgressPolicy, Resolver
from webhookd.delivery.http.happy_eyeballs import FailedAddress, most_telling, race
from webhookd.delivery.http.streams import ByteStream, dial
from webhookd.delivery.http.tls_sessions import Resumable, TlsSessions
from webhookd.delivery.http.wire import ResponseReader, WireError

IDLE_SECONDS = 30.0
MAX_IDLE = 1024
MAX_IDLE_AN_ENDPOINT = 32
# Connections that were opened together, as at a start, shall not all be replaced at the same time.
LEAST_SHARE_OF_AGE = 0.8

_CHUNK_BYTES = 16 * 1024
# That a receiver had closed an idle connection shows within a round trip. One that closes later has read the request.
_CLOSED_BEFORE_SECONDS = 1.0
_ENDPOINT = "webhookd.endpoint"
_CONNECTING = "connecting"
_SHAKING_HANDS = "the TLS handshake"

HeaderList = Iterable[tuple[str, str]]


class TransportError(Exception):
    """An exchange that brought no response; `code` is what it is recorded as, the text what went wrong."""

    def __init__(self, code: DeliveryError, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class TooLateError(Exception):
    """An exchange was not done by its deadline."""


@dataclass(slots=True)
class RequestProgress:
    """By when an exchange has to be done (trio's clock), and how far it has come; still there when it is cut off."""

    deadline: float
    doing: str = "resolving the name"
    remote_address: str | None = None
    is_reused: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchanged:
    """A response: at most 4 KiB of its body, and whether there was more."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes
    is_truncated: bool


@dataclass(eq=False, slots=True)
class _Connection:
    """A stream to where a URL of an endpoint points; `head` is how each request over it begins.

    From `expires_at` on (trio's clock) no further request may leave over it.
    """

    endpoint_id: str
    url: str
    server: tuple[str, int]
    stream: ByteStream
    expires_at: float
    remote_address: str
    head: str
    is_reused: bool = False
    idle_since: float = 0.0


@dataclass(frozen=True, slots=True)
class _Reached:
    """A stream to one of a receiver's addresses, ready for a request, and from when on it may carry none."""

    stream: ByteStream
    remote_address: str
    expires_at: float

    def close(self) -> None:
        self.stream.close()


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
        connection_max_age_seconds: float,
    ) -> None:
        self._policy = policy
        self._resolver = resolver
        self._ssl_context = ssl_context
        self._connect_timeout_seconds = connect_timeout_seconds
        self._connection_max_age_seconds = connection_max_age_seconds
        self._idle: OrderedDict[_Connection, None] = OrderedDict()  # the one that is idle the longest first
        self._idle_of: dict[str, list[_Connection]] = {}
        self._used_until: dict[_Connection, float] = {}
        self._sessions = TlsSessions()
        self.opened = 0
        self.reused = 0

    @property
    def idle_connections(self) -> int:
        """How many connections wait for their next request."""
        return len(self._idle)

    async def exchange(
        self, endpoint_id: str, url: str, headers: HeaderList, body: bytes, progress: RequestProgress
    ) -> Exchanged:
        """Send one POST and return its response; TransportError for everything that keeps it from coming.

        TooLateError where it isn't done by the deadline, while `cut_off_late` is called often.
        """
        connection = self._take(endpoint_id, url)
        if connection is not None:
            try:
                return await self._use(connection, headers, body, progress)
            except _ClosedWhileIdleError:
                # Most likely the request never got there; and receivers know a repeated one by its id.
                progress.doing = "connecting again"
                progress.is_reused = None
        connection = await self._connect(endpoint_id, url, progress)
        self.opened += 1
        return await self._use(connection, headers, body, progress)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send httpx's request, a POST with a known body; its connections go by `extensions["webhookd.endpoint"]`."""
        body = await request.aread()
        names = {"host", "content-length"}
        headers = [(name, value) for name, value in request.headers.multi_items() if name not in names]
        endpoint_id = request.extensions.get(_ENDPOINT, str(request.url.netloc))
        seconds = request.extensions.get("timeout", {}).get("read")
        with trio.move_on_after(inf if seconds is None else seconds):
            try:
                exchanged = await self.exchange(endpoint_id, str(request.url), headers, body, RequestProgress(inf))
            except TransportError as error:
                raise httpx.TransportError(f"{error.code.value}: {error.detail}") from error
            return httpx.Response(exchanged.status, headers=exchanged.headers, stream=httpx.ByteStream(exchanged.body))
        raise httpx.ReadTimeout(f"no answer within {seconds} s")

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        for connection in self._idle_of.pop(endpoint_id, []):
            del self._idle[connection]
            connection.stream.close()
        await trio.lowlevel.checkpoint()

    def cut_off_late(self, now: float) -> None:
        """Cut off the exchanges whose deadline has passed (trio's clock).

        A cancel scope around each would cost a tenth of all the work that a delivery is.
        """
        for connection, deadline in tuple(self._used_until.items()):
            if deadline <= now:
                connection.stream.cut_off()

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since before that time (trio's clock)."""
        while self._idle and (oldest := next(iter(self._idle))).idle_since < before:
            self._drop(oldest)

    def close_old(self, now: float) -> None:
        """Close the idle connections that are too old to be used again (trio's clock)."""
        for connection in [each for each in self._idle if each.expires_at <= now]:
            self._drop(connection)

    async def aclose(self) -> None:
        """Close every idle connection."""
        self.close_idle(inf)
        await trio.lowlevel.checkpoint()

    async def _use(
        self, connection: _Connection, headers: HeaderList, body: bytes, progress: RequestProgress
    ) -> Exchanged:
        progress.remote_address = connection.remote_address
        progress.is_reused = connection.is_reused
        progress.doing = "waiting for the answer"
        reader = ResponseReader()
        self._used_until[connection] = progress.deadline
        try:
            await self._speak(connection, _encode(connection.head, headers, body), reader)
        except trio.ClosedResourceError as error:
            connection.stream.close()
            raise TooLateError from error
        except BaseException:
            connection.stream.close()
            raise
        finally:
            del self._used_until[connection]
        self._keep(connection, is_reusable=reader.is_reusable)
        return Exchanged(
            status=reader.status,
            headers=tuple(reader.headers),
            body=bytes(reader.body),
            is_truncated=reader.is_truncated,
        )

    async def _speak(self, connection: _Connection, request: bytes, reader: ResponseReader) -> None:
        stream = connection.stream
        broken: list[OSError] = []
        was_idle_until = trio.current_time() + _CLOSED_BEFORE_SECONDS if connection.is_reused else -inf

        def closed_while_idle() -> bool:
            return not reader.has_bytes and trio.current_time() < was_idle_until

        try:
            await stream.send_all(request)
            reached("request.sent")
        except OSError as error:
            broken.append(error)  # it may have answered before it closed
        try:
            while not reader.is_complete:
                if data := await stream.receive(min(reader.room, _CHUNK_BYTES)):
                    reader.feed(data)
                elif closed_while_idle():
                    raise _ClosedWhileIdleError
                else:
                    reader.end()
        except OSError as error:
            if closed_while_idle():
                raise _ClosedWhileIdleError from error
            # An alert, as of a receiver that wants a certificate, comes behind TLS 1.3's handshake.
            code = DeliveryError.TLS if isinstance(error, ssl.SSLError) else DeliveryError.PROTOCOL
            raise TransportError(code, f"the connection broke: {_reason((*broken, error)[0])}") from error
        except WireError as error:
            raise TransportError(DeliveryError.PROTOCOL, str(error)) from error

    async def _connect(self, endpoint_id: str, url: str, progress: RequestProgress) -> _Connection:
        try:
            target = self._policy.parse(url)
        except BlockedError as error:
            raise TransportError(DeliveryError.BLOCKED, str(error)) from error
        began = trio.current_time()
        patience = min(began + self._connect_timeout_seconds, progress.deadline)
        expires_at = began + self._connection_max_age_seconds * random.uniform(LEAST_SHARE_OF_AGE, 1.0)  # noqa: S311 - no secret
        doing: dict[str, str] = {}  # what is being done at which address
        lost: list[FailedAddress[TransportError]] = []
        with trio.CancelScope(deadline=patience):
            addresses = await self._resolve(target, progress)
            reached = await race(addresses, partial(self._reach, target, expires_at, doing), lost)
            if reached is None:
                raise self._failed(lost, progress)
            return _Connection(
                endpoint_id=endpoint_id,
                url=url,
                server=(target.host, target.port),
                stream=reached.stream,
                expires_at=reached.expires_at,
                remote_address=reached.remote_address,
                head=f"POST {target.raw} HTTP/1.1\r\nhost: {target.authority}\r\n",
            )
        if any(each.got_through for each in lost):
            raise self._failed(lost, progress)
        if doing:
            # Of those that say nothing, tell of the one that has come furthest.
            progress.remote_address = next((at for at in doing if doing[at] is _SHAKING_HANDS), next(iter(doing)))
            progress.doing = doing[progress.remote_address]
        if patience == progress.deadline:
            raise TooLateError
        raise TransportError(
            DeliveryError.TIMEOUT, f"{progress.doing} took longer than {self._connect_timeout_seconds:g} s"
        )

    @staticmethod
    def _failed(lost: list[FailedAddress[TransportError]], progress: RequestProgress) -> TransportError:
        """Return what to report where none of the addresses led anywhere."""
        told = most_telling(lost)
        progress.remote_address = told.at
        others = f"; {len(lost) - 1} more of its addresses failed" if len(lost) > 1 else ""
        return TransportError(told.error.code, f"{told.error.detail}{others}")

    async def _resolve(self, target: DialTarget, progress: RequestProgress) -> list[str]:
        progress.remote_address = None
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

    async def _reach(
        self, target: DialTarget, expires_at: float, doing: dict[str, str], address: str
    ) -> _Reached | FailedAddress[TransportError]:
        """Dial one address and, for https, shake hands: only then is it connected."""
        at = f"[{address}]:{target.port}" if ":" in address else f"{address}:{target.port}"
        doing[at] = _CONNECTING
        try:
            stream = await self._dial(address, target.port)
            if target.scheme == "https":
                doing[at] = _SHAKING_HANDS
                stream, expires_at = await self._secured(stream, address, target, expires_at)
        except BlockedError as error:
            del doing[at]
            return FailedAddress(TransportError(DeliveryError.BLOCKED, str(error)), at, is_final=True)
        except _HandshakeError as error:
            del doing[at]
            return FailedAddress(TransportError(DeliveryError.TLS, str(error)), at, got_through=True)
        except OSError as error:
            del doing[at]
            return FailedAddress(TransportError(DeliveryError.CONNECT, f"can't connect to {at}: {_reason(error)}"), at)
        return _Reached(stream, at, expires_at)

    async def _dial(self, address: str, port: int) -> ByteStream:
        self._policy.check_address(ip_address(address))
        stream = await dial(address, port)
        try:
            self._policy.check_address(ip_address(stream.peer))
        except BlockedError:
            stream.close()
            raise
        return stream

    async def _secured(
        self, stream: ByteStream, address: str, target: DialTarget, expires_at: float
    ) -> tuple[ByteStream, float]:
        """Shake hands, with the session that is kept if there is one; return the stream and when it expires."""
        known = self._sessions.take((target.host, target.port), trio.current_time())
        if known is not None:
            try:
                await self._shake_hands(stream, target.host, known.session)
            except _HandshakeError:
                # It may be the session that it chokes on, which is our doing.
                stream = await self._dial(address, target.port)
            else:
                # The certificate was not looked at this time.
                return stream, min(known.expires_at, expires_at) if stream.was_resumed else expires_at
        await self._shake_hands(stream, target.host, None)
        return stream, expires_at

    async def _shake_hands(self, stream: ByteStream, host: str, session: ssl.SSLSession | None) -> None:
        try:
            await stream.secure(self._ssl_context, host, session)
        except (OSError, ValueError) as error:
            stream.close()
            raise _HandshakeError(f"the TLS handshake failed: {_reason(error)}") from error
        except BaseException:
            stream.close()
            raise

    def _take(self, endpoint_id: str, url: str) -> _Connection | None:
        """Return an idle connection to the URL's target; those that can't be used any more are closed on the way."""
        own = self._idle_of.get(endpoint_id)
        while own:
            connection = own.pop()
            del self._idle[connection]
            if not own:
                del self._idle_of[endpoint_id]
            is_young = trio.current_time() < connection.expires_at
            # What is readable is its end, or bytes that nobody asked for.
            if connection.url == url and is_young and not connection.stream.is_readable:
                connection.is_reused = True
                self.reused += 1
                return connection
            connection.stream.close()
        return None

    def _keep(self, connection: _Connection, *, is_reusable: bool) -> None:
        if not connection.is_reused and (session := connection.stream.session) is not None:
            self._sessions.put(connection.server, Resumable(session, connection.expires_at))
        own = self._idle_of.get(connection.endpoint_id, [])
        now = trio.current_time()
        if not is_reusable or now >= connection.expires_at or len(own) >= MAX_IDLE_AN_ENDPOINT:
            connection.stream.close()
            return
        connection.idle_since = now
        own.append(connection)
        self._idle_of[connection.endpoint_id] = own
        self._idle[connection] = None
        if len(self._idle) > MAX_IDLE:
            self._drop(next(iter(self._idle)))

    def _drop(self, connection: _Connection) -> None:
        del self._idle[connection]
        own = self._idle_of[connection.endpoint_id]
        own.remove(connection)
        if not own:
            del self._idle_of[connection.endpoint_id]
        connection.stream.close()


class _ClosedWhileIdleError(Exception):
    """A reused connection ended at once, before a byte of an answer."""


class _HandshakeError(Exception):
    """TLS with the receiver failed; the text says why."""


def _encode(head: str, headers: HeaderList, body: bytes) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"{head}{lines}content-length: {len(body)}\r\n\r\n".encode("ascii") + body


def _reason(error: BaseException) -> str:
    """Return what OpenSSL or the kernel says."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    if isinstance(error, ssl.SSLError):
        return error.reason or str(error)
    return getattr(error, "strerror", None) or str(error) or type(error).__name__

"""From a URL to a connection: the egress policy's verdict, the name's addresses, the race among them, and TLS."""

import ssl
from functools import partial
from ipaddress import ip_address

import trio

from webhookd.base.models import DeliveryError
from webhookd.delivery.egress.rules import BlockedError, DialTarget, EgressPolicy, Resolver
from webhookd.delivery.http.connection import Connection
from webhookd.delivery.http.exchange import Exchange, TooLateError, TransportError, expiry, reason_of
from webhookd.delivery.http.happy_eyeballs import FailedAddress, most_telling, race
from webhookd.delivery.http.streams import ByteStream, dial
from webhookd.delivery.http.tls_sessions import Resumable, TlsSessions
from webhookd.delivery.request import Request

_CONNECTING = "connecting"
_HANDSHAKE = "the TLS handshake"


class Connector:
    """Opens connections, and keeps TLS sessions in order to resume them."""

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
        self._sessions = TlsSessions()

    def keep_session(self, connection: Connection) -> None:
        """Keep the TLS session of a connection for the next one to the same server."""
        if (session := connection.stream.session) is not None:
            self._sessions.put(connection.server, Resumable(session, connection.expires_at))

    async def connect(self, exchange: Exchange) -> Connection:
        """Open a connection for an exchange; TransportError if that fails, TooLateError after the deadline."""
        try:
            target = self._policy.parse(exchange.request.url)
        except BlockedError as error:
            raise TransportError(DeliveryError.BLOCKED, str(error)) from error
        began = trio.current_time()
        deadline = min(began + self._connect_timeout_seconds, exchange.deadline)
        expires_at = expiry(began, self._connection_max_age_seconds)
        doing: dict[str, str] = {}  # what is being done at which address
        lost: list[FailedAddress[TransportError]] = []
        with trio.CancelScope(deadline=deadline):
            addresses = await self._resolve(target, exchange)
            reach = partial(self._reach, request=exchange.request, target=target, expires_at=expires_at, doing=doing)
            connection = await race(addresses, reach, lost)
            if connection is None:
                raise _failed(lost, exchange)
            return connection
        if any(each.got_through for each in lost):
            raise _failed(lost, exchange)
        if doing:
            # Among addresses that don't answer, report one that has come to the handshake.
            exchange.remote_address = next((at for at in doing if doing[at] is _HANDSHAKE), next(iter(doing)))
            exchange.doing = doing[exchange.remote_address]
        if deadline == exchange.deadline:
            raise TooLateError
        raise TransportError(
            DeliveryError.TIMEOUT, f"{exchange.doing} took longer than {self._connect_timeout_seconds:g} s"
        )

    async def _resolve(self, target: DialTarget, exchange: Exchange) -> list[str]:
        exchange.remote_address = None
        if target.address is not None:
            return [str(target.address)]
        exchange.doing = "resolving the name"
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
        self, address: str, *, request: Request, target: DialTarget, expires_at: float, doing: dict[str, str]
    ) -> Connection | FailedAddress[TransportError]:
        """Dial one address and, for https, shake hands: only then is it connected."""
        at = f"[{address}]:{target.port}" if ":" in address else f"{address}:{target.port}"
        doing[at] = _CONNECTING
        try:
            stream = await self._dial(address, target.port)
            if target.scheme == "https":
                doing[at] = _HANDSHAKE
                stream, expires_at = await self._secured(stream, address, target, expires_at)
        except BlockedError as error:
            failed = FailedAddress(TransportError(DeliveryError.BLOCKED, str(error)), at, is_final=True)
        except _HandshakeError as error:
            failed = FailedAddress(TransportError(DeliveryError.TLS, str(error)), at, got_through=True)
        except OSError as error:
            detail = f"can't connect to {at}: {reason_of(error)}"
            failed = FailedAddress(TransportError(DeliveryError.CONNECT, detail), at)
        else:
            return Connection(
                stream,
                endpoint_id=request.endpoint_id,
                url=request.url,
                server=(target.host, target.port),
                expires_at=expires_at,
                remote_address=at,
                head=f"POST {target.raw} HTTP/1.1\r\nhost: {target.authority}\r\n",
            )
        del doing[at]
        return failed

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
        """Shake hands, with the kept session if there is one; return the stream and when it expires."""
        known = self._sessions.take((target.host, target.port), trio.current_time())
        if known is not None:
            try:
                await self._shake_hands(stream, target.host, known.session)
            except _HandshakeError:
                # The server may fail because of the session, so it is tried again without one.
                stream = await self._dial(address, target.port)
            else:
                # A resumed handshake doesn't check the certificate again.
                return stream, min(known.expires_at, expires_at) if stream.was_resumed else expires_at
        await self._shake_hands(stream, target.host, None)
        return stream, expires_at

    async def _shake_hands(self, stream: ByteStream, host: str, session: ssl.SSLSession | None) -> None:
        try:
            await stream.secure(self._ssl_context, host, session)
        except (OSError, ValueError) as error:
            stream.close()
            raise _HandshakeError(f"the TLS handshake failed: {reason_of(error)}") from error
        except BaseException:
            stream.close()
            raise


class _HandshakeError(Exception):
    """TLS with the receiver failed; the text says why."""


def _failed(lost: list[FailedAddress[TransportError]], exchange: Exchange) -> TransportError:
    """Return the error to report if no address could be connected to."""
    reported = most_telling(lost)
    exchange.remote_address = reported.at
    others = f"; {len(lost) - 1} more of its addresses failed" if len(lost) > 1 else ""
    return TransportError(reported.error.code, f"{reported.error.detail}{others}")

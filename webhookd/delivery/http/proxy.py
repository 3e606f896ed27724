"""The way out through an egress proxy: connection pools of httpcore's over connections of our own.

The proxy resolves names and dials, so the policy checks only the URL and a literal address in it. Each endpoint has its
own pool. A pool in which an exchange failed isn't used again, since httpcore keeps a tunnel as busy for ever if its
handshake failed or was cut off.
"""

import ssl
from collections import OrderedDict
from functools import partial
from math import inf

import httpcore
import httpx
import trio

from webhookd.base.errors import ConfigError
from webhookd.base.models import DeliveryError
from webhookd.delivery.egress.rules import BlockedError, DialTarget, EgressPolicy, Resolver
from webhookd.delivery.http.exchange import (
    IDLE_SECONDS,
    Exchange,
    TransportError,
    expiry,
    reason_of,
)
from webhookd.delivery.http.reactor import CALLS_A_TURN
from webhookd.delivery.http.transport import MAX_IDLE_AN_ENDPOINT
from webhookd.delivery.http.tunnel import ClosedWhileIdleError, EnoughError, TlsError, ToTheProxy, TunnelStream
from webhookd.delivery.http.wire import ResponseReader
from webhookd.delivery.request import Done, Request

MAX_POOLS = 1024


class ProxyTransport:
    """Sends requests through the proxy of `egress.proxy`; ConfigError if that isn't the URL of an HTTP proxy."""

    def __init__(
        self,
        proxy: str,
        policy: EgressPolicy,
        resolver: Resolver,
        ssl_context: ssl.SSLContext,
        *,
        connect_timeout_seconds: float,
        connection_max_age_seconds: float,
    ) -> None:
        self._policy = policy
        self._timeout = {"connect": connect_timeout_seconds}
        self._connection_max_age_seconds = connection_max_age_seconds
        self._ssl_context = ssl_context
        self._pools: OrderedDict[str, _Pool] = OrderedDict()  # the least recently used one comes first
        try:
            url = httpx.Proxy(proxy)
        except (ValueError, httpx.InvalidURL) as error:
            raise ConfigError("egress.proxy takes a URL such as http://proxy.example:3128") from error
        if url.url.scheme not in {"http", "https"} or not url.url.host:
            raise ConfigError("egress.proxy: only HTTP proxies are spoken to; write http://proxy.example:3128")
        port = url.url.port or (443 if url.url.scheme == "https" else 80)
        self._nursery: trio.Nursery | None = None
        self._scopes: dict[Exchange, trio.CancelScope] = {}
        self.opened = 0
        self.reused = 0
        proxy_ssl_context = ssl_context if url.url.scheme == "https" else None
        self._backend = partial(ToTheProxy, url.url.host, port, resolver, proxy_ssl_context)
        self._proxy = httpcore.Proxy(
            httpcore.URL(scheme=url.url.raw_scheme, host=url.url.raw_host, port=port, target=b"/"),
            auth=url.auth,
            ssl_context=proxy_ssl_context,
        )

    @property
    def idle_connections(self) -> int:
        """How many connections wait for their next request."""
        return sum(connection.is_idle() for pool in self._pools.values() for connection in pool.http.connections)

    def start(self, request: Request, done: Done) -> Exchange:
        """Start an exchange; `done` is called later, never during this call."""
        exchange = Exchange(request, done, self._abandon)
        self._scopes[exchange] = trio.CancelScope(deadline=exchange.deadline)
        if self._nursery is not None:
            self._nursery.start_soon(self._run, exchange)
        return exchange

    async def run(self) -> None:
        """Make exchanges until canceled, which interrupts those that are under way."""
        try:
            async with trio.open_nursery() as self._nursery:
                for exchange in self._scopes:  # started before
                    self._nursery.start_soon(self._run, exchange)
                await trio.sleep_forever()
        finally:
            self._nursery = None
            interrupted, self._scopes = self._scopes, {}  # what is started meanwhile waits for the next run
            for number, exchange in enumerate(interrupted, 1):
                exchange.interrupt()
                if number % CALLS_A_TURN == 0:
                    await trio.lowlevel.cancel_shielded_checkpoint()
            self.close_idle(inf)

    async def _run(self, exchange: Exchange) -> None:
        if (scope := self._scopes.get(exchange)) is None:
            return  # cut off before it began
        with scope:
            try:
                answer = await self._exchange_twice(exchange)
            except TransportError as error:
                exchange.fail(error.code, error.detail)
            except Exception as error:  # noqa: BLE001 - a bug, which the one who started the exchange raises
                exchange.crash(error)
            else:
                exchange.succeed(answer, trio.current_time())
        if scope.cancelled_caught:
            exchange.fail_late()  # does nothing if it was cut off
        self._scopes.pop(exchange, None)

    def _abandon(self, exchange: Exchange) -> None:
        if (scope := self._scopes.pop(exchange, None)) is not None:
            scope.cancel()

    async def _exchange_twice(self, exchange: Exchange) -> ResponseReader:
        """Return the response; TransportError if there is none."""
        try:
            target = self._policy.parse(exchange.request.url)
        except BlockedError as error:
            raise TransportError(DeliveryError.BLOCKED, str(error)) from error
        exchange.doing = "waiting for the proxy's answer"
        request = _request(target, exchange.request, self._timeout)
        try:
            return await self._exchange(exchange, request)
        except ClosedWhileIdleError:
            # As with direct connections: most likely the request was never read.
            exchange.doing = "connecting to the proxy again"
        try:
            return await self._exchange(exchange, request)
        except ClosedWhileIdleError as error:
            raise TransportError(DeliveryError.PROTOCOL, str(error)) from error

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        if endpoint_id in self._pools:
            self._discard(endpoint_id, self._pools[endpoint_id])
        await trio.lowlevel.checkpoint()

    async def keep_time(self, now: float) -> None:
        """Close idle connections in time (trio's clock), and stop using pools that are too old.

        Each exchange has a cancel scope with its deadline. One that waits for the next run is interrupted then, since
        its receiver has nothing to do with it.
        """
        await trio.lowlevel.checkpoint()
        if self._nursery is None:
            for exchange in [each for each in self._scopes if each.deadline <= now]:
                self._abandon(exchange)
                exchange.interrupt()
        self.close_idle(now - IDLE_SECONDS)
        for endpoint_id, pool in [each for each in self._pools.items() if each[1].expires_at <= now]:
            self._discard(endpoint_id, pool)

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since before that time (trio's clock)."""
        for endpoint_id, pool in list(self._pools.items()):
            if not pool.users and pool.idle_since < before:
                self._discard(endpoint_id, pool)

    async def _exchange(self, exchange: Exchange, request: httpcore.Request) -> ResponseReader:
        endpoint_id = exchange.request.endpoint_id
        kept = self._pools.get(endpoint_id)
        if kept is not None and kept.expires_at <= trio.current_time():
            self._discard(endpoint_id, kept)
        pool = self._pools.pop(endpoint_id, None) or self._new_pool()
        self._pools[endpoint_id] = pool
        pool.users += 1
        is_well = False
        # httpcore doesn't say which connection it used; it uses an idle one if there is one.
        exchange.is_reused = any(connection.is_idle() for connection in pool.http.connections)
        if exchange.is_reused:
            self.reused += 1
        else:
            self.opened += 1
        try:
            reader = await _read(await pool.http.handle_async_request(request))
            is_well = True
        except EnoughError as error:
            reader = error.reader
        except ClosedWhileIdleError:
            raise
        except httpcore.TimeoutException as error:
            raise TransportError(DeliveryError.TIMEOUT, "connecting through the proxy took too long") from error
        except TlsError as error:
            raise TransportError(DeliveryError.TLS, f"through the proxy: {error}") from error
        except (httpcore.ConnectError, httpcore.ProxyError) as error:
            raise TransportError(DeliveryError.CONNECT, f"through the proxy: {reason_of(error)}") from error
        except (httpcore.NetworkError, httpcore.ProtocolError) as error:
            raise TransportError(DeliveryError.PROTOCOL, f"through the proxy: {reason_of(error)}") from error
        finally:
            pool.users -= 1
            pool.idle_since = trio.current_time()
            if not is_well:
                self._discard(endpoint_id, pool)
            elif pool.is_discarded and not pool.users:
                pool.backend.close()
        return reader

    def _discard(self, endpoint_id: str, pool: "_Pool") -> None:
        """Stop using a pool, and close it once its last exchange has ended."""
        if self._pools.get(endpoint_id) is pool:
            del self._pools[endpoint_id]
        pool.is_discarded = True
        if not pool.users:
            pool.backend.close()

    def _new_pool(self) -> "_Pool":
        if len(self._pools) >= MAX_POOLS:
            oldest = next(((name, pool) for name, pool in self._pools.items() if not pool.users), None)
            if oldest is not None:
                self._discard(*oldest)
        expires_at = expiry(trio.current_time(), self._connection_max_age_seconds)
        return _Pool(self._proxy, self._ssl_context, self._backend(), expires_at=expires_at)


class _Pool:
    """The connections of one endpoint, and how many exchanges use them; none is older than the pool itself."""

    def __init__(
        self, proxy: httpcore.Proxy, ssl_context: ssl.SSLContext, backend: ToTheProxy, *, expires_at: float
    ) -> None:
        self.backend = backend
        self.expires_at = expires_at
        self.http = httpcore.AsyncConnectionPool(
            ssl_context=ssl_context,
            proxy=proxy,
            max_connections=None,  # the requests in flight are bounded by `Slots`
            max_keepalive_connections=MAX_IDLE_AN_ENDPOINT,
            keepalive_expiry=IDLE_SECONDS,
            network_backend=backend,
        )
        self.users = 0
        self.idle_since = 0.0
        self.is_discarded = False


class _Body:
    """A request's body; httpcore's own iterator is a generator, left unfinished when the receiver hangs up early."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._left: list[bytes] = []

    def __aiter__(self) -> "_Body":
        self._left = [self._data] if self._data else []
        return self

    async def __anext__(self) -> bytes:
        if not self._left:
            raise StopAsyncIteration
        return self._left.pop()


def _request(target: DialTarget, request: Request, timeout: dict[str, float]) -> httpcore.Request:
    host = f"[{target.host}]" if ":" in target.host else target.host
    # httpcore writes the port into the absolute form and takes its absence for the scheme's own.
    port = None if target.is_default_port else target.port
    return httpcore.Request(
        "POST",
        httpcore.URL(scheme=target.scheme.encode(), host=host.encode(), port=port, target=target.raw.encode()),
        headers=[("host", target.authority), *request.headers, ("content-length", str(len(request.body)))],
        content=_Body(request.body),
        extensions={"timeout": timeout},
    )


async def _read(response: httpcore.Response) -> ResponseReader:
    """Let httpcore read a response to its end, and return our own reader of it."""
    try:
        async for _ in response.aiter_stream():
            pass
    finally:
        await response.aclose()
    stream = response.extensions["network_stream"]
    if not isinstance(stream, TunnelStream):
        raise httpcore.RemoteProtocolError("the receiver wants to change the protocol")
    return stream.reader

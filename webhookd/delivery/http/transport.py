"""The direct way out: HTTP/1.1 requests over connections of our own, to addresses that the egress policy has checked.

    start -> an idle connection, or a task that connects -> begin -> advance, by the reactor -> done

A pool that all receivers share collapses under many of them. So each endpoint has its own few connections, kept alive
while they are idle. The reactor notices when a receiver closes one of them, or sends what belongs to no request. A
receiver may close in the moment of the next request: a request that fails on a reused connection at once, before a byte
of an answer, is sent once more over a new one, as part of the same exchange.

No request is sent over a connection whose name, addresses, verdict and certificate were checked longer ago than the
maximum age. So a receiver that has moved is followed, and an expired certificate is noticed, within that time.
"""

from collections import OrderedDict
from collections.abc import Collection
from math import inf

import trio

from webhookd.delivery.http.connection import Connection, NeverReadError
from webhookd.delivery.http.connector import Connector
from webhookd.delivery.http.exchange import IDLE_SECONDS, Exchange, TooLateError, TransportError
from webhookd.delivery.http.reactor import CALLS_A_TURN, Reactor
from webhookd.delivery.request import Done, Request

MAX_IDLE = 1024
MAX_IDLE_AN_ENDPOINT = 32


class DirectTransport:
    """Sends requests, each endpoint's over its own connections; `opened` and `reused` count the connections used."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._reactor = Reactor()
        self._nursery: trio.Nursery | None = None
        self._connecting: dict[Exchange, trio.CancelScope] = {}
        self._in_use: dict[Exchange, Connection] = {}
        self._idle: OrderedDict[Connection, None] = OrderedDict()  # the one that has been idle the longest comes first
        self._idle_of: dict[str, list[Connection]] = {}
        self.opened = 0
        self.reused = 0

    @property
    def idle_connections(self) -> int:
        """How many connections wait for their next request."""
        return len(self._idle)

    @property
    def _waiting(self) -> Collection[Exchange]:
        """The exchanges that wait for the next run."""
        return self._connecting if self._nursery is None else ()

    def start(self, request: Request, done: Done) -> Exchange:
        """Start an exchange; `done` is called later, never during this call."""
        exchange = Exchange(request, done, self._abandon)
        if (connection := self._take(request.endpoint_id, request.url, exchange.started_at)) is not None:
            self._begin(connection, exchange)
        else:
            self._connect(exchange)
        return exchange

    async def run(self) -> None:
        """Move exchanges on until canceled, which interrupts those that are under way."""
        try:
            async with trio.open_nursery() as self._nursery:
                for exchange in self._connecting:  # started before
                    self._nursery.start_soon(self._connect_and_begin, exchange)
                await self._reactor.run()
        finally:
            self._nursery = None
            self.close_idle(inf)  # first, since what is started because of an interruption must wait for the next run
            for number, exchange in enumerate((*self._connecting, *self._in_use), 1):
                self._abandon(exchange)
                exchange.interrupt()
                if number % CALLS_A_TURN == 0:
                    await trio.lowlevel.cancel_shielded_checkpoint()

    async def keep_time(self, now: float) -> None:
        """End the exchanges whose deadline has passed (trio's clock), and close idle connections in time.

        A timer for each exchange would take a tenth of the whole work of a delivery. A task that connects keeps its own
        deadline. An exchange that waits for the next run is interrupted, since its receiver has nothing to do with it.
        """
        late = [each for each in (*self._in_use, *self._waiting) if each.deadline <= now]
        for number, exchange in enumerate(late, 1):
            if exchange in self._in_use:  # it may have ended during the turn of others
                self._abandon(exchange)
                exchange.fail_late()
            elif exchange in self._waiting:
                self._abandon(exchange)
                exchange.interrupt()
            if number % CALLS_A_TURN == 0:
                await trio.lowlevel.checkpoint()
        self.close_idle(now - IDLE_SECONDS)
        for connection in [each for each in self._idle if each.expires_at <= now]:
            self._drop(connection)

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since before that time (trio's clock)."""
        while self._idle and (oldest := next(iter(self._idle))).idle_since < before:
            self._drop(oldest)

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        for connection in tuple(self._idle_of.get(endpoint_id, ())):
            self._drop(connection)
        await trio.lowlevel.checkpoint()

    def _connect(self, exchange: Exchange) -> None:
        """Connect in a task, and go on from there."""
        self._connecting[exchange] = trio.CancelScope()
        if self._nursery is not None:
            self._nursery.start_soon(self._connect_and_begin, exchange)

    async def _connect_and_begin(self, exchange: Exchange) -> None:
        if (scope := self._connecting.get(exchange)) is None:
            return  # cut off before it began
        with scope:
            try:
                connection = await self._connector.connect(exchange)
                self.opened += 1
                if self._connecting.pop(exchange, None) is None:
                    connection.close()  # cut off meanwhile
                    return
                self._begin(connection, exchange)
                if connection.stream.has_more:  # it came with the end of the handshake, and no event announces it
                    self._ready(connection)
            except TransportError as error:
                exchange.fail(error.code, error.detail)
            except TooLateError:
                exchange.fail_late()
            except Exception as error:  # noqa: BLE001 - a bug, which the one who started the exchange raises
                exchange.crash(error)
        self._connecting.pop(exchange, None)

    def _begin(self, connection: Connection, exchange: Exchange) -> None:
        """Send the request; if a bug prevents that, nothing is left of the connection."""
        try:
            if not connection.is_reused:
                connection.watch(self._reactor, self._ready)
            connection.begin(exchange)
        except BaseException:
            connection.close()
            raise
        self._in_use[exchange] = connection

    def _ready(self, connection: Connection) -> None:
        """Go on with what can go on, since there is something to read from the connection, or it can be written to."""
        exchange = connection.exchange
        if connection.is_closed:
            return
        if exchange is None:
            if not connection.is_quiet():
                self._drop(connection)
            return
        try:
            if (answer := connection.advance()) is None:
                return
            now = trio.current_time()
            self._keep(connection, now)  # first: after a bug in it, `_abandon` still finds the connection
            del self._in_use[exchange]
            exchange.succeed(answer, now)
        except TransportError as error:
            self._abandon(exchange)
            exchange.fail(error.code, error.detail)
        except NeverReadError:
            self._abandon(exchange)
            exchange.doing, exchange.is_reused = "connecting again", None
            self._connect(exchange)
        except Exception as error:  # noqa: BLE001 - a bug, which the one who started the exchange raises
            self._abandon(exchange)
            exchange.crash(error)

    def _abandon(self, exchange: Exchange) -> None:
        """Stop working for an exchange: close its connection, or stop connecting."""
        if (connection := self._in_use.pop(exchange, None)) is not None:
            connection.end()
            connection.close()
        if (connecting := self._connecting.pop(exchange, None)) is not None:
            connecting.cancel()

    def _take(self, endpoint_id: str, url: str, now: float) -> Connection | None:
        """Return an idle connection to the URL's target; close those that can't be used any more."""
        own = self._idle_of.get(endpoint_id)
        while own:
            connection = own.pop()
            del self._idle[connection]
            if not own:
                del self._idle_of[endpoint_id]
            # The reactor may not have noticed yet that it was closed, or that bytes have come which nobody asked for.
            if connection.url == url and now < connection.expires_at and connection.is_quiet():
                connection.is_reused = True
                self.reused += 1
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection, now: float) -> None:
        if not connection.is_reused:
            self._connector.keep_session(connection)
        own = self._idle_of.get(connection.endpoint_id, [])
        if not connection.end() or now >= connection.expires_at or len(own) >= MAX_IDLE_AN_ENDPOINT:
            connection.close()
            return
        connection.idle_since = now
        own.append(connection)
        self._idle_of[connection.endpoint_id] = own
        self._idle[connection] = None
        if len(self._idle) > MAX_IDLE:
            self._drop(next(iter(self._idle)))

    def _drop(self, connection: Connection) -> None:
        del self._idle[connection]
        own = self._idle_of[connection.endpoint_id]
        own.remove(connection)
        if not own:
            del self._idle_of[connection.endpoint_id]
        connection.close()

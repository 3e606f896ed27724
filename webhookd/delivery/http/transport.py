"""The direct way out: HTTP/1.1 requests over connections of our own, to addresses that the egress policy has checked.

A pool that all receivers share collapses under many of them. So each endpoint has its own few connections, kept alive
while they are idle. Whether the receiver has closed one meanwhile shows only when it is used: a request that fails on a
reused connection at once, before a byte of an answer, is sent once more over a new one, as part of the same exchange.

No request is sent over a connection whose name, addresses, verdict and certificate were checked longer ago than the
maximum age. So a receiver that has moved is followed, and an expired certificate is noticed, within that time.
"""

import ssl
from collections import OrderedDict
from math import inf

import trio

from webhookd.base.models import DeliveryError
from webhookd.base.stages import reached
from webhookd.delivery.http.connector import Connection, Connector
from webhookd.delivery.http.exchange import HeaderList, RequestProgress, TooLateError, TransportError, reason_of
from webhookd.delivery.http.wire import ResponseReader, WireError

MAX_IDLE = 1024
MAX_IDLE_AN_ENDPOINT = 32

_CHUNK_BYTES = 16 * 1024
# That a receiver had closed an idle connection shows within a round trip. One that closes later has read the request.
_CLOSED_BEFORE_SECONDS = 1.0


class DirectTransport:
    """Sends requests, each endpoint's over its own connections; `opened` and `reused` count the connections used."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self._idle: OrderedDict[Connection, None] = OrderedDict()  # the one that has been idle the longest comes first
        self._idle_of: dict[str, list[Connection]] = {}
        self._used_until: dict[Connection, float] = {}
        self.opened = 0
        self.reused = 0

    @property
    def idle_connections(self) -> int:
        """How many connections wait for their next request."""
        return len(self._idle)

    async def exchange(
        self, endpoint_id: str, url: str, headers: HeaderList, body: bytes, progress: RequestProgress
    ) -> ResponseReader:
        """Send one POST and return its complete response; TransportError if there is none.

        TooLateError if it isn't done by the deadline; `cut_off_late` must be called often.
        """
        connection = self._take(endpoint_id, url)
        if connection is not None:
            try:
                return await self._use(connection, headers, body, progress)
            except _ClosedWhileIdleError:
                # Most likely the request was never read; and receivers recognize a repeated one by its id.
                progress.doing = "connecting again"
                progress.is_reused = None
        connection = await self._connector.connect(endpoint_id, url, progress)
        self.opened += 1
        return await self._use(connection, headers, body, progress)

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        for connection in self._idle_of.pop(endpoint_id, []):
            del self._idle[connection]
            connection.close()
        await trio.lowlevel.checkpoint()

    def cut_off_late(self, now: float) -> None:
        """Cut off the exchanges whose deadline has passed (trio's clock).

        A cancel scope around each would take a tenth of the whole work of a delivery.
        """
        for connection, deadline in tuple(self._used_until.items()):
            if deadline <= now:
                connection.stream.cut_off()

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since before that time (trio's clock)."""
        while self._idle and (oldest := next(iter(self._idle))).idle_since < before:
            self._drop(oldest)

    def close_old(self, now: float) -> None:
        """Close the idle connections that are too old for another request (trio's clock)."""
        for connection in [each for each in self._idle if each.expires_at <= now]:
            self._drop(connection)

    async def _use(
        self, connection: Connection, headers: HeaderList, body: bytes, progress: RequestProgress
    ) -> ResponseReader:
        progress.remote_address = connection.remote_address
        progress.is_reused = connection.is_reused
        progress.doing = "waiting for the answer"
        reader = ResponseReader()
        self._used_until[connection] = progress.deadline
        try:
            await self._speak(connection, _encode(connection.head, headers, body), reader)
        except trio.ClosedResourceError as error:
            connection.close()
            raise TooLateError from error
        except BaseException:
            connection.close()
            raise
        finally:
            del self._used_until[connection]
        self._keep(connection, is_reusable=reader.is_reusable)
        return reader

    async def _speak(self, connection: Connection, request: bytes, reader: ResponseReader) -> None:
        stream = connection.stream
        broken: list[OSError] = []
        was_idle_until = trio.current_time() + _CLOSED_BEFORE_SECONDS if connection.is_reused else -inf

        def closed_while_idle() -> bool:
            return not reader.has_bytes and trio.current_time() < was_idle_until

        try:
            await stream.send_all(request)
            reached("request.sent")
        except OSError as error:
            broken.append(error)  # the receiver may have answered before it closed
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
            # An alert, such as one that asks for a client certificate, comes after TLS 1.3's handshake.
            code = DeliveryError.TLS if isinstance(error, ssl.SSLError) else DeliveryError.PROTOCOL
            raise TransportError(code, f"the connection broke: {reason_of((*broken, error)[0])}") from error
        except WireError as error:
            raise TransportError(DeliveryError.PROTOCOL, str(error)) from error

    def _take(self, endpoint_id: str, url: str) -> Connection | None:
        """Return an idle connection to the URL's target; close those that can't be used any more."""
        own = self._idle_of.get(endpoint_id)
        while own:
            connection = own.pop()
            del self._idle[connection]
            if not own:
                del self._idle_of[endpoint_id]
            is_young = trio.current_time() < connection.expires_at
            # It is readable if the receiver has closed it, or has sent bytes that belong to no request.
            if connection.url == url and is_young and not connection.stream.is_readable:
                connection.is_reused = True
                self.reused += 1
                return connection
            connection.close()
        return None

    def _keep(self, connection: Connection, *, is_reusable: bool) -> None:
        if not connection.is_reused:
            self._connector.keep_session(connection)
        own = self._idle_of.get(connection.endpoint_id, [])
        now = trio.current_time()
        if not is_reusable or now >= connection.expires_at or len(own) >= MAX_IDLE_AN_ENDPOINT:
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


class _ClosedWhileIdleError(Exception):
    """A reused connection ended at once, before a byte of an answer."""


def _encode(head: str, headers: HeaderList, body: bytes) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"{head}{lines}content-length: {len(body)}\r\n\r\n".encode("ascii") + body

"""A connection to a receiver, and the exchange on it: each call sends or receives what it can, and none waits.

    begin -> the request is sent -> advance, whenever there is something to read -> the response is complete

While a request is partly sent, the connection waits to send the rest and reads all the same: the receiver may answer
before it has read the whole request.
"""

import ssl
from collections.abc import Callable
from functools import partial
from math import inf

import trio

from webhookd.base.models import DeliveryError
from webhookd.base.stages import reached
from webhookd.delivery.http.exchange import Exchange, TransportError, reason_of
from webhookd.delivery.http.reactor import READS, WRITES, Reactor
from webhookd.delivery.http.streams import CHUNK_BYTES, ByteStream
from webhookd.delivery.http.wire import ResponseReader, WireError

# That a receiver had closed an idle connection shows within a round trip. One that closes later has read the request.
_CLOSED_BEFORE_SECONDS = 1.0


class NeverReadError(Exception):
    """A reused connection ended at once, without a byte of an answer: most likely the request was never read."""


class Connection:
    """A connection to the target of an endpoint's URL; each request over it begins with `head`.

    From `expires_at` on (trio's clock) it may carry no further request. `exchange` is None while it is idle.
    """

    def __init__(
        self,
        stream: ByteStream,
        *,
        endpoint_id: str,
        url: str,
        server: tuple[str, int],
        expires_at: float,
        remote_address: str,
        head: str,
    ) -> None:
        self.stream = stream
        self.endpoint_id = endpoint_id
        self.url = url
        self.server = server
        self.expires_at = expires_at
        self.remote_address = remote_address
        self.head = head
        self.is_reused = False
        self.is_closed = False
        self.idle_since = 0.0
        self.exchange: Exchange | None = None
        self._reactor: Reactor | None = None
        self._events = READS
        self._reader: ResponseReader | None = None
        self._broken: OSError | None = None
        self._was_idle_until = -inf

    def watch(self, reactor: Reactor, ready: "Callable[[Connection], None]") -> None:
        """Have the reactor call `ready` with this connection whenever there is something to read or to send."""
        reactor.add(self.stream.socket, partial(ready, self))
        self._reactor = reactor

    def begin(self, exchange: Exchange) -> None:
        """Send a request; the response is read by `advance`."""
        request = _encode(self.head, exchange.request.headers, exchange.request.body)
        exchange.remote_address, exchange.is_reused = self.remote_address, self.is_reused
        exchange.doing = "waiting for the answer"
        self.exchange = exchange
        if self._reader is None:
            self._reader = ResponseReader()  # which takes several times as long as `begin`
        else:
            self._reader.begin()
        self._was_idle_until = exchange.started_at + _CLOSED_BEFORE_SECONDS if self.is_reused else -inf
        self._send(request)

    def advance(self) -> ResponseReader | None:
        """Go on with the exchange; return the response once it is complete.

        Raises TransportError if there will be none, and NeverReadError.
        """
        reader = self._reader
        assert reader is not None  # noqa: S101 - `begin` has set it
        try:
            if self._is_sending:
                self._send()
            while (data := self.stream.receive(min(reader.room, CHUNK_BYTES))) is not None:
                if data:
                    reader.feed(data)
                elif self._was_closed_while_idle:
                    raise NeverReadError
                else:
                    reader.end()
                if reader.is_complete:
                    return reader
                if not self.stream.has_more:
                    return None
            self._wait_for(READS | WRITES if self._is_sending else READS)
        except OSError as error:
            if self._was_closed_while_idle:
                raise NeverReadError from error
            # An alert, such as one that asks for a client certificate, comes after TLS 1.3's handshake.
            code = DeliveryError.TLS if isinstance(error, ssl.SSLError) else DeliveryError.PROTOCOL
            raise TransportError(code, f"the connection broke: {reason_of(self._broken or error)}") from error
        except WireError as error:
            raise TransportError(DeliveryError.PROTOCOL, str(error)) from error
        return None

    def end(self) -> bool:
        """Note that the exchange has ended; return whether the connection may carry another one."""
        reader, self.exchange = self._reader, None
        is_free = reader is not None and reader.is_reusable and self.stream.is_sent and self._broken is None
        return is_free and (not self.stream.has_more or self.is_quiet())

    def is_quiet(self) -> bool:
        """Whether an idle connection is still good: nothing but records of TLS itself has come."""
        try:
            return self.stream.receive(1) is None
        except OSError:
            return False

    def close(self) -> None:
        """Close it at once."""
        if not self.is_closed:
            self.is_closed = True
            if self._reactor is not None:
                self._reactor.remove(self.stream.socket)
            self.stream.close()

    def _send(self, request: bytes = b"") -> None:
        """Begin to send a request, or send more of it."""
        is_sent = True
        try:
            is_sent = self.stream.send(request)
            if is_sent:
                reached("request.sent")
        except OSError as error:
            self._broken = error  # the receiver may have answered before it closed
        self._wait_for(READS if is_sent else READS | WRITES)

    def _wait_for(self, events: int) -> None:
        """Wait for what the exchange needs next; nearly always that is what the reactor waits for already."""
        if events != self._events and self._reactor is not None:
            self._events = events
            self._reactor.wait_for(self.stream.socket, events)

    @property
    def _is_sending(self) -> bool:
        return self._broken is None and not self.stream.is_sent

    @property
    def _was_closed_while_idle(self) -> bool:
        has_bytes = self._reader is not None and self._reader.has_bytes
        return not has_bytes and trio.current_time() < self._was_idle_until


def _encode(head: str, headers: list[tuple[str, str]], body: bytes) -> bytes:
    lines = "".join([f"{name}: {value}\r\n" for name, value in headers])
    return f"{head}{lines}content-length: {len(body)}\r\n\r\n".encode("ascii") + body

"""Sends requests, each within one deadline for resolving, connecting and the whole response."""

import ssl
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import trio

from webhookd.config import DeliveryConfig, EgressConfig
from webhookd.delivery.egress.addresses import Address
from webhookd.delivery.egress.own_addresses import own_addresses
from webhookd.delivery.egress.resolver import SystemResolver
from webhookd.delivery.egress.rules import EgressPolicy, Resolver
from webhookd.delivery.http.connector import Connector
from webhookd.delivery.http.transport import DirectTransport
from webhookd.delivery.request import Cancelable, Done, Request
from webhookd.observe.logs import get_logger

if TYPE_CHECKING:
    from webhookd.delivery.http.proxy import ProxyTransport

TICK_SECONDS = 0.05
OWN_ADDRESSES_SECONDS = 60.0

_log = get_logger("sender")


class Sender:
    """Sends requests to receivers over `transport`, while `run` and `keep_time` run."""

    transport: "DirectTransport | ProxyTransport"

    def __init__(
        self,
        delivery: DeliveryConfig,
        egress: EgressConfig,
        *,
        resolver: Resolver | None = None,
        ssl_context: ssl.SSLContext | None = None,
        own: Callable[[], Collection[Address]] = own_addresses,
    ) -> None:
        self._own = own
        self._policy = EgressPolicy(egress, own())
        self._resolver = resolver or SystemResolver()
        # One for all requests: it takes 50 ms and most of a megabyte.
        context = ssl_context or _ssl_context()
        limits = {
            "connect_timeout_seconds": delivery.connect_timeout_seconds,
            "connection_max_age_seconds": delivery.connection_max_age_seconds,
        }
        if egress.proxy is None:
            self.transport = DirectTransport(Connector(self._policy, self._resolver, context, **limits))
        else:
            from webhookd.delivery.http.proxy import ProxyTransport  # noqa: PLC0415 - 2 MiB with httpx and httpcore

            self.transport = ProxyTransport(egress.proxy, self._policy, self._resolver, context, **limits)
        if egress.allow_networks:
            _log.warning("egress.networks_allowed", networks=list(egress.allow_networks))
        if egress.proxy is not None:
            _log.warning("egress.proxy_resolves", detail="the proxy decides which addresses are dialed")

    async def check_url(self, url: str) -> None:
        """Raise Rejected URL_NOT_ALLOWED for a URL to which no request may be sent."""
        await self._policy.check_for_saving(url, self._resolver)

    def start(self, request: Request, done: Done) -> Cancelable:
        """Start one POST request; `done` is called with its outcome later, never during this call."""
        return self.transport.start(request, done)

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        await self.transport.forget(endpoint_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Send until canceled, and read the machine's addresses again from time to time."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.transport.run)
            task_status.started()
            while True:
                await trio.sleep(OWN_ADDRESSES_SECONDS)
                self._read_own_addresses()

    async def keep_time(self) -> None:
        """Keep deadlines and close idle connections until canceled.

        It runs next to `run`: what is started while that has crashed and isn't running again has a deadline, too.
        """
        while True:
            await trio.sleep(TICK_SECONDS)
            await self.transport.keep_time(trio.current_time())

    def _read_own_addresses(self) -> None:
        try:
            self._policy.own = frozenset(self._own())
        except OSError as error:
            # Too many files may be open, for example. Those known so far stay, and no request is interrupted.
            _log.warning("egress.own_addresses_unread", error=str(error))


def _ssl_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context

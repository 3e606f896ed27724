"""Sends one request and returns its outcome, within one deadline for resolving, connecting and the whole response."""

import ssl
from collections.abc import Callable, Collection
from math import inf

import trio

from webhookd.base.models import DeliveryError, Outcome
from webhookd.config import DeliveryConfig, EgressConfig
from webhookd.delivery.egress.addresses import Address
from webhookd.delivery.egress.own_addresses import own_addresses
from webhookd.delivery.egress.resolver import SystemResolver
from webhookd.delivery.egress.rules import EgressPolicy, Resolver
from webhookd.delivery.http.connector import Connector
from webhookd.delivery.http.exchange import IDLE_SECONDS, HeaderList, RequestProgress, TooLateError, TransportError
from webhookd.delivery.http.proxy import ProxyTransport
from webhookd.delivery.http.transport import DirectTransport
from webhookd.observe.logs import get_logger

TICK_SECONDS = 0.05
OWN_ADDRESSES_SECONDS = 60.0

_log = get_logger("sender")


class Sender:
    """Sends requests to receivers over `transport`; its `run` keeps deadlines and closes idle connections."""

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
        self.transport = (
            DirectTransport(Connector(self._policy, self._resolver, context, **limits))
            if egress.proxy is None
            else ProxyTransport(egress.proxy, self._policy, self._resolver, context, **limits)
        )
        if egress.allow_networks:
            _log.warning("egress.networks_allowed", networks=list(egress.allow_networks))
        if egress.proxy is not None:
            _log.warning("egress.proxy_resolves", detail="the proxy decides which addresses are dialed")

    async def check_url(self, url: str) -> None:
        """Raise Rejected URL_NOT_ALLOWED for a URL to which no request may be sent."""
        await self._policy.check_for_saving(url, self._resolver)

    async def send(
        self, *, endpoint_id: str, url: str, headers: HeaderList, body: bytes, timeout_seconds: float
    ) -> Outcome:
        """Make one POST request and return its outcome; raises only trio.Cancelled."""
        started_at = trio.current_time()
        progress = RequestProgress(started_at + timeout_seconds)
        try:
            answer = await self.transport.exchange(endpoint_id, url, headers, body, progress)
        except TransportError as error:
            code, detail = error.code, error.detail
        except TooLateError:
            code, detail = DeliveryError.TIMEOUT, f"{progress.doing} was not done after {timeout_seconds:g} s"
        else:
            return Outcome(
                duration_seconds=trio.current_time() - started_at,
                remote_address=progress.remote_address,
                is_reused=progress.is_reused,
                status=answer.status,
                headers=tuple(answer.headers),
                body=bytes(answer.body),
                truncated=answer.is_truncated,
            )
        return Outcome(
            duration_seconds=trio.current_time() - started_at,
            remote_address=progress.remote_address,
            is_reused=progress.is_reused,
            error=code,
            detail=detail,
        )

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        await self.transport.forget(endpoint_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until canceled, cut off late exchanges, close idle connections, and read the machine's addresses again."""
        task_status.started()
        own_known_until = trio.current_time() + OWN_ADDRESSES_SECONDS
        try:
            while True:
                await trio.sleep(TICK_SECONDS)
                now = trio.current_time()
                self.transport.cut_off_late(now)
                self.transport.close_idle(now - IDLE_SECONDS)
                self.transport.close_old(now)
                if now >= own_known_until:
                    self._policy.own = frozenset(self._own())
                    own_known_until = now + OWN_ADDRESSES_SECONDS
        finally:
            self.transport.close_idle(inf)


def _ssl_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context

"""Sending one request: every outcome is a value, within one deadline over resolving, connecting, headers and body."""

import ssl
from collections.abc import Callable, Collection
from typing import Protocol

import trio

from webhookd.base.models import DeliveryError, Outcome
from webhookd.config import DeliveryConfig, EgressConfig
from webhookd.delivery.egress.addresses import Address
from webhookd.delivery.egress.own_addresses import own_addresses
from webhookd.delivery.egress.resolver import SystemResolver
from webhookd.delivery.egress.rules import EgressPolicy, Resolver
from webhookd.delivery.http.proxy import ProxyTransport
from webhookd.delivery.http.transport import (
    IDLE_SECONDS,
    DirectTransport,
    Exchanged,
    HeaderList,
    RequestProgress,
    TooLateError,
    TransportError,
)
from webhookd.observe.logs import get_logger

TICK_SECONDS = 0.05
OWN_ADDRESSES_SECONDS = 60.0

_log = get_logger("sender")


class Transport(Protocol):
    """What carries a request: our own connections, or a proxy."""

    @property
    def idle_connections(self) -> int:
        """How many connections wait for their next request."""
        ...

    @property
    def opened(self) -> int:
        """How many requests got a new connection."""
        ...

    @property
    def reused(self) -> int:
        """How many requests got a connection that was open already."""
        ...

    async def exchange(
        self, endpoint_id: str, url: str, headers: HeaderList, body: bytes, progress: RequestProgress
    ) -> Exchanged:
        """Send one POST and return its response; TransportError for everything that keeps it from coming.

        TooLateError where it isn't done by the deadline.
        """
        ...

    def cut_off_late(self, now: float) -> None:
        """Cut off the exchanges whose deadline has passed (trio's clock)."""
        ...

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        ...

    def close_idle(self, before: float) -> None:
        """Close the connections that have been idle since before that time (trio's clock)."""
        ...

    def close_old(self, now: float) -> None:
        """Close the idle connections that are too old to be used again (trio's clock)."""
        ...

    async def aclose(self) -> None:
        """Close every idle connection."""
        ...


class Sender:
    """Sends requests to receivers; `run` it beside, which keeps their deadlines and tidies up."""

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
        # It costs 50 ms and most of a megabyte: one for all.
        context = ssl_context or _ssl_context()
        limits = {
            "connect_timeout_seconds": delivery.connect_timeout_seconds,
            "connection_max_age_seconds": delivery.connection_max_age_seconds,
        }
        self._transport: Transport = (
            DirectTransport(self._policy, self._resolver, context, **limits)
            if egress.proxy is None
            else ProxyTransport(egress.proxy, self._policy, self._resolver, context, **limits)
        )
        if egress.allow_networks:
            _log.warning("egress.networks_allowed", networks=list(egress.allow_networks))
        if egress.proxy is not None:
            _log.warning("egress.proxy_resolves", detail="the proxy decides which addresses are dialed")

    @property
    def idle_connections(self) -> int:
        """How many connections wait for their next request."""
        return self._transport.idle_connections

    @property
    def connections_opened(self) -> int:
        """How many requests got a new connection."""
        return self._transport.opened

    @property
    def connections_reused(self) -> int:
        """How many requests got a connection that was open already."""
        return self._transport.reused

    async def check_url(self, url: str) -> None:
        """Raise Rejected URL_NOT_ALLOWED for a URL that must not be dialled."""
        await self._policy.check_for_saving(url, self._resolver)

    async def send(
        self, *, endpoint_id: str, url: str, headers: HeaderList, body: bytes, timeout_seconds: float
    ) -> Outcome:
        """Make one POST request; only cancellation is raised."""
        started_at = trio.current_time()
        progress = RequestProgress(started_at + timeout_seconds)
        try:
            answer = await self._transport.exchange(endpoint_id, url, headers, body, progress)
        except TransportError as error:
            return _failed(started_at, progress, error.code, error.detail)
        except TooLateError:
            detail = f"{progress.doing} was not done after {timeout_seconds:g} s"
            return _failed(started_at, progress, DeliveryError.TIMEOUT, detail)
        return Outcome(
            duration_seconds=trio.current_time() - started_at,
            remote_address=progress.remote_address,
            is_reused=progress.is_reused,
            status=answer.status,
            headers=answer.headers,
            body=answer.body,
            truncated=answer.is_truncated,
        )

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        await self._transport.forget(endpoint_id)

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep deadlines, close what nobody has used for a while, and keep up with the machine's addresses."""
        task_status.started()
        own_known_until = trio.current_time() + OWN_ADDRESSES_SECONDS
        try:
            while True:
                await trio.sleep(TICK_SECONDS)
                now = trio.current_time()
                self._transport.cut_off_late(now)
                self._transport.close_idle(now - IDLE_SECONDS)
                self._transport.close_old(now)
                if now >= own_known_until:
                    self._policy.own = frozenset(self._own())
                    own_known_until = now + OWN_ADDRESSES_SECONDS
        finally:
            with trio.CancelScope(shield=True):
                await self._transport.aclose()


def _failed(started_at: float, progress: RequestProgress, code: DeliveryError, detail: str) -> Outcome:
    return Outcome(
        duration_seconds=trio.current_time() - started_at,
        remote_address=progress.remote_address,
        is_reused=progress.is_reused,
        error=code,
        detail=detail,
    )


def _ssl_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.set_alpn_protocols(["http/1.1"])
    return context

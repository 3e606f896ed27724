"""A sender to try against receivers: certificates of our own, a resolver that asks nobody, a short way to send."""

import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio
import trustme

from tests.delivery.hostile import Proxy
from tests.patience import until
from webhookd.base.models import Outcome
from webhookd.config import DeliveryConfig, EgressConfig
from webhookd.delivery.http.proxy import ProxyTransport
from webhookd.delivery.http.sender import Sender
from webhookd.delivery.http.transport import DirectTransport
from webhookd.delivery.request import Request, send

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
LOOPBACK = EgressConfig(allow_http=True, ports=(), allow_networks=("127.0.0.0/8", "::1/128"))
HEADERS = [("content-type", "application/json"), ("webhook-id", "evt_1")]
CA = trustme.CA()


def through(proxy: Proxy) -> EgressConfig:
    return EgressConfig(allow_http=True, ports=(), allow_networks=LOOPBACK.allow_networks, proxy=proxy.url)


def client_context() -> ssl.SSLContext:
    context = ssl.create_default_context()
    CA.configure_trust(context)
    return context


def server_context(*names: str, authority: trustme.CA = CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(*names).configure_cert(context)
    return context


class StubResolver:
    """Answers each name with the next answers in turn; never asks anybody."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self.answers = list(answers)

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        answers = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if not answers:
            raise OSError("no such name")
        return answers


@dataclass
class Out:
    """A sender and a short way to use it."""

    sender: Sender

    async def send(self, url: str, *, body: bytes = b"{}", seconds: float = 10.0, endpoint_id: str = "wh_1") -> Outcome:
        return await send(self.sender, Request(endpoint_id, url, HEADERS, body, seconds))

    async def noticed(self, endpoint_id: str = "wh_1") -> None:
        """Return once the sender would find that something was done to each idle connection of an endpoint."""
        await until(lambda: self._shows(endpoint_id))

    def _shows(self, endpoint_id: str) -> bool:
        transport = self.sender.transport
        if isinstance(transport, DirectTransport):
            return endpoint_id not in transport._idle_of
        assert isinstance(transport, ProxyTransport)
        pool = transport._pools.get(endpoint_id)
        return pool is None or all(connection.has_expired() for connection in pool.http.connections)


@asynccontextmanager
async def sending(
    egress: EgressConfig = LOOPBACK, *, connect: float = 5.0, max_age: float = 60.0, **hooks: object
) -> AsyncIterator[Out]:
    options: dict[str, object] = {"ssl_context": client_context(), "own": frozenset} | hooks
    sender = Sender(
        DeliveryConfig(connect_timeout_seconds=connect, connection_max_age_seconds=max_age),
        egress,
        **options,  # type: ignore[arg-type]  # a test's own hooks
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(sender.run)
        nursery.start_soon(sender.keep_time)
        yield Out(sender)
        nursery.cancel_scope.cancel()

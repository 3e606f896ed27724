"""A sender among names that flip, run in the namespace of its own machine: prints what became of its attempts.

Given `carelessly`, the planted fault, its policy checks nothing of what is dialled.
"""

import json
import ssl
import sys
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address

import trio

from tests.delivery.rebinding import FAR, LITERALS, NEAR, PORT, PUBLIC, ROUNDS, name_of
from webhookd.config import DeliveryConfig, EgressConfig, LogConfig
from webhookd.delivery.egress.addresses import Address
from webhookd.delivery.egress.resolver import SystemResolver
from webhookd.delivery.egress.rules import DialTarget, EgressPolicy
from webhookd.delivery.http.connector import Connector
from webhookd.delivery.http.sender import Sender
from webhookd.delivery.http.transport import DirectTransport
from webhookd.delivery.request import Request
from webhookd.delivery.request import send as made
from webhookd.observe import logs


async def send() -> None:
    sender = Sender(
        DeliveryConfig(connect_timeout_seconds=10.0, connection_max_age_seconds=60.0),
        EgressConfig(allow_http=True, ports=()),
    )
    became: Counter[str] = Counter()
    limiter = trio.CapacityLimiter(16)

    async def attempt(url: str, times: int) -> None:
        for _ in range(times):
            async with limiter:
                outcome = await made(sender, Request(url, url, [], b"{}", 20.0))
            became[f"{outcome.error or outcome.status} {outcome.remote_address or ''}".strip()] += 1

    async with trio.open_nursery() as nursery:
        await nursery.start(sender.run)
        nursery.start_soon(sender.keep_time)
        async with trio.open_nursery() as attempts:
            for bad in NEAR + FAR:
                good = PUBLIC[":" in bad]
                for name in (
                    name_of(good, bad),
                    name_of(f"{PUBLIC[0]}+{bad}", good),
                    name_of(good, f"{bad}+{PUBLIC[0]}"),
                ):
                    attempts.start_soon(attempt, f"http://{name}:{PORT}/hook", ROUNDS)
                attempts.start_soon(attempt, f"http://{f'[{bad}]' if ':' in bad else bad}:{PORT}/hook", 1)
            for literal in LITERALS:
                attempts.start_soon(attempt, f"http://{literal}:{PORT}/hook", 1)
        nursery.cancel_scope.cancel()
    print(json.dumps(became), flush=True)


class Careless(EgressPolicy):
    """The planted fault: a policy that looks at URLs, and not at what is dialled."""

    def check(self, target: DialTarget, answers: Sequence[str]) -> list[Address]:
        return [ip_address(answer) for answer in answers]

    def check_address(self, address: Address) -> None:
        pass


async def send_carelessly() -> None:
    policy = Careless(EgressConfig(allow_http=True, ports=()))
    connector = Connector(
        policy,
        SystemResolver(),
        ssl.create_default_context(),
        connect_timeout_seconds=10.0,
        connection_max_age_seconds=60.0,
    )
    sender = Sender(DeliveryConfig(), EgressConfig(allow_http=True, ports=()))
    sender.transport = DirectTransport(connector)
    became: Counter[str] = Counter()
    async with trio.open_nursery() as nursery:
        await nursery.start(sender.run)
        nursery.start_soon(sender.keep_time)
        for bad in NEAR + FAR:
            url = f"http://{name_of(bad)}:{PORT}/hook"
            outcome = await made(sender, Request(url, url, [], b"{}", 20.0))
            became[f"{outcome.status or outcome.error} {outcome.remote_address}"] += 1
        nursery.cancel_scope.cancel()
    print(json.dumps(became), flush=True)


if __name__ == "__main__":
    logs.configure(LogConfig(level="error", format="json"))
    trio.run(send_carelessly if "carelessly" in sys.argv else send)

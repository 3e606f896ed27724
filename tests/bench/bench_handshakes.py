"""Measure what the maximum age of a connection costs: full and resumed TLS handshakes, in CPU of the sender alone.

`python -m tests.bench.bench_handshakes [ENDPOINTS]` starts a receiver in a process of its own, whose certificate has an
intermediate one (RSA, 2048 bits, like most public ones). It sends three rounds of one request to each endpoint: over
new connections with a full handshake, over the same connections again, and over new connections that resume the
session. It prints the CPU time of each, the handshakes per second of CPU, and the share of a core that they need at the
default maximum age.
"""

import resource
import ssl
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from time import process_time

import trio
import trustme

from webhookd.config import DeliveryConfig, EgressConfig, LogConfig
from webhookd.delivery.http.exchange import LEAST_SHARE_OF_AGE
from webhookd.delivery.http.sender import Sender
from webhookd.delivery.request import Request, send
from webhookd.observe import logs

ROUNDS = 5
AT_ONCE = 8
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
DOMAIN = "receivers.example"
BODY = b'{"id":"evt_1","data":{}}'


async def serve(certificate: str) -> None:
    """Answer every request over TLS on a free port until standard input ends; print the port."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)

    async def answer_all(stream: trio.SSLStream[trio.SocketStream]) -> None:
        try:
            while await stream.receive_some(65_536):
                await stream.send_all(ANSWER)
        except trio.BrokenResourceError:
            pass  # the sender closes without close_notify

    async with trio.open_nursery() as nursery:
        start = partial(trio.serve_ssl_over_tcp, host="127.0.0.1", https_compatible=True)
        listeners = await nursery.start(start, answer_all, 0, context)
        print(listeners[0].transport_listener.socket.getsockname()[1], flush=True)
        await trio.to_thread.run_sync(sys.stdin.read)
        nursery.cancel_scope.cancel()


class Loopback:
    """Resolves every name to loopback."""

    async def resolve(self, host: str, port: int) -> Sequence[str]:
        """Return the loopback address without a lookup."""
        await trio.lowlevel.checkpoint()
        return ["127.0.0.1"]


async def measure(endpoints: int, port: int, context: ssl.SSLContext) -> None:
    """Send the rounds and print the CPU time of a request in each."""
    egress = EgressConfig(ports=(), allow_networks=("127.0.0.0/8",))
    delivery = DeliveryConfig(connection_max_age_seconds=3600)
    kinds = ("in full", "none", "resumed")
    costs: dict[str, list[float]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        sender = Sender(delivery, egress, resolver=Loopback(), ssl_context=context, own=frozenset)
        async with trio.open_nursery() as nursery:
            await nursery.start(sender.run)
            nursery.start_soon(sender.keep_time)
            for kind in kinds:
                if kind == "resumed":
                    for number in range(endpoints):
                        await sender.forget(f"wh_{number}")
                opened = sender.transport.opened
                began = process_time()
                await _send_to_each(sender, endpoints, port)
                costs[kind].append((process_time() - began) / endpoints)
                assert sender.transport.opened - opened == (0 if kind == "none" else endpoints)
            nursery.cancel_scope.cancel()
    middle = {kind: median(values) for kind, values in costs.items()}
    print(f"a request over a kept connection: {middle['none'] * 1e6:.0f} µs of CPU")
    age = DeliveryConfig().connection_max_age_seconds
    each_second = endpoints / (age * (1 + LEAST_SHARE_OF_AGE) / 2)
    print(f"{endpoints} busy endpoints with a maximum age of {age:g} s: {each_second:.1f} new connections a second")
    for kind in ("in full", "resumed"):
        seconds = middle[kind] - middle["none"]
        print(
            f"connection and handshake, {kind}: {seconds * 1e6:.0f} µs of CPU, {1 / seconds:.0f} a second of CPU, "
            f"{each_second * seconds:.1%} of a core at that rate"
        )


async def _send_to_each(sender: Sender, endpoints: int, port: int) -> None:
    async def some(first: int) -> None:
        for number in range(first, endpoints, AT_ONCE):
            url = f"https://r{number}.{DOMAIN}:{port}/"
            outcome = await send(sender, Request(f"wh_{number}", url, [("content-type", "application/json")], BODY, 30))
            assert outcome.status == 200, outcome

    async with trio.open_nursery() as nursery:
        for first in range(AT_ONCE):
            nursery.start_soon(some, first)


def main(endpoints: int) -> None:
    """Start the receiver and measure."""
    authority = trustme.CA(key_type=trustme.KeyType.RSA)
    certificate = authority.create_child_ca(key_type=trustme.KeyType.RSA).issue_cert(
        f"*.{DOMAIN}", key_type=trustme.KeyType.RSA
    )
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["http/1.1"])
    with TemporaryDirectory(prefix="webhookd-bench-") as directory:
        file = Path(directory, "receiver.pem")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(file))
        command = [sys.executable, "-m", "tests.bench.bench_handshakes", "serve", str(file)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as receiver:
            assert receiver.stdout is not None
            trio.run(measure, endpoints, int(receiver.stdout.readline()), context)
            receiver.communicate("")


if __name__ == "__main__":
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1:2] == ["serve"]:
        trio.run(serve, sys.argv[2])
    else:
        logs.configure(LogConfig(level="error"))
        main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)

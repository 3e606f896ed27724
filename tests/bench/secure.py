"""Measure the cost of TLS on kept connections to a thousand endpoints, between measurements in clear text."""

from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.load import Load
from tests.bench.receivers import Certificates, cheapest
from tests.bench.report import Figure, Result, Target, compared
from tests.bench.seed import Content, Group, seed
from tests.bench.server import serving
from tests.bench.throughput import Pass, Scene, deliver

ENDPOINTS = 1000


def against_clear_text(load: Load, target: Target) -> Result:
    """Measure both in turn on two servers, each with connections that were opened beforehand."""
    scene = Scene(endpoints=ENDPOINTS)
    passes: dict[bool, list[Pass]] = {False: [], True: []}
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="webhookd-bench-")))
        certificates = Certificates(directory)
        receivers = {
            False: stack.enter_context(cheapest()),
            True: stack.enter_context(cheapest(certificates)),
        }
        servers = {}
        for is_secure, receiver in receivers.items():
            home = Path(stack.enter_context(TemporaryDirectory(prefix="webhookd-bench-")))
            seed(home, Content(groups=(Group(count=ENDPOINTS, url=receiver.url),)))
            environ = {"SSL_CERT_FILE": str(certificates.authority)}
            servers[is_secure] = stack.enter_context(serving(home, environ=environ))
        for is_secure in (False, *(True, False) * load.repeats):
            deliver(servers[is_secure], receivers[is_secure], scene, 2 * ENDPOINTS)
            passes[is_secure].append(deliver(servers[is_secure], receivers[is_secure], scene, load.of(20_000)))
            servers[is_secure].settle()
        result = Result(receiver=f"{receivers[True].name}, TLS")
    result.lost = sum(one.lost for one in (*passes[False], *passes[True]))
    rates = {kind: [one.per_second for one in passes[kind]] for kind in passes}
    costs = {kind: [one.cpu.all_threads for one in passes[kind]] for kind in passes}
    result.yardsticks |= {"clear text, deliveries/s": rates[False], "clear text, µs of CPU": costs[False]}
    result.figures += [
        compared("deliveries over TLS", "/s", rates[True], "clear text", rates[False], target=target),
        compared("CPU a delivery, all threads", "µs", costs[True], "clear text", costs[False]),
    ]
    result.figures += [
        Figure(
            what="CPU a delivery, the event loop's thread",
            unit="µs",
            values=tuple(one.cpu.loop for one in passes[True]),
        ),
        Figure(
            what="resident memory under load",
            unit="MiB",
            values=tuple(one.resident_mebibytes for one in passes[True]),
        ),
    ]
    return result

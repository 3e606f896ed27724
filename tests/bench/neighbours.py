"""Measure healthy endpoints among failing ones: one refuses connections, others hang, drip, or don't resolve."""

import socket
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench import names
from tests.bench.latency import Measured, Rate, play_through
from tests.bench.load import Load
from tests.bench.receivers import Sink, sink
from tests.bench.report import Result, Target, compared, percentile
from tests.bench.seed import Content, Group, seed
from tests.bench.server import serving

ENDPOINTS = 1000
OF_EACH_KIND = 50
HEALTHY = ENDPOINTS - 3 * OF_EACH_KIND - 1
PER_SECOND = 500
SECONDS = 20


def among_failing(load: Load, target: Target) -> Result:
    """Measure the latency of healthy endpoints, between measurements without the failing ones."""
    with ExitStack() as stack:
        receiver, hanging, dripping = (stack.enter_context(sink(mode)) for mode in ("record", "hang", "drip"))
        # A port that is bound without listening refuses connections, and no other program can use it.
        refusing = stack.enter_context(socket.socket())
        refusing.bind(("127.0.0.1", 0))
        lookups = stack.enter_context(
            names.dead_names(Path(stack.enter_context(TemporaryDirectory(prefix="webhookd-bench-"))))
        )
        failing = (
            Group(count=1, url=f"http://127.0.0.1:{refusing.getsockname()[1]}/"),
            Group(count=OF_EACH_KIND, url=hanging.url),
            Group(count=OF_EACH_KIND, url=dripping.url),
            Group(count=OF_EACH_KIND, url=f"http://{names.HOST}:{receiver.port}/"),
        )
        alone = [_measure(load, receiver, (), ())]
        among = []
        for _ in range(load.long_repeats):
            among.append(_measure(load, receiver, failing, lookups.wrapper))
            alone.append(_measure(load, receiver, (), ()))
        hung, dripped = hanging.count(), dripping.count()
    result = Result(receiver=receiver.name)
    result.void = next((void for one in (*alone, *among) if (void := one.played.void())), "")
    result.lost = sum(one.lost for one in (*alone, *among))
    for percent in (50, 99, 99.9):
        around = [percentile(one.seconds, percent) * 1000 for one in alone]
        values = [percentile(one.seconds, percent) * 1000 for one in among]
        result.yardsticks[f"alone, p{percent:g} in ms"] = around
        bound = target if percent == 99 else None
        result.figures.append(
            compared(f"event in to request, p{percent:g}", "ms", values, "alone", around, target=bound)
        )
    result.notes += [
        f"{HEALTHY} healthy, 1 that refuses, and {OF_EACH_KIND} each that hang, drip, or don't resolve",
        f"{hung} requests hung and {dripped} got a slow answer; {lookups.note}",
    ]
    return result


def _measure(load: Load, receiver: Sink, failing: Sequence[Group], wrapper: Sequence[str]) -> Measured:
    with TemporaryDirectory(prefix="webhookd-bench-") as name:
        directory = Path(name)
        seed(directory, Content(groups=(Group(count=HEALTHY, url=receiver.url), *failing)))
        endpoints = HEALTHY + sum(group.count for group in failing)
        # The healthy ones get the same number of events a second with and without the failing ones.
        rate = Rate(
            per_second=PER_SECOND * endpoints / ENDPOINTS,
            organizations=tuple(f"o{number}" for number in range(endpoints)),
            healthy=HEALTHY,
        )
        with serving(directory, wrapper=wrapper, abandon=True) as server:
            play_through(server, receiver, rate, endpoints * 2)
            return play_through(server, receiver, rate, int(load.of(SECONDS * 10) / 10 * rate.per_second))

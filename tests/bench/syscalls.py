"""Count the system calls of a delivery with strace, which slows the server down: the case measures nothing else."""

import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.bench.load import Load
from tests.bench.receivers import cheapest
from tests.bench.report import Figure, Result
from tests.bench.server import BrokenCaseError, SkippedCaseError, serving
from tests.bench.throughput import Scene, deliver

SCENES = {"one to one": Scene(endpoints=50), "fan-out": Scene(endpoints=50, to_all=True)}
WARM_UP = 1_000
DELIVERIES = 10_000
SHOWN = 12
DETACH_SECONDS = 30.0


def of_deliveries(load: Load) -> Result:
    """Count the system calls of all threads while events go to one, and to all, of 50 strict endpoints."""
    with cheapest() as receiver:
        result = Result(receiver=receiver.name)
        for name, scene in SCENES.items():
            with TemporaryDirectory(prefix="webhookd-bench-") as directory, serving(Path(directory)) as server:
                server.add_webhooks(receiver.url, scene.endpoints, in_organizations=not scene.to_all)
                deliver(server, receiver, scene, WARM_UP)
                with counted(server.pid) as calls:
                    measured = deliver(server, receiver, scene, load.of(DELIVERIES))
                server.settle()
            result.lost += measured.lost
            result.figures += figures(name, calls, load.of(DELIVERIES) - measured.lost)
            result.notes.append(f"{name}: {measured.per_second:,.0f} deliveries a second under strace")
    return result


def figures(scene: str, calls: Mapping[str, int], deliveries: int) -> list[Figure]:
    """Return the calls a delivery: of all kinds together, and of each of the most frequent."""
    counted = {"all": sum(calls.values()), **dict(Counter(calls).most_common(SHOWN))}
    return [
        Figure(what=f"{scene}: {name}", unit="a delivery", values=(count / max(deliveries, 1),))
        for name, count in counted.items()
    ]


@contextmanager
def counted(pid: int) -> Iterator[Mapping[str, int]]:
    """Count the system calls of all threads of a process during the block; the mapping is filled at its end.

    SkippedCaseError if this machine has no strace, or doesn't let it trace the process.
    """
    program = shutil.which("strace")
    if program is None:
        raise SkippedCaseError("strace is not installed")
    calls: dict[str, int] = {}
    with TemporaryDirectory(prefix="webhookd-bench-") as directory:
        summary = Path(directory) / "summary"
        command = [program, "-c", "-f", "-o", str(summary), "-p", str(pid)]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            try:
                # "strace: Process 1 attached with 5 threads", or why it isn't.
                if "attached" not in (said := process.stderr.readline()):
                    raise SkippedCaseError(f"strace can't trace the server: {said.strip()}")
                yield calls
                process.send_signal(signal.SIGINT)
                # With the pipe full of what it says of each thread it would never end.
                process.communicate(timeout=DETACH_SECONDS)
            finally:
                process.kill()
        calls |= parse(summary.read_text())


def parse(summary: str) -> dict[str, int]:
    """Return the number of calls by name in the table that `strace -c` writes."""
    rows = [line.split() for line in summary.splitlines()]
    # The columns: % time, seconds, usecs/call, calls, errors (if any), syscall.
    calls = {row[-1]: int(row[3]) for row in rows if len(row) in {5, 6} and row[3].isdigit() and row[-1] != "total"}
    if not calls:
        raise BrokenCaseError(f"strace counted nothing: {summary[-500:]!r}")
    return calls

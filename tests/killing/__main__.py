"""Kill the server many times under load: `python -m tests.killing --cycles 50 --seed 1`.

The exit status is 1 if a promise was broken. `--planted` plants each fault in turn and looks for it; the exit status is
then 1 if one was not found.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import trio

from tests.killing.run import Report, run

PLANTED = MappingProxyType(
    {
        "acknowledges early": "was acknowledged and is not on disk",
        "ignores the backlog at a start": "nothing is sent any more",
        "swaps the order": "was sent after",
        "skips a sequence": "sequences have gaps",
        "loses an attempt": "is not recorded",
        "sends twice": "was made twice in one life",
        "alters bodies": "arrived with other bytes",
    }
)
"""Each fault, and the text with which it must be reported."""
MOST_CYCLES = 4
CONNECTIONS = 12
_FAULTS_CONNECTIONS = 4
_FAULTS_STALLED_SECONDS = 3.0


def play(*, seed: int, cycles: int, connections: int) -> Report:
    """Run one server and kill it `cycles` times."""
    with tempfile.TemporaryDirectory() as place:
        return trio.run(partial(run, Path(place), seed=seed, cycles=cycles, connections=connections))


def find(name: str) -> str | None:
    """Plant a fault; return its report, with the fewest kills up to `MOST_CYCLES`, or None if it was not found."""
    for cycles in range(MOST_CYCLES + 1):
        with tempfile.TemporaryDirectory() as place:
            begin = partial(
                run,
                Path(place),
                seed=cycles,
                cycles=cycles,
                connections=_FAULTS_CONNECTIONS,
                faults=(name,),
                stalled_seconds=_FAULTS_STALLED_SECONDS,
            )
            report = trio.run(begin)
        problems = [problem for problem in report.problems if PLANTED[name] in problem]
        if problems:
            return f"{report.kills} kills, {problems[0]}"
    return None


def main(arguments: Sequence[str]) -> int:
    """Run the kills, or plant the faults; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.killing", description=__doc__)
    parser.add_argument("--cycles", type=int, default=20, metavar="N", help="how many times to kill and restart (20)")
    parser.add_argument(
        "--connections", type=int, default=CONNECTIONS, metavar="C", help=f"number of producers ({CONNECTIONS})"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed (0)")
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    if options.planted:
        found = {name: find(name) for name in PLANTED}
        for name, problem in found.items():
            print(f"{name}: {problem or 'NOT FOUND'}", flush=True)
        return 0 if all(found.values()) else 1
    began = time.monotonic()
    report = play(seed=options.seed, cycles=options.cycles, connections=options.connections)
    for problem in report.problems:
        print(f"  {problem}")
    print(
        f"seed {options.seed}: {report.kills} kills in {time.monotonic() - began:.0f} s; {report.acknowledged} events "
        f"acknowledged, {report.answered_again} of them again after a kill; {report.requests} requests, "
        f"{report.sent_again} of them made again for a kill; {len(report.problems)} promises broken"
    )
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

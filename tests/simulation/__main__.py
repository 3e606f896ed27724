"""Run seeds: `python -m tests.simulation --seeds 200`, or one with its trace: `--seed 17 --trace`.

The status is 1 where a seed broke a promise. `--planted` runs every planted bug until a seed finds it.
"""

import argparse
import io
import sys
import time
from collections.abc import Sequence

from tests.simulation.driver import Result, play
from tests.simulation.planted import MOST_SEEDS, PLANTED
from webhookd import logs
from webhookd.config import LogConfig


def main(arguments: Sequence[str]) -> int:
    """Run what was asked for; return the status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="how many to run (200)")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the seed to begin with (0)")
    parser.add_argument("--seed", type=int, metavar="S", help="run this one alone")
    parser.add_argument("--trace", action="store_true", help="print the trace of each seed")
    parser.add_argument("--time", action="store_true", help="set clocks and suspend the machine far more often")
    parser.add_argument("--planted", action="store_true", help="plant each bug in turn and look for it")
    options = parser.parse_args(arguments)
    # What goes wrong on purpose is no news; a violation is printed.
    logs.configure(LogConfig(level="error"), io.StringIO())
    if options.planted:
        return _find_planted()
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
    began, results = time.monotonic(), []
    for seed in seeds:
        result = play(seed, is_about_time=options.time)
        results.append(result)
        if options.trace:
            print("\n".join(result.trace))
        if options.seed is not None or result.violations:
            _show(result)
    bad = [result.seed for result in results if result.violations]
    print(
        f"{len(results)} seeds in {time.monotonic() - began:.1f} s: {sum(result.events for result in results)} events "
        f"acknowledged, {sum(result.requests for result in results)} requests, "
        f"{sum(result.kills for result in results)} crashes; {len(bad)} seeds broke a promise{': ' if bad else ''}"
        f"{', '.join(map(str, bad))}"
    )
    return 1 if bad else 0


def _show(result: Result) -> None:
    print(f"seed {result.seed}: trace {result.hash}, {len(result.violations)} promises broken")
    for violation in result.violations:
        print(f"  {violation}")


def find(name: str) -> Result | None:
    """Return the first seed that finds a planted bug, if one of the first `MOST_SEEDS` does."""
    for seed in range(MOST_SEEDS):
        result = play(seed, PLANTED[name], stops_early=True)
        if result.violations:
            return result
    return None


def _find_planted() -> int:
    status = 0
    for name in PLANTED:
        result = find(name)
        if result is None:
            status = 1
        print(f"{name}: {'NOT FOUND' if result is None else f'seed {result.seed}, {result.violations[0]}'}", flush=True)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

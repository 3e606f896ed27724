"""Record runs of the server and cut the power in them: `python -m tests.powercut --runs 8 --seed 1`.

The exit status is 1 if a promise was broken, and 3 without strace. `--planted` plants each fault in turn and looks for
it; the exit status is then 1 if one was not found.
"""

import argparse
import io
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from tests.powercut.cuts import Result, cut
from tests.powercut.record import record, why_not
from webhookd.config import LogConfig
from webhookd.observe import logs

PAGES = 60
"""The write-ahead log is checkpointed after this many pages, so that a short run shows it often."""
PLANTED = ("acknowledges early", "synchronous = NORMAL", "syncs no directory", "syncs no copy")
UNABLE = 3
_EVENTS = 60
_FAULTS_EVENTS = 24


def run(seed: int, *, states: int, events: int = _EVENTS, lives: int = 2) -> Result:
    """Record one run and cut the power in it.

    Odd seeds begin with an old journal. In one of four runs the server checkpoints as seldom as by default.
    """
    with tempfile.TemporaryDirectory() as place:
        pages = None if seed % 4 == 3 else PAGES
        begin = partial(
            record,
            Path(place),
            seed=seed,
            events=events,
            from_old=seed % 2 == 1,
            lives=lives,
            checkpoint_pages=pages,
        )
        return cut(trio.run(begin), states=states, seed=seed)


def find(name: str, *, states: int = 300, seed: int = 0) -> str | None:
    """Plant a fault; return the first state that shows it with the broken promise, or None if it was not found."""
    with tempfile.TemporaryDirectory() as place:
        begin = partial(record, Path(place), seed=seed, events=_FAULTS_EVENTS, faults=(name,), checkpoint_pages=PAGES)
        result = cut(trio.run(begin), states=states, seed=seed, until_broken=True)
        return f"state {result.states}, {result.problems[0]}" if result.problems else None


def main(arguments: Sequence[str]) -> int:
    """Record and check the runs, or plant the faults; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.powercut", description=__doc__)
    parser.add_argument("--runs", type=int, default=4, metavar="N", help="number of runs (4)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the seed of the first run (0)")
    parser.add_argument(
        "--states", type=int, default=1000, metavar="N", help="about how many states to open of each run (1000)"
    )
    parser.add_argument(
        "--events", type=int, default=_EVENTS, metavar="N", help=f"events in each phase of a run ({_EVENTS})"
    )
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    reason = why_not()
    if reason is not None:
        print(f"not possible on this machine: {reason}", file=sys.stderr)
        return UNABLE
    # Errors about damaged files are expected; broken promises are printed.
    logs.configure(LogConfig(level="error"), io.StringIO())
    if options.planted:
        found = {name: find(name) for name in PLANTED}
        for name, problem in found.items():
            print(f"{name}: {problem or 'NOT FOUND'}", flush=True)
        return 0 if all(found.values()) else 1
    began, results = time.monotonic(), []
    for seed in range(options.seed, options.seed + options.runs):
        result = run(seed, states=options.states, events=options.events)
        results.append(result)
        print(f"seed {seed}: {_counted([result])}", flush=True)
        for problem in result.problems:
            print(f"  {problem}")
    print(f"{len(results)} runs in {time.monotonic() - began:.0f} s: {_counted(results)}")
    return 1 if any(result.problems for result in results) else 0


def _counted(results: Sequence[Result]) -> str:
    moments = sum(result.moments.total() for result in results)
    return (
        f"{sum(result.states for result in results)} states at {moments} moments, "
        f"{sum(result.opened for result in results)} of them different and opened, "
        f"{sum(result.acknowledged for result in results)} events acknowledged; "
        f"{sum(len(result.problems) for result in results)} promises broken"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

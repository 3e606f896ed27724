"""Run seeds: `python -m tests.simulation --seeds 200`, or one with its trace: `--seed 17 --trace`.

`--jobs 2` uses that many processes. `--log FILE` writes a line of JSON for each seed as it ends and skips the seeds
that are in the file, so that an interrupted run continues where it stopped. The exit status is 1 if a seed broke a
promise. `--planted` runs every planted bug until a seed finds it.
"""

import argparse
import io
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from pathlib import Path

import msgspec

from tests.simulation.driver import Result, play
from tests.simulation.planted import MOST_SEEDS, PLANTED
from webhookd.config import LogConfig
from webhookd.observe import logs


def main(arguments: Sequence[str]) -> int:
    """Play the seeds, or plant the bugs; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=200, metavar="N", help="number of seeds (200)")
    parser.add_argument("--first", type=int, default=0, metavar="S", help="the first seed (0)")
    parser.add_argument("--seed", type=int, metavar="S", help="run only this seed")
    parser.add_argument("--trace", action="store_true", help="print the trace of each seed")
    parser.add_argument("--time", action="store_true", help="set clocks and suspend the machine far more often")
    parser.add_argument("--planted", action="store_true", help="plant each bug in turn and look for it")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="number of processes (1)")
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="write each result to FILE, and skip the seeds that are in it"
    )
    options = parser.parse_args(arguments)
    _silence_logs()
    if options.planted:
        return _find_planted()
    seeds = range(options.first, options.first + options.seeds) if options.seed is None else [options.seed]
    began, results = time.monotonic(), _read_log(options.log, seeds)
    left = [seed for seed in seeds if seed not in results]
    for result in _play_all(left, options.jobs, is_about_time=options.time, keeps_trace=options.trace):
        results[result.seed] = result
        _log(options.log, result)
        if options.trace:
            print("\n".join(result.trace))
        if options.seed is not None or result.violations:
            _show(result)
    bad = sorted(seed for seed, result in results.items() if result.violations)
    print(
        f"{len(results)} seeds in {time.monotonic() - began:.1f} s: "
        f"{sum(result.events for result in results.values())} events acknowledged, "
        f"{sum(result.requests for result in results.values())} requests, "
        f"{sum(result.kills for result in results.values())} crashes; "
        f"{len(bad)} seeds broke a promise{': ' if bad else ''}{', '.join(map(str, bad))}"
    )
    return 1 if bad else 0


def _silence_logs() -> None:
    # Errors of the planned faults are expected; violations are printed.
    logs.configure(LogConfig(level="error"), io.StringIO())


def _play_all(seeds: Sequence[int], jobs: int, *, is_about_time: bool, keeps_trace: bool) -> Iterator[Result]:
    """Yield the result of each seed as it ends; with several jobs in no fixed order."""
    play_one = partial(_play, is_about_time=is_about_time, keeps_trace=keeps_trace)
    if jobs == 1:
        yield from map(play_one, seeds)
        return
    with ProcessPoolExecutor(jobs, initializer=_silence_logs) as pool:
        for future in as_completed([pool.submit(play_one, seed) for seed in seeds]):
            yield future.result()


def _play(seed: int, *, is_about_time: bool, keeps_trace: bool) -> Result:
    result = play(seed, is_about_time=is_about_time)
    return result if keeps_trace else msgspec.structs.replace(result, trace=())


def _read_log(file: Path | None, seeds: Iterable[int]) -> dict[int, Result]:
    """Return the results of these seeds in a log; remove an incomplete last line from the log."""
    if file is None or not file.exists():
        return {}
    lines = file.read_bytes()
    whole = lines[: lines.rfind(b"\n") + 1]
    os.truncate(file, len(whole))
    wanted = set(seeds)
    results = [msgspec.json.decode(line, type=Result) for line in whole.splitlines()]
    return {result.seed: result for result in results if result.seed in wanted}


def _log(file: Path | None, result: Result) -> None:
    if file is not None:
        with file.open("ab") as log:
            log.write(msgspec.json.encode(msgspec.structs.replace(result, trace=())) + b"\n")


def _show(result: Result) -> None:
    print(f"seed {result.seed}: trace {result.hash}, {len(result.violations)} promises broken")
    for violation in result.violations:
        print(f"  {violation}", flush=True)


def find(name: str) -> Result | None:
    """Return the result of the first seed that finds a planted bug, or None if none of `MOST_SEEDS` does."""
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

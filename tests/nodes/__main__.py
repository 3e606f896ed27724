"""Kill, stop and cut off nodes on one PostgreSQL: `python -m tests.nodes --schedules 20 --seed 1`.

Without `--schedules` each scenario is played once: `--list` prints them, and names as arguments choose some. With
`--schedules N`, so many random schedules are played instead. Leases last a fifth of their usual time, so that more fits
into an hour; with `--real-length` they last as long as they do. `--planted` plants each fault in turn and looks for it.
The exit status is 1 if a promise was broken, or a fault was not found, and 3 if PostgreSQL isn't installed.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import trio

from tests.nodes.namespaces import why_not
from tests.nodes.planted import PLANTED
from tests.nodes.play import QUICK, REAL, Body, Report, play
from tests.nodes.scenarios import SCENARIOS
from tests.nodes.schedules import run_schedule
from tests.postgres_server import find_programs

UNABLE = 3
_MOST_TRIES = 3


def run(body: Body, *, scale: float, plant: str | None = None, has_cable: bool = False, seed: int = 0) -> Report:
    """Run a play in a directory of its own."""
    with tempfile.TemporaryDirectory(prefix="webhookd-") as place:
        return trio.run(partial(play, Path(place), body, scale=scale, plant=plant, has_cable=has_cable, seed=seed))


def find(name: str) -> str:
    """Plant a fault; return what its scenario reports of it, or an empty text."""
    fault = PLANTED[name]
    scenario = SCENARIOS[fault.found_by]
    for seed in range(_MOST_TRIES):
        report = run(scenario.body, scale=QUICK, plant=name, has_cable=scenario.needs_cable, seed=seed)
        if problems := [problem for problem in report.problems if fault.says in problem]:
            return problems[0]
    return ""


def main(arguments: Sequence[str]) -> int:
    """Run scenarios, schedules, or scenarios with faults; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.nodes", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="SCENARIO", help="a scenario to play (all)")
    parser.add_argument("--list", action="store_true", help="print the scenarios and exit")
    parser.add_argument("--schedules", type=int, metavar="N", help="play so many random schedules instead")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="random seed of the first one (0)")
    parser.add_argument("--real-length", action="store_true", help="with leases of the usual length")
    parser.add_argument("--plant", choices=PLANTED, metavar="FAULT", help="a fault that every node has")
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - SCENARIOS.keys():
        parser.error(f"unknown scenario: {', '.join(sorted(unknown))}; --list prints them")
    if options.list:
        for name, scenario in SCENARIOS.items():
            print(f"{name:22} {scenario.shows}")
        return 0
    if find_programs(os.environ) is None:
        print("postgresql isn't installed")
        return UNABLE
    if options.planted:
        return _find_all()
    scale = REAL if options.real_length else QUICK
    if options.schedules is not None:
        return _play_schedules(options.seed, options.schedules, scale, options.plant)
    return _play_scenarios(options.names or list(SCENARIOS), options.seed, scale, options.plant)


def _play_scenarios(names: Sequence[str], seed: int, scale: float, plant: str | None) -> int:
    broken = 0
    for name in names:
        scenario = SCENARIOS[name]
        if scenario.needs_cable and (reason := why_not()):
            print(f"{name}: left out, {reason}")
            continue
        usual = scale if scenario.is_of_leases else QUICK
        broken += _tell(
            name, partial(run, scenario.body, scale=usual, plant=plant, has_cable=scenario.needs_cable, seed=seed)
        )
    print(f"{len(names)} scenarios, {broken} broken")
    return 1 if broken else 0


def _play_schedules(first: int, number: int, scale: float, plant: str | None) -> int:
    reason = why_not()
    if reason:
        print(f"no network is cut: {reason}")
    broken = [
        seed
        for seed in range(first, first + number)
        if _tell(f"seed {seed}", partial(run, run_schedule, scale=scale, plant=plant, has_cable=not reason, seed=seed))
    ]
    print(f"{number} schedules, {len(broken)} broken", *broken)
    return 1 if broken else 0


def _tell(name: str, begin: "partial[Report]") -> bool:
    """Run a play and print what it has found; return whether a promise was broken."""
    began = time.monotonic()
    report = begin()
    drawn = f" ({', '.join(report.drawn)})" if report.drawn else ""
    print(
        f"{name}{drawn}: {report.acknowledged} events acknowledged, {report.refused} requests refused, "
        f"{report.requests} deliveries sent, {report.repeated} of them again, {report.late} late; "
        f"{len(report.problems)} promises broken, {time.monotonic() - began:.0f} s",
        *(f"{seconds:.1f} s {what}" for what, seconds in report.seconds.items()),
        *report.problems,
        sep="\n  ",
        flush=True,
    )
    return bool(report.problems)


def _find_all() -> int:
    status = 0
    for name, fault in PLANTED.items():
        if SCENARIOS[fault.found_by].needs_cable and (reason := why_not()):
            print(f"{name}: not looked for, {reason}")
            continue
        found = find(name)
        print(f"{name}: {found or 'NOT FOUND'}", flush=True)
        status = status if found else 1
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run every check that takes long: `python -m tests.full`, which runs nightly.

`python -m tests` is the check of each change and runs a part of each harness. This command lints the async code of
every file, runs all tests with coverage, the slow ones too, and runs each harness for long and then with every planted
fault. It prints one line for each stage; the output of a stage goes to a file of its own in `build/full`. A failed
stage does not stop the others. `--list` prints the stages, and a name as an argument runs only that stage. The exit
status is 1 if a stage failed. A stage that this machine can't run is reported, and is no failure.
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tests.__main__ import PARALLEL, ROOT, async_lint, environment, sources, tool

PLACE = ROOT / "build" / "full"
UNABLE = 3
COVERAGE = ("--cov", "--cov-report=term:skip-covered")


def stages() -> dict[str, Sequence[str]]:
    """Return the command of each stage, by its name."""

    def harness(name: str, *arguments: str) -> Sequence[str]:
        return (sys.executable, "-m", f"tests.{name}", *arguments)

    long = {
        "simulation": ("--first", "200", "--seeds", "1000"),
        "crashpoints": (),
        "killing": ("--cycles", "50"),
        "powercut": ("--runs", "4"),
        "disk": ("--times", "3"),
        "retention": (),
        "overload": (),
        "shutdown": ("--times", "20"),
        "nodes": (),
    }
    return {
        "lint-of-async-code": async_lint(sources()),
        "tests": (tool("pytest"), *PARALLEL, "-m", "", *COVERAGE),
        **{name: harness(name, *arguments) for name, arguments in long.items()},
        "simulation-time": harness("simulation", "--time", "--seeds", "60"),
        "nodes-schedules": harness("nodes", "--schedules", "200"),
        "nodes-real-length": harness("nodes", "--schedules", "20", "--real-length"),
        "fuzz_http": harness("fuzz_http", "--requests", "20000"),
        **{f"{name}-planted": harness(name, "--planted") for name in long},
        "versions": harness("versions"),
    }


def run(name: str, command: Sequence[str], place: Path = PLACE) -> bool:
    """Run a stage and print its line; return whether it failed."""
    place.mkdir(parents=True, exist_ok=True)
    log = place / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        status = subprocess.call(
            command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    outcome = {0: "passed", UNABLE: "not possible on this machine"}.get(
        status, f"FAILED with status {status}, see {log}"
    )
    last = (log.read_text(errors="replace").splitlines() or [""])[-1]
    print(f"{name}: {outcome}, {time.monotonic() - began:.0f} s; {last[:160]}", flush=True)
    return status not in {0, UNABLE}


def main(arguments: Sequence[str]) -> int:
    """Run the chosen stages; return the exit status."""
    table = stages()
    parser = argparse.ArgumentParser(prog="python -m tests.full", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a stage to run (all)")
    parser.add_argument("--list", action="store_true", help="print the stages and their commands, and exit")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - table.keys():
        parser.error(f"unknown stage: {', '.join(sorted(unknown))}")
    if options.list:
        for name, command in table.items():
            print(f"{name}: {' '.join(command)[:160]}")
        return 0
    failed = [name for name in options.names or table if run(name, table[name])]
    print(f"failed: {', '.join(failed)}" if failed else "all passed", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

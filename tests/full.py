"""All that can be checked, for as long as it takes: `python -m tests.full`, which a run every night calls.

The checks and tests of each change are `python -m tests`, which plays a part of each harness. Here the lint of async
code reads every file, all tests run with coverage, the long ones as well, and each harness hunts for long and then for
every fault that is planted. Each stage is a line; what it says goes into a file of its own below `build/full`. A stage
that fails stops nothing. `--list` names the stages, and a name as an argument runs that stage alone. The status is 1
where one failed. What a machine can't do is said, and is no failure.
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
    """Return each stage's command, by its name."""

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
    }
    return {
        "lint-of-async-code": async_lint(sources()),
        "tests": (tool("pytest"), *PARALLEL, "-m", "", *COVERAGE),
        **{name: harness(name, *arguments) for name, arguments in long.items()},
        "simulation-time": harness("simulation", "--time", "--seeds", "60"),
        "fuzz_http": harness("fuzz_http", "--requests", "20000"),
        **{f"{name}-planted": harness(name, "--planted") for name in long},
        "versions": harness("versions"),
    }


def run(name: str, command: Sequence[str], place: Path = PLACE) -> bool:
    """Run a stage, and print its line; return whether it failed."""
    place.mkdir(parents=True, exist_ok=True)
    log = place / f"{name}.log"
    began = time.monotonic()
    with log.open("wb") as output:
        status = subprocess.call(
            command, cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )
    said = {0: "good", UNABLE: "this machine can't"}.get(status, f"FAILED with status {status}, see {log}")
    last = (log.read_text(errors="replace").splitlines() or [""])[-1]
    print(f"{name}: {said}, {time.monotonic() - began:.0f} s; {last[:160]}", flush=True)
    return status not in {0, UNABLE}


def main(arguments: Sequence[str]) -> int:
    """Run the stages that are asked for; return the status."""
    table = stages()
    parser = argparse.ArgumentParser(prog="python -m tests.full", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="stages to run; all of them unless some are named")
    parser.add_argument("--list", action="store_true", help="print the stages and their commands, and end")
    options = parser.parse_args(arguments)
    if unknown := set(options.names) - table.keys():
        parser.error(f"there is no stage {', '.join(sorted(unknown))}")
    if options.list:
        for name, command in table.items():
            print(f"{name}: {' '.join(command)[:160]}")
        return 0
    failed = [name for name in options.names or table if run(name, table[name])]
    print(f"failed: {', '.join(failed)}" if failed else "all good", flush=True)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run cases and print their figures: `python -m tests.bench [NAME …]`.

The exit status does not depend on the figures: it is 1 only if a case broke or lost deliveries, and with `--check` if a
target was missed.
"""

import argparse
import json
import os
import platform
import sys
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from rich.console import Console

from tests.bench.against import Checkout, checkout, compare
from tests.bench.cases import CASES, Case
from tests.bench.load import Load
from tests.bench.report import Result, as_json, as_markdown, show
from tests.bench.server import SkippedCaseError
from webhookd.base.version import VERSION
from webhookd.journal import SQLITE_VERSION

WIDTH = 150
THIS = Checkout(Path(__file__).parents[2], Path(sys.executable))


def main(arguments: Sequence[str], cases: Mapping[str, Case]) -> int:
    """Run the chosen cases; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="a case to run (all)")
    parser.add_argument("--list", action="store_true", help="print the cases and exit")
    parser.add_argument("--quick", action="store_true", help="a tenth of the load, for rough figures")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures to FILE; - prints them")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write a table of all figures to FILE; - prints it"
    )
    parser.add_argument("--check", action="store_true", help="exit with status 1 if a target is missed")
    parser.add_argument(
        "--against", type=Path, metavar="DIRECTORY", help="compare with another checkout, which has its own .venv"
    )
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.names if name not in cases]:
        parser.error(f"unknown case: {', '.join(unknown)}; --list prints the cases")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if options.list:
        for case in cases.values():
            console.print(f"{case.name:12} {case.title}", highlight=False)
        return 0
    if options.against is not None:
        if not options.names or options.check or options.json or options.markdown:
            parser.error("--against needs the names of cases, and goes with --quick alone")
        try:
            other = checkout(options.against)
        except FileNotFoundError as error:
            parser.error(str(error))
        return compare(console, other, THIS, options.names, is_quick=options.quick)
    machine = _machine()
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    load = Load(is_quick=options.quick)
    measured: dict[str, Result] = {}
    skipped: dict[str, str] = {}
    broken: dict[str, str] = {}
    for name in options.names or cases:
        try:
            measured[name] = cases[name].run(load)
        except SkippedCaseError as error:
            skipped[name] = str(error)
            console.print(f"{name} SKIPPED: {error}", soft_wrap=True)
        except Exception as error:  # noqa: BLE001 - the root of a case: the others still run
            traceback.print_exc()
            broken[name] = str(error)
            console.print(f"{name} BROKE: {error}", soft_wrap=True)
        else:
            show(console, f"{name}: {cases[name].title}", measured[name])
    document = {
        "machine": machine,
        "quick": options.quick,
        "skipped": skipped,
        "broken": broken,
        "results": [as_json(name, cases[name].title, result) for name, result in measured.items()],
    }
    _write(options.json, json.dumps(document, indent=1))
    _write(options.markdown, as_markdown(measured))
    missed = [
        f"{name}: {figure.what}"
        for name, result in measured.items()
        for figure in result.figures
        if figure.is_met is False and not result.void
    ]
    if options.check:
        console.print(f"targets missed: {'; '.join(missed) or 'none'}", soft_wrap=True)
    return int(bool(broken) or any(result.lost for result in measured.values()) or (options.check and bool(missed)))


def _machine() -> dict[str, str]:
    cpu = next(
        (line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "webhookd": VERSION,
        "Python": platform.python_version(),
        "SQLite": SQLITE_VERSION,
        "cores": str(os.cpu_count()),
        "CPU": cpu,
    }


def _write(path: Path | None, text: str) -> None:
    if path == Path("-"):
        print(text)
    elif path is not None:
        path.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], CASES))

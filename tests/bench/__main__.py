"""Run cases and print what they measured: `python -m tests.bench [NAME …]`.

The status is 0 whatever the figures are: only a case that broke or lost deliveries makes it 1.
"""

import argparse
import json
import os
import platform
import sys
import traceback
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from tests.bench.cases import CASES, Case
from tests.bench.load import Load
from tests.bench.report import as_json, show
from webhookd.journal import SQLITE_VERSION
from webhookd.version import VERSION

WIDTH = 150


def main() -> int:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="cases to run; all of them unless some are named")
    parser.add_argument("--list", action="store_true", help="print the cases and end")
    parser.add_argument("--quick", action="store_true", help="a small load: does it work, roughly how fast")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too; - prints them")
    options = parser.parse_args()
    if unknown := [name for name in options.names if name not in CASES]:
        parser.error(f"no such case: {', '.join(unknown)}; --list shows them")
    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    if options.list:
        for case in CASES.values():
            console.print(f"{case.name:12} {case.title}", highlight=False)
        return 0
    machine = _machine()
    console.print(", ".join(f"{name} {value}" for name, value in machine.items()), highlight=False)
    cases = [CASES[name] for name in options.names or CASES]
    results, is_broken = run(cases, Load(is_quick=options.quick), console)
    _write(options.json, {"machine": machine, "quick": options.quick, "results": results})
    return int(is_broken)


def run(cases: Iterable[Case], load: Load, console: Console) -> tuple[list[dict[str, Any]], bool]:
    """Run cases and show each; return them for the JSON, and whether one broke or lost deliveries."""
    results, is_broken = [], False
    for case in cases:
        try:
            result = case.run(load)
        except Exception as error:  # noqa: BLE001 - a case's root: the others still run
            traceback.print_exc()
            console.print(f"{case.name} BROKE: {error}", soft_wrap=True)
            results.append({"case": case.name, "title": case.title, "broke": str(error)})
            is_broken = True
            continue
        show(console, f"{case.name}: {case.title}", result)
        results.append(as_json(case.name, case.title, result))
        is_broken = is_broken or result.lost > 0
    return results, is_broken


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


def _write(path: Path | None, document: dict[str, Any]) -> None:
    text = json.dumps(document, indent=1)
    if path == Path("-"):
        print(text)
    elif path is not None:
        path.write_text(text + "\n")


if __name__ == "__main__":
    sys.exit(main())

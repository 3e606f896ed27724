"""Run cases and print their figures: `python -m tests.bench [NAME …]`.

The exit status does not depend on the figures: it is 1 only if a case broke or lost deliveries, and with `--check` if a
target was missed.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from rich.console import Console

from tests.bench.against import Checkout, checkout, compare
from tests.bench.cases import CASES, Case
from tests.bench.load import Load
from tests.bench.run import WIDTH, Runnable, machine, run_all, write

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
    about = machine()
    console.print(", ".join(f"{name} {value}" for name, value in about.items()), highlight=False)
    load = Load(is_quick=options.quick)
    chosen = {name: Runnable(cases[name].title, partial(cases[name].run, load)) for name in options.names or cases}
    outcome = run_all(console, chosen)
    write(
        outcome,
        chosen,
        {"machine": about, "quick": options.quick},
        as_json_to=options.json,
        as_markdown_to=options.markdown,
    )
    missed = [
        f"{name}: {figure.what}"
        for name, result in outcome.measured.items()
        for figure in result.figures
        if figure.is_met is False and not result.void
    ]
    if options.check:
        console.print(f"targets missed: {'; '.join(missed) or 'none'}", soft_wrap=True)
    return int(outcome.has_failed or (options.check and bool(missed)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], CASES))

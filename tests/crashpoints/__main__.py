"""Kill the server at every point, or at one: `python -m tests.crashpoints`, `--point NAME`, `--list`.

Prints a table: each point, whether its expected outcome held, and that outcome. The status is 1 if one is broken.
`--planted` plants each fault in turn and prints what its point found; the status is 1 if one isn't found.
"""

import argparse
import sys
import time
from collections import deque
from collections.abc import Sequence

import trio

from tests.crashpoints.planted import PLANTED
from tests.crashpoints.play import AT_ONCE, play_all
from tests.crashpoints.points import POINTS, Point


def main(arguments: Sequence[str]) -> int:
    """Play the points that the arguments name; return the status."""
    parser = argparse.ArgumentParser(prog="python -m tests.crashpoints", description=__doc__)
    parser.add_argument("--point", action="append", metavar="NAME", help="this point, or all whose name begins so")
    parser.add_argument("--list", action="store_true", help="print the points and what is expected, and kill nothing")
    parser.add_argument("--at-once", type=int, default=AT_ONCE, metavar="N", help=f"servers side by side ({AT_ONCE})")
    parser.add_argument("--plant", choices=PLANTED, metavar="FAULT", help="a fault that every server has")
    parser.add_argument("--planted", action="store_true", help="plant each fault in turn and look for it")
    options = parser.parse_args(arguments)
    if options.planted:
        return _find_planted(options.at_once)
    wanted = tuple(options.point or ("",))
    chosen = [point for point in POINTS if point.name.startswith(wanted)]
    if not chosen:
        parser.error(f"there is no point {', '.join(wanted)}: see --list")
    width = max(len(point.name) for point in chosen)
    if options.list:
        print("\n".join(f"{point.name:<{width}}  {point.expected}" for point in chosen))
        return 0
    began = time.monotonic()

    due, played = deque(chosen), dict[str, str | None]()

    def show(point: Point, broken: str | None) -> None:
        # In the order of the table, whichever ends first.
        played[point.name] = broken
        while due and due[0].name in played:
            first = due.popleft()
            what = played[first.name]
            print(f"{first.name:<{width}}  {'held' if what is None else 'BROKEN':<6}  {first.expected}")
            if what is not None:
                print(f"{'':<{width}}          found: {what}")
            sys.stdout.flush()

    planted = {} if options.plant is None else {point.name: options.plant for point in chosen}
    found = trio.run(lambda: play_all(chosen, planted=planted, at_once=options.at_once, show=show))
    broken = sorted(name for name, outcome in found.items() if outcome is not None)
    print(f"{len(found)} points in {time.monotonic() - began:.1f} s, {len(broken)} broken", *broken)
    return 1 if broken else 0


def _find_planted(at_once: int) -> int:
    points = {point.name: point for point in POINTS}
    chosen = {fault.found_at: name for name, fault in PLANTED.items()}
    found = trio.run(lambda: play_all([points[name] for name in chosen], planted=chosen, at_once=at_once))
    missed = 0
    for point, name in chosen.items():
        is_found = PLANTED[name].says in (found[point] or "")
        missed += not is_found
        print(f"{name}: {f'found at {point}' if is_found else f'NOT FOUND at {point}'}, {found[point] or 'held'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""Run the command line as a node of a test: `python -m tests.nodes.launcher --scale 0.2 --stops FILE serve …`.

`--scale` makes the times of leases so many times as long. Once the file `--stops` is there, the process stops itself
(SIGSTOP) at the stage that the file names, and removes the file. `--namespace` names the network namespace to run in,
`--plant` a fault of `planted.py`. The rest goes to `webhookd`.
"""

import argparse
import signal
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from tests.nodes.namespaces import enter
from tests.nodes.planted import PLANTED
from tests.planted import replace
from webhookd import server
from webhookd.base.stages import AUDIT_EVENT
from webhookd.cli import main
from webhookd.journal import LeaseTimes


def program(*, scale: float, stops: Path, plant: str | None, namespace: str | None) -> tuple[str, ...]:
    """Return the command that runs webhookd so; its own arguments follow."""
    command = [sys.executable, "-m", "tests.nodes.launcher", "--scale", str(scale), "--stops", str(stops)]
    if plant is not None:
        command += ["--plant", plant]
    if namespace is not None:
        command += ["--namespace", namespace]
    return tuple(command)


def _stop_at_stage(stops: Path, event: str, arguments: tuple[Any, ...]) -> None:
    """Take an audit event of the interpreter."""
    if event != AUDIT_EVENT:
        return
    with suppress(FileNotFoundError):
        if stops.read_text() == arguments[0]:
            stops.unlink()
            # To this thread: while another one takes the signal, this one could go on to the end of its transaction.
            signal.pthread_kill(threading.get_ident(), signal.SIGSTOP)


def _launch() -> None:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("--scale", type=float, required=True)
    parser.add_argument("--stops", type=Path, required=True)
    parser.add_argument("--plant", choices=PLANTED)
    parser.add_argument("--namespace")
    options, sys.argv[1:] = parser.parse_known_args()
    if options.namespace is not None:
        enter(options.namespace)
    if options.plant is not None:
        PLANTED[options.plant].plant()
    replace(server, "serve", partial(server.serve, lease_times=LeaseTimes().scaled(options.scale)))
    sys.addaudithook(partial(_stop_at_stage, options.stops))
    main()


if __name__ == "__main__":
    _launch()

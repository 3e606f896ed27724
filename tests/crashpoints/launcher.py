"""Starts the real command line in child processes: one process with everything imported, and a fork of it for each.

`python -m tests.crashpoints.launcher` reads orders from its standard input, one JSON line each, and says on its
standard output which process runs one and with which status it ended. A fork saves the second that importing takes;
what runs in it is `webhookd.cli.main`, with arguments, files and sockets as any process has. When the input ends it
kills what it has started that still runs.
"""

import atexit
import os
import select
import signal
import sys
from importlib import import_module
from pathlib import Path

import msgspec
from msgspec import Struct

from tests.crashpoints.arming import Place, arm, save_no_statistics, tell_when_settled
from tests.crashpoints.planted import PLANTED
from webhookd import cli

_COMMANDS = ("serve", "backup", "restore", "rotate_master_key")
_READ_BYTES = 65_536


class Order(Struct, frozen=True, kw_only=True):
    """A command to run in `directory`, whose files `out` and `log` take what it says, with a point and a fault."""

    number: int
    directory: str
    arguments: list[str]
    place: Place | None
    planted: str | None


class Report(Struct, frozen=True, kw_only=True):
    """What is said of an order: the process that runs it, then its status, negative for a signal."""

    number: int
    pid: int
    status: int | None = None


def main() -> None:
    """Run orders until the input ends."""
    for command in _COMMANDS:
        import_module(f"webhookd.cli.{command}")
    wakeup, waker = os.pipe()
    os.set_blocking(waker, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(waker)
    running: dict[int, int] = {}
    unread = b""
    while True:
        readable, _, _ = select.select([sys.stdin, wakeup], [], [])
        if wakeup in readable:
            os.read(wakeup, _READ_BYTES)
            _reap(running)
        if sys.stdin in readable:
            if not (chunk := os.read(sys.stdin.fileno(), _READ_BYTES)):
                break
            *lines, unread = (unread + chunk).split(b"\n")
            for line in lines:
                order = msgspec.json.decode(line, type=Order)
                if not (pid := os.fork()):
                    os.close(wakeup)
                    os.close(waker)
                    os._exit(_run(order))
                running[pid] = order.number
                _say(Report(number=order.number, pid=pid))
    for pid in running:
        os.kill(pid, signal.SIGKILL)


def _reap(running: dict[int, int]) -> None:
    while running:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if not pid:
            return
        _say(Report(number=running.pop(pid), pid=pid, status=os.waitstatus_to_exitcode(status)))


def _say(report: Report) -> None:
    os.write(sys.stdout.fileno(), msgspec.json.encode(report) + b"\n")


def _run(order: Order) -> int:
    """Be the command; return its exit status."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    directory = Path(order.directory)
    files: tuple[tuple[str | Path, int], ...] = (
        (os.devnull, os.O_RDONLY),
        (directory / "out", os.O_WRONLY),
        (directory / "log", os.O_WRONLY | os.O_APPEND),
    )
    for number, (path, flags) in enumerate(files):
        descriptor = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.argv = ["webhookd", *order.arguments]
    try:
        if order.planted is not None:
            PLANTED[order.planted].plant()
        if order.place is None:
            cli.main()
        else:
            save_no_statistics()
            tell_when_settled(directory)
            armed = arm(order.place, directory)  # for as long as the command runs
            cli.main()
            del armed
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception:  # noqa: BLE001 - the process's root
        sys.excepthook(*sys.exc_info())
        status = 1
    else:
        status = 0
    atexit._run_exitfuncs()  # as at the end of any process: what is still to be written is
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    main()

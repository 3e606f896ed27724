"""What is different where webhookd is one executable file with its interpreter inside (`webhookd build-binary`).

Such a file unpacks itself and runs the program in a child process, which it waits for and passes signals on to. Whoever
starts it knows the process that waits, so that one and the program must end together, and get each signal once.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

from webhookd.errors import CommandError

_PR_SET_PDEATHSIG = 1  # prctl(2)


def is_one_file() -> bool:
    """Return whether the interpreter came out of the program's own file."""
    return hasattr(sys, "_MEIPASS")


def own_command() -> list[str]:
    """Return the words that run this program again, to which its arguments are added."""
    return [sys.executable] if is_one_file() else [sys.executable, "-m", "webhookd"]


def stands_for(pid: int) -> bool:
    """Return whether a process is this program for whoever started it: the process itself, or the one that waits."""
    return pid == os.getpid() or (is_one_file() and pid == os.getppid())


def follow_parent() -> None:
    """End with the process that waits, even if that is killed, and take signals from it alone.

    Without it a kill -9 would leave a server behind that nobody knows, and Ctrl-C would come twice: from the terminal,
    which signals the whole group, and passed on. The second signal cuts the drain. CommandError where that process has
    gone already. Does nothing outside of a single file.
    """
    if not is_one_file():
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise CommandError(f"can't follow the process that unpacked this one: {os.strerror(ctypes.get_errno())}")
    if not _waits_for_us(os.getppid()):
        raise CommandError("the process that unpacked this one is gone")
    os.setpgid(0, 0)


def _waits_for_us(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/exe").samefile(sys.executable)
    except PermissionError:  # somebody else's, so it is who inherits orphans
        return False
    except FileNotFoundError:  # a root without /proc, which can't tell
        return True

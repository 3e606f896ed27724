"""The CPU time and the memory of a server that consists of several processes, from the kernel."""

import os
from collections.abc import Sequence
from pathlib import Path

from tests.bench.server import BrokenCaseError

_TICKS = os.sysconf("SC_CLK_TCK")


class Processes:
    """Some processes and all that descend from them, as PostgreSQL's do from its first one."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = tuple(pids)

    def cpu_seconds(self) -> float:
        """Return the user and system time of all of them.

        Children that have ended count too, if their parent has waited for them: only the difference of two readings
        has a meaning.
        """
        fields = _fields()
        # utime, stime, cutime and cstime of proc_pid_stat(5).
        return sum(int(value) for pid in self._tree(fields) for value in fields[pid][11:15]) / _TICKS

    def memory_mebibytes(self) -> float | None:
        """Return their memory, with shared pages counted once, or None if this user may not see it."""
        kibibytes = 0
        for pid in self._tree(_fields()):
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except PermissionError:
                return None
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            kibibytes += int(text.split("\nPss:")[1].split()[0])
        return kibibytes / 1024

    def describe(self) -> str:
        """Return the numbers and names of the given processes, and how many descend from them."""
        below = self._tree(_fields()) - set(self._pids)
        names = ", ".join(f"{pid} {Path(f'/proc/{pid}/comm').read_text().strip()}" for pid in self._pids)
        return f"{names}, and {len(below)} processes below them"

    def _tree(self, fields: dict[int, list[str]]) -> set[int]:
        """Return the numbers of all; BrokenCaseError if a given one has ended."""
        for pid in self._pids:
            if pid not in fields:
                raise BrokenCaseError(f"there is no process {pid}")
        children: dict[int, list[int]] = {}
        for pid, values in fields.items():
            children.setdefault(int(values[1]), []).append(pid)
        found: set[int] = set()
        waiting = list(self._pids)
        while waiting:
            pid = waiting.pop()
            found.add(pid)
            waiting += children.get(pid, [])
        return found


def _fields() -> dict[int, list[str]]:
    """Return the fields of each process of the machine from its state on."""
    found: dict[int, list[str]] = {}
    for place in Path("/proc").iterdir():
        if place.name.isdigit():
            try:
                text = (place / "stat").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue  # it has ended
            # The name of the program, in parentheses, may contain spaces.
            found[int(place.name)] = text.rpartition(")")[2].split()
    return found

"""Runs a command under the kernel filters that a systemd unit asks for: `python -m tests.cli.confined UNIT COMMAND…`.

systemd itself can't be asked where it doesn't run the machine, so its rules are built again with libseccomp, from the
unit's own lines and the sets that systemd-analyze tells: SystemCallFilter, RestrictAddressFamilies, RestrictNamespaces,
MemoryDenyWriteExecute, NoNewPrivileges and an empty CapabilityBoundingSet. What mounts would do is not in it.
"""

import ctypes
import errno
import os
import socket
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

_ALLOW = 0x7FFF0000
_FAIL = 0x00050000
_EQUAL, _MASKED_EQUAL = 4, 7
_WRITE, _EXECUTE = 2, 4
_SHM_EXEC = 0o100000
_NAMESPACES = 0x7E020080  # the CLONE_NEW… flags
_SET_NO_NEW_PRIVS, _DROP_FROM_BOUNDING_SET = 38, 24


class _Condition(ctypes.Structure):
    _fields_ = (
        ("argument", ctypes.c_uint),
        ("operator", ctypes.c_int),
        ("first", ctypes.c_uint64),
        ("second", ctypes.c_uint64),
    )


def settings(unit: str) -> dict[str, list[str]]:
    """Return the unit's settings, each with all its values in order."""
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@lru_cache
def members(group: str) -> frozenset[str]:
    """Return the system calls of one of systemd's sets, such as `@io-event`."""
    command = ["systemd-analyze", "--no-pager", "syscall-filter", group]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    names = [line.strip() for line in shown.splitlines()[1:]]
    calls = {name for name in names if name and name[0] not in "@#"}
    return frozenset(calls).union(*(members(name) for name in names if name.startswith("@")))


def permitted(lines: list[str]) -> frozenset[str]:
    """Return the system calls that SystemCallFilter lines leave; some are always there."""
    calls = members("@default")
    for line in lines:
        for name in line.removeprefix("~").split():
            named = members(name) if name.startswith("@") else frozenset({name})
            calls = calls - named if line.startswith("~") else calls | named
    return calls


def confine(unit: str) -> None:
    """Put this process, and all that it will execute, under the unit's filters."""
    asked = settings(unit)
    families = [getattr(socket, name) for name in asked["RestrictAddressFamilies"][0].split()]
    rules: dict[str, list[tuple[int, int, int, int]]] = {"socket": [(0, _EQUAL, family, 0) for family in families]}
    if asked["MemoryDenyWriteExecute"] == ["yes"]:
        both = _WRITE | _EXECUTE
        rules["mmap"] = [(2, _MASKED_EQUAL, both, protection) for protection in (0, _WRITE, _EXECUTE)]
        rules["mprotect"] = rules["pkey_mprotect"] = [(2, _MASKED_EQUAL, _EXECUTE, 0)]
        rules["shmat"] = [(2, _MASKED_EQUAL, _SHM_EXEC, 0)]
    if asked["RestrictNamespaces"] == ["yes"]:
        rules["clone"] = [(0, _MASKED_EQUAL, _NAMESPACES, 0)]
        rules["unshare"] = rules["setns"] = []
    c = ctypes.CDLL(None, use_errno=True)
    for capability in range(64):
        c.prctl(_DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)
    c.prctl(_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    _load(permitted(asked["SystemCallFilter"]), rules)


def _load(calls: frozenset[str], rules: dict[str, list[tuple[int, int, int, int]]]) -> None:
    library = ctypes.CDLL("libseccomp.so.2")
    library.seccomp_init.restype = ctypes.c_void_p
    library.seccomp_init.argtypes = [ctypes.c_uint32]
    library.seccomp_load.argtypes = [ctypes.c_void_p]
    add = library.seccomp_rule_add_array
    add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint, ctypes.POINTER(_Condition)]
    context = library.seccomp_init(_FAIL | errno.EPERM)
    for name in calls:
        number = library.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            continue  # of another architecture
        if name == "clone3":
            # Its flags are out of a filter's sight, so systemd has it fall back to clone.
            add(context, _FAIL | errno.ENOSYS, number, 0, None)
        elif name in rules:
            for condition in rules[name]:
                add(context, _ALLOW, number, 1, ctypes.byref(_Condition(*condition)))
        else:
            add(context, _ALLOW, number, 0, None)
    if library.seccomp_load(context) != 0:
        raise OSError("the kernel takes no filter")


if __name__ == "__main__":
    confine(Path(sys.argv[1]).read_text())
    os.execvp(sys.argv[2], sys.argv[2:])  # noqa: S606 - the command under test

"""systemd's journal as the reader of a stream: detecting it, and the priority of a line (sd-daemon(3))."""

import os
from collections.abc import Mapping
from types import MappingProxyType

ERROR = "error"
_PRIORITIES = MappingProxyType({"debug": "<7>", "info": "<6>", "warning": "<4>", ERROR: "<3>"})


def reads(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd's journal reads a descriptor: whether it is the one in JOURNAL_STREAM (systemd.exec(5)).

    The variable alone is not enough: a process inherits it even if its streams were redirected.
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def priority(level: str) -> str:
    """Return the prefix of a line of that level."""
    return _PRIORITIES[level]

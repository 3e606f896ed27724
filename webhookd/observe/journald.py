"""systemd's journal as the reader of a stream: whether it is, and how a line says how grave it is (sd-daemon(3))."""

import os
from collections.abc import Mapping
from types import MappingProxyType

ERROR = "error"
_PRIORITIES = MappingProxyType({"debug": "<7>", "info": "<6>", "warning": "<4>", ERROR: "<3>"})


def reads(descriptor: int, environ: Mapping[str, str] = os.environ) -> bool:
    """Whether systemd's journal reads what is written there: JOURNAL_STREAM names it (systemd.exec(5)).

    The variable alone says little: it is inherited by a process whose streams were sent elsewhere.
    """
    device, _, inode = environ.get("JOURNAL_STREAM", "").partition(":")
    try:
        found = os.fstat(descriptor)
    except OSError:
        return False
    return (device, inode) == (str(found.st_dev), str(found.st_ino))


def priority(level: str) -> str:
    """Return what a line of that level begins with."""
    return _PRIORITIES[level]

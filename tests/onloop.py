"""Run `webhookd serve` and record the blocking calls in its event loop: `python -m tests.onloop FILE serve …`.

After the ready line, each call in the loop's thread that may block is counted. When the process ends, FILE gets a JSON
object from "call place" to the count. The calls are the interpreter's audit events of files, name lookups, processes
and sleeping, and the functions of `os` that raise no audit event. The place is the function of webhookd that called,
or the library function if none of webhookd's is on the stack.
"""

import json
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from webhookd import server
from webhookd.cli import main, serve

_EVENTS = (
    "open", "os.", "shutil.", "tempfile.", "glob.", "pathlib.", "subprocess.", "socket.getaddrinfo", "socket.gethost",
    "socket.getnameinfo", "sqlite3.", "time.sleep", "fcntl.", "mmap.", "urllib.", "ftplib.", "smtplib.", "http.",
)  # fmt: skip
"""Prefixes of the audit events of calls that may wait for a disk, a name lookup, a process or a clock."""
_WITHOUT_EVENT = (
    "stat", "lstat", "statvfs", "access", "readlink", "fsync", "fdatasync", "sync", "sendfile", "copy_file_range",
    "waitpid",
)  # fmt: skip


class Listener:
    """Counts calls in the loop's thread by function and place."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.is_armed = False
        self._thread = threading.get_ident()
        self._is_inside = False

    def hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        """Count an audit event of the interpreter, if it is one of a blocking call."""
        if event.startswith(_EVENTS):
            self.note(event, sys._getframe(1))

    def listen(self) -> None:
        """Install the hooks; calls count once `is_armed` is set."""
        for name in _WITHOUT_EVENT:
            self._wrap(os, name)
        sys.addaudithook(self.hear)

    def note(self, call: str, frame: FrameType | None) -> None:
        """Count a call, if the loop's thread makes it."""
        if not self.is_armed or self._is_inside or threading.get_ident() != self._thread:
            return
        self._is_inside = True
        try:
            self.calls[f"{call} {_place(frame)}"] += 1
        finally:
            self._is_inside = False

    def _wrap(self, module: Any, name: str) -> None:
        function: Callable[..., Any] = getattr(module, name)

        def heard(*args: Any, **kwargs: Any) -> Any:
            self.note(f"{module.__name__}.{name}", sys._getframe(1))
            return function(*args, **kwargs)

        setattr(module, name, heard)


def _place(frame: FrameType | None) -> str:
    first = ""
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        place = f"{module}.{frame.f_code.co_qualname}"
        if module.startswith("webhookd."):
            return place
        if not first and not module.startswith(("pathlib", "genericpath", "posixpath", "os", "socket", "tests.")):
            first = place
        frame = frame.f_back
    return first


def _run() -> None:
    report, sys.argv[1:] = Path(sys.argv[1]), sys.argv[2:]
    listener = Listener()
    announce = serve._announce

    def announce_and_arm(ready: server.Ready) -> None:
        announce(ready)
        listener.is_armed = True

    serve._announce = announce_and_arm
    listener.listen()
    try:
        main()
    finally:
        listener.is_armed = False
        report.write_text(json.dumps(listener.calls))


if __name__ == "__main__":
    _run()

"""Standard output and standard error of the server, written by threads, since a reader may stop reading.

A `BufferedOutput` is one stream: a bounded buffer, and a thread that writes to the descriptor and may block. `write`
never waits and never raises, on the event loop or in any thread. Lines keep their order. When the buffer is full,
lines are dropped until half of it is written; a line in their place says how many. At its end the process waits up to
`FLUSH_SECONDS` for the buffer to be written; if it is killed, the buffer is lost.

A child of `os.fork` has no such thread; the server creates no such child. A program that it executes inherits the
descriptors unchanged.
"""

import atexit
import io
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TextIO

from webhookd.observe import journald

BOUND_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 32 * 1024
LINGER_SECONDS = 0.05
FLUSH_SECONDS = 1.0


@dataclass(slots=True)
class _Gap:
    """Marks the place in the buffer where lines were dropped."""

    lines: int


_Part = bytes | _Gap | threading.Event
"""An entry of the buffer: a line, a gap, or an event to set once everything before it is written."""


class BufferedOutput:
    """A stream that accepts whole lines at any time and writes them as fast as they are read.

    The thread calls `report_dropped` for the line that replaces that many dropped ones. It lets lines gather for
    `linger_seconds` before it writes, so that it seldom competes with the event loop under load.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        report_dropped: Callable[[int], bytes] = lambda _lines: b"",
        linger_seconds: float = 0.0,
        bound_bytes: int = BOUND_BYTES,
    ) -> None:
        self.descriptor = descriptor
        self.dropped = 0
        self._report_dropped = report_dropped
        self._linger_seconds = linger_seconds
        self._bound_bytes = bound_bytes
        # Reentrant: a destructor may warn, and so write, during a write. It is held only while a few dozen lines are
        # moved.
        self._lock = threading.RLock()
        self._parts: deque[_Part] = deque()
        self._held_bytes = 0  # including what is being written
        self._is_full = False
        self._wake_up: SimpleQueue[None] = SimpleQueue()
        self._is_woken = False
        self._flushing = threading.Event()
        self._texts: list[_Lines] = []
        # Used by the thread only.
        self._unreported = 0
        self._ended_in_line = False
        threading.Thread(target=self._run, name=f"output {descriptor}", daemon=True).start()

    @property
    def is_terminal(self) -> bool:
        """Whether the descriptor is a terminal."""
        return os.isatty(self.descriptor)

    def write(self, line: bytes) -> None:
        """Queue a line, which ends with a line break; if there is no room it is dropped and counted."""
        with self._lock:
            if self._is_full or self._held_bytes + len(line) > self._bound_bytes:
                self._is_full = self._held_bytes > self._bound_bytes // 2
                self._drop_one()
            else:
                self._parts.append(line)
                self._held_bytes += len(line)
            self._wake()

    def flush(self, seconds: float) -> bool:
        """Wait until everything queued is written, for at most `seconds`; return whether it is."""
        for lines in self._texts:
            lines.end_line()
        written = threading.Event()
        self._flushing.set()  # it stays set: the process is about to end
        with self._lock:
            self._parts.append(written)
            self._wake()
        return written.wait(seconds)

    def as_text(self, prefix: bytes = b"") -> TextIO:
        """Return a text stream on this output, for `sys.stdout` or `sys.stderr`; each line gets `prefix`."""
        self._texts.append(lines := _Lines(self, prefix))
        return io.TextIOWrapper(lines, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True)

    def _wake(self) -> None:
        if not self._is_woken:
            self._is_woken = True
            self._wake_up.put(None)

    def _drop_one(self) -> None:
        self.dropped += 1
        if self._parts and isinstance(gap := self._parts[-1], _Gap):
            gap.lines += 1
        else:
            self._parts.append(_Gap(1))

    def _run(self) -> None:
        while True:
            self._wake_up.get()
            if self._linger_seconds:
                self._flushing.wait(self._linger_seconds)
            self._is_woken = False
            while parts := self._take():
                self._write_out(parts)

    def _take(self) -> list[_Part]:
        """Remove the entries for the next write from the buffer, and return them."""
        taken: list[_Part] = []
        size = 0
        with self._lock:
            while self._parts and size < CHUNK_BYTES:
                part = self._parts.popleft()
                size += len(part) if isinstance(part, bytes) else 1
                taken.append(part)
        return taken

    def _write_out(self, parts: list[_Part]) -> None:
        """Write a chunk; lines that can't be written are dropped, and reported before the next line that can."""
        if self._unreported:
            parts.insert(0, _Gap(self._unreported))
            self._unreported = 0
        texts = [self._text(part) for part in parts]
        if self._ended_in_line:
            texts[0] = b"\n" + texts[0]
        written = self._write_all(b"".join(texts))
        lost = end = 0
        self._ended_in_line = False
        for part, text in zip(parts, texts, strict=True):
            begin, end = end, end + len(text)
            if end > written:
                lost += isinstance(part, bytes)
                self._unreported += part.lines if isinstance(part, _Gap) else isinstance(part, bytes)
                self._ended_in_line = self._ended_in_line or begin < written
        with self._lock:
            self.dropped += lost
            self._held_bytes -= sum(len(part) for part in parts if isinstance(part, bytes))
            if self._held_bytes <= self._bound_bytes // 2:
                self._is_full = False
        for part in parts:
            if isinstance(part, threading.Event):
                part.set()

    def _text(self, part: _Part) -> bytes:
        if isinstance(part, _Gap):
            return self._report_dropped(part.lines)
        return part if isinstance(part, bytes) else b""

    def _write_all(self, data: bytes) -> int:
        """Write until the descriptor fails; return the number of bytes written."""
        view, written = memoryview(data), 0
        while written < len(data):
            try:
                written += os.write(self.descriptor, view[written:])
            except BlockingIOError:
                # Another process that shares the descriptor has made it non-blocking.
                poll = select.poll()
                poll.register(self.descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                # The reader is gone, or the disk is full: the error can't be reported now.
                break
        return written


class _Lines(io.BufferedIOBase):
    """The binary layer of a text stream: passes whole lines to an output, each with a prefix."""

    def __init__(self, output: BufferedOutput, prefix: bytes) -> None:
        self._output = output
        self._prefix = prefix
        self._partial = b""

    @property
    def name(self) -> str:
        """The stream's name, which `repr` shows."""
        return f"output {self._output.descriptor}"

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether the output is a terminal."""
        return self._output.is_terminal

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # a text stream gives no other buffer
        """Accept all bytes, pass the lines that they complete to the output, and return their number."""
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > CHUNK_BYTES:
            self.end_line()
        if lines:
            self._output.write(b"".join(self._prefix + line + b"\n" for line in lines))
        return len(data)

    def end_line(self) -> None:
        """Pass the incomplete line to the output."""
        partial, self._partial = self._partial, b""
        if partial:
            self._output.write(self._prefix + partial + b"\n")


class StandardStreams:
    """Replaces standard output and standard error of the process with buffered outputs, until it ends.

    Everything that Python writes to them is buffered: `print`, warnings, tracebacks, the error message of a command.
    All calls of `flush`, also the one at exit, share one time limit, so that a stopped terminal doesn't block the exit.
    """

    def __init__(self, report_dropped: Callable[[int], bytes]) -> None:
        self.out = BufferedOutput(_descriptor(sys.stdout))
        self.error = BufferedOutput(
            _descriptor(sys.stderr), report_dropped=report_dropped, linger_seconds=LINGER_SECONDS
        )
        self._flush_by: float | None = None
        # What is not written by the log is a traceback, or the reason why the process ends.
        mark = journald.priority(journald.ERROR) if journald.reads(self.error.descriptor) else ""
        sys.stdout, sys.stderr = self.out.as_text(), self.error.as_text(mark.encode())
        atexit.register(self.flush)

    def flush(self) -> None:
        """Wait until everything is written, within the time limit of all calls."""
        if self._flush_by is None:
            self._flush_by = time.monotonic() + FLUSH_SECONDS
        for output in (self.out, self.error):
            output.flush(max(self._flush_by - time.monotonic(), 0.0))


def _descriptor(stream: TextIO | None) -> int:
    """Return the descriptor of a standard stream, or of /dev/null if the process was started without it.

    Its usual number may belong to another file by now, such as the journal.
    """
    return os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno()

"""Standard output and standard error of the server, written by threads: whoever reads them may stop reading.

A `BufferedOutput` is one stream: a bounded buffer, and a thread that alone writes to the descriptor and may wait.
`write` never waits and never raises, on the event loop or in any thread. Lines keep their order. Once the buffer is
full, lines are dropped until half of it is written; a line in their place says how many. What the process still holds
when it ends gets `FLUSH_SECONDS`; what it holds when it is killed is lost.

A child made by `os.fork` has no such thread; the server makes none. One that is executed gets the descriptors as they
are.
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
from queue import SimpleQueue
from typing import TextIO

from webhookd.observe import journald

BOUND_BYTES = 4 * 1024 * 1024
CHUNK_BYTES = 32 * 1024
LINGER_SECONDS = 0.05
FLUSH_SECONDS = 1.0


class _Gap:
    """Stands in the buffer where lines were dropped."""

    __slots__ = ("lines",)

    def __init__(self, lines: int) -> None:
        self.lines = lines


_Part = bytes | _Gap | threading.Event
"""What the buffer holds: a line, a gap, or what is set once all before it is written."""


class BufferedOutput:
    """A stream that takes finished lines at any time and writes them as fast as they are read.

    `tell_dropped` makes the line that stands for so many dropped ones; the thread calls it. With `linger_seconds` the
    thread lets lines gather for so long before it writes, so that it seldom competes with the loop under load.
    """

    def __init__(
        self,
        descriptor: int,
        *,
        tell_dropped: Callable[[int], bytes] = lambda _lines: b"",
        linger_seconds: float = 0.0,
        bound_bytes: int = BOUND_BYTES,
    ) -> None:
        self.descriptor = descriptor
        self.dropped = 0
        self._tell_dropped = tell_dropped
        self._linger_seconds = linger_seconds
        self._bound_bytes = bound_bytes
        # Reentrant: a destructor may warn, and so write, in the middle of a write. It is never held for longer than
        # it takes to move a few dozen lines.
        self._lock = threading.RLock()
        self._parts: deque[_Part] = deque()
        self._held_bytes = 0  # what is being written included
        self._is_full = False
        self._bell: SimpleQueue[None] = SimpleQueue()
        self._has_rung = False
        self._in_a_hurry = threading.Event()
        self._texts: list[_Lines] = []
        # Of the thread alone.
        self._untold = 0
        self._is_torn = False
        threading.Thread(target=self._run, name=f"output {descriptor}", daemon=True).start()

    @property
    def is_terminal(self) -> bool:
        """Whether a person watches."""
        return os.isatty(self.descriptor)

    def write(self, line: bytes) -> None:
        """Have a line written, which ends with a line break; it is dropped and counted where there is no room."""
        with self._lock:
            if self._is_full or self._held_bytes + len(line) > self._bound_bytes:
                self._is_full = self._held_bytes > self._bound_bytes // 2
                self._drop_one()
            else:
                self._parts.append(line)
                self._held_bytes += len(line)
            self._ring()

    def flush(self, seconds: float) -> bool:
        """Wait until all that was taken is written, for so long at most; return whether it is."""
        for lines in self._texts:
            lines.end_line()
        written = threading.Event()
        self._in_a_hurry.set()  # and for good: the process is about to end
        with self._lock:
            self._parts.append(written)
            self._ring()
        return written.wait(seconds)

    def as_text(self, prefix: bytes = b"") -> TextIO:
        """Return a text stream over this one, for `sys.stdout` or `sys.stderr`; each line gets `prefix`."""
        self._texts.append(lines := _Lines(self, prefix))
        return io.TextIOWrapper(lines, encoding="utf-8", errors="backslashreplace", newline="\n", write_through=True)

    def _ring(self) -> None:
        if not self._has_rung:
            self._has_rung = True
            self._bell.put(None)

    def _drop_one(self) -> None:
        self.dropped += 1
        if self._parts and isinstance(gap := self._parts[-1], _Gap):
            gap.lines += 1
        else:
            self._parts.append(_Gap(1))

    def _run(self) -> None:
        while True:
            self._bell.get()
            if self._linger_seconds:
                self._in_a_hurry.wait(self._linger_seconds)
            self._has_rung = False
            while parts := self._take():
                self._write_out(parts)

    def _take(self) -> list[_Part]:
        """Take what goes into the next write."""
        taken: list[_Part] = []
        size = 0
        with self._lock:
            while self._parts and size < CHUNK_BYTES:
                part = self._parts.popleft()
                size += len(part) if isinstance(part, bytes) else 1
                taken.append(part)
        return taken

    def _write_out(self, parts: list[_Part]) -> None:
        """Write a chunk; what the descriptor refuses is dropped, and told of before the next line that it takes."""
        if self._untold:
            parts.insert(0, _Gap(self._untold))
            self._untold = 0
        texts = [self._text(part) for part in parts]
        if self._is_torn:
            texts[0] = b"\n" + texts[0]
        written = self._write_all(b"".join(texts))
        lost = end = 0
        self._is_torn = False
        for part, text in zip(parts, texts, strict=True):
            begin, end = end, end + len(text)
            if end > written:
                lost += isinstance(part, bytes)
                self._untold += part.lines if isinstance(part, _Gap) else isinstance(part, bytes)
                self._is_torn = self._is_torn or begin < written
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
            return self._tell_dropped(part.lines)
        return part if isinstance(part, bytes) else b""

    def _write_all(self, data: bytes) -> int:
        """Write as much as the descriptor takes before it fails; return how much that is."""
        view, written = memoryview(data), 0
        while written < len(data):
            try:
                written += os.write(self.descriptor, view[written:])
            except BlockingIOError:
                # Another process that shares it has made it non-blocking.
                poll = select.poll()
                poll.register(self.descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                # The reader is gone, or the disk is full. There is nobody to tell now.
                break
        return written


class _Lines(io.BufferedIOBase):
    """What a text stream writes its bytes to: passes whole lines on to an output, each behind a prefix."""

    def __init__(self, output: BufferedOutput, prefix: bytes) -> None:
        self._output = output
        self._prefix = prefix
        self._begun = b""

    @property
    def name(self) -> str:
        """What the stream is called in a representation."""
        return f"output {self._output.descriptor}"

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether a person watches."""
        return self._output.is_terminal

    def write(self, data: bytes, /) -> int:  # type: ignore[override]  # a text stream gives no other buffer
        """Take bytes and pass on the lines that they end; return how many were taken, which is all."""
        *lines, self._begun = (self._begun + data).split(b"\n")
        if len(self._begun) > CHUNK_BYTES:
            self.end_line()
        if lines:
            self._output.write(b"".join(self._prefix + line + b"\n" for line in lines))
        return len(data)

    def end_line(self) -> None:
        """Pass on what has no line break yet."""
        begun, self._begun = self._begun, b""
        if begun:
            self._output.write(self._prefix + begun + b"\n")


class StandardStreams:
    """Standard output and error of the process behind outputs, from here to its end.

    All that Python writes to them goes the same way: `print`, warnings, tracebacks, the one line of a command that
    failed. `flush` has one budget over all its calls, the one at the end of the process included, so that a terminal
    that was stopped doesn't hold the exit.
    """

    def __init__(self, tell_dropped: Callable[[int], bytes]) -> None:
        self.out = BufferedOutput(_descriptor(sys.stdout))
        self.error = BufferedOutput(_descriptor(sys.stderr), tell_dropped=tell_dropped, linger_seconds=LINGER_SECONDS)
        self._flush_by: float | None = None
        # What comes past the log is a traceback or why the process ends.
        mark = journald.priority(journald.ERROR) if journald.reads(self.error.descriptor) else ""
        sys.stdout, sys.stderr = self.out.as_text(), self.error.as_text(mark.encode())
        atexit.register(self.flush)

    def flush(self) -> None:
        """Wait until all is written, as long as the budget lasts."""
        if self._flush_by is None:
            self._flush_by = time.monotonic() + FLUSH_SECONDS
        for output in (self.out, self.error):
            output.flush(max(self._flush_by - time.monotonic(), 0.0))


def _descriptor(stream: TextIO | None) -> int:
    """Return what a standard stream writes to; where the process was started without it, nowhere.

    Its number may by now be that of another file, such as the journal.
    """
    return os.open(os.devnull, os.O_WRONLY) if stream is None else stream.fileno()

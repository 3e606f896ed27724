"""Splits a byte stream into lines, independent of how the stream is divided into chunks. Pure.

It holds at most one line of the maximum length. A longer line is discarded up to its newline.
"""

from enum import Enum


class Oversized(Enum):
    """Takes the place of a line over the limit, whose bytes were discarded."""

    LINE = "line"


Line = bytes | Oversized
_BLANK = b" \t\r"


class LineSplitter:
    """Splits chunks into lines without their newline, and skips empty lines."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._partial = bytearray()
        self._is_oversized = False

    def feed(self, chunk: bytes) -> list[Line]:
        """Return the lines that `chunk` completes."""
        first, *rest = chunk.split(b"\n")
        self._keep(first)
        if not rest:
            return []
        lines: list[Line] = []
        started = self._take_partial()
        if started is not None:
            lines.append(started)
        *whole, last = rest
        for line in filter(None, whole):  # empty lines must cost next to nothing
            if len(line) > self._max_bytes:
                lines.append(Oversized.LINE)
            elif line.strip(_BLANK):
                lines.append(line)
        self._keep(last)
        return lines

    def finish(self) -> Line | None:
        """Return what followed the last newline at the end of the stream, or None if there is nothing."""
        return self._take_partial()

    def _keep(self, part: bytes) -> None:
        if self._is_oversized or not part:
            return
        if len(self._partial) + len(part) > self._max_bytes:
            self._is_oversized = True
            self._partial.clear()
        else:
            self._partial += part

    def _take_partial(self) -> Line | None:
        line: Line = Oversized.LINE if self._is_oversized else bytes(self._partial)
        self._is_oversized = False
        self._partial.clear()
        if isinstance(line, bytes) and not line.strip(_BLANK):
            return None
        return line

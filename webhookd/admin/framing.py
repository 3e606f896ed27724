"""The framing of requests, checked before they are parsed, as a protection against request smuggling.

h11 accepts what RFC 9112 allows a lenient recipient: a bare LF as the end of a line, a folded header, Content-Length
twice. A proxy in front of this server may read the same bytes differently, so that a part of one request becomes the
start of another. So the bytes of every request pass through `Framing`. It follows head, body, chunks and trailers by
itself, passes on unambiguous input, and stops at the first byte that is not (RFC 9112 sections 2.2, 5.1, 5.2, 6.1, 6.3
and 7.1). It also limits the size of the head.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import h11

HEAD_BYTES = 16 * 1024
REQUEST_LINE_BYTES = 8 * 1024
MOST_HEADERS = 100

_MOST_CHUNK_LINE_BYTES = 256
_MOST_EXTENSION_BYTES = 4096  # of one body: no other limit counts extensions
_MOST_TRAILER_BYTES = 4096
_TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_CRLF = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_WHITE_SPACE = b" \t"

# Half of a line's end, a control character, or a line that continues the previous one.
_NOT_PLAIN = re.compile(
    rb"(?P<line>(?<!\r)\n|\r(?!\n))|(?P<control>[\x00-\x08\x0b\x0c\x0e-\x1f\x7f])|(?P<fold>\n[ \t])"
)
_DIGITS = re.compile(rb"[0-9]{1,15}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,12})(;[\t\x20-\x7e\x80-\xff]*)?")

# h11 refuses this in every state: as a request, a chunk and a trailer.
_POISON = b"\x00\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Fault:
    """Why a request is refused."""

    status: HTTPStatus
    detail: str


class _Refused(Exception):  # noqa: N818 - it carries a Fault out of a step
    def __init__(self, detail: str, status: HTTPStatus = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(detail)
        self.fault = Fault(status, detail)


class Framing:
    """Follows the bytes of one connection from request to request; `fault` is set once a request is refused.

    It joins chunks: a body with a chunk for each byte costs the parser and the application no more than a whole one.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self._held = bytearray()
        self._passed = bytearray()
        self._gathered = bytearray()  # data of chunks that isn't passed on yet
        self._looked_at = 0  # the length of the checked part of an unfinished head or trailers
        self._has_line = False  # whether that part has the whole request line
        self._step: Callable[[], bool] = self._head
        self._body_left = 0
        self._extension_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Return the input that may be parsed now, without what is held back or follows a fault."""
        if self.fault is not None:
            return b""
        self._held += data
        try:
            while self._held and self._step():
                pass
        except _Refused as refused:
            self.fault = refused.fault
            self._held.clear()
        self._pass_gathered()
        passed = bytes(self._passed)
        self._passed.clear()
        return passed

    def end(self) -> None:
        """Note the end of the input: half a head or half a chunk's line is a fault."""
        if self._held and self.fault is None:
            self.fault = Fault(HTTPStatus.BAD_REQUEST, "the request ends in the middle")

    # Each step takes what it can of the held input, and returns whether the next step may run.

    def _take(self, size: int) -> bytes:
        taken = bytes(self._held[:size])
        del self._held[:size]
        return taken

    def _pass_gathered(self) -> None:
        if self._gathered:
            self._passed += b"%x\r\n%b\r\n" % (len(self._gathered), bytes(self._gathered))
            self._gathered.clear()

    def _head(self) -> bool:
        held = self._held
        end = held.find(_END_OF_HEAD, max(0, self._looked_at - 3))
        # An unfinished head is checked too, so that a fault is answered at once and not at the deadline.
        size = end + len(_END_OF_HEAD) if end >= 0 else len(held)
        if not self._has_line:
            line = held.find(_CRLF, max(0, self._looked_at - 1), size)
            self._has_line = line >= 0
            if (line if line >= 0 else size) > REQUEST_LINE_BYTES:
                raise _Refused(f"the request line is over {REQUEST_LINE_BYTES} bytes", HTTPStatus.REQUEST_URI_TOO_LONG)
        if size > HEAD_BYTES:
            raise _Refused(f"the head of the request is over {HEAD_BYTES} bytes", _TOO_LARGE)
        _check_plain(held, max(0, self._looked_at - 1), size, is_whole=end >= 0)
        self._looked_at = size
        if end < 0:
            return False
        self._looked_at, self._has_line = 0, False
        head = self._take(size)
        if head.startswith(_CRLF):
            raise _Refused("a request starts with its request line")
        if head.count(_CRLF) - 2 > MOST_HEADERS:
            raise _Refused(f"the request has over {MOST_HEADERS} headers", _TOO_LARGE)
        self._begin_body(*head.split(_CRLF))
        self._passed += head
        return True

    def _begin_body(self, request_line: bytes, *header_lines: bytes) -> None:
        # Split at fixed bytes, not by a regular expression: one that matches a value between two runs of spaces may
        # take quadratic time.
        lengths: list[bytes] = []
        codings: list[bytes] = []
        for line in header_lines:
            name, _, value = line.partition(b":")
            match name.lower():
                case b"content-length":
                    lengths.append(value.strip(_WHITE_SPACE))
                case b"transfer-encoding":
                    codings.append(value.strip(_WHITE_SPACE))
        if lengths and codings:
            raise _Refused("send Transfer-Encoding or Content-Length, not both (RFC 9112 6.1)")
        if len(lengths) > 1 or len(codings) > 1:
            raise _Refused("Content-Length or Transfer-Encoding is given twice")
        if codings:
            if request_line.endswith(b"HTTP/1.0"):
                raise _Refused("HTTP/1.0 has no Transfer-Encoding (RFC 9112 6.1)")
            # h11 refuses any other coding as not implemented.
            if codings[0].lower() == b"chunked":
                self._extension_bytes = 0
                self._step = self._chunk_line
        elif lengths:
            if not _DIGITS.fullmatch(lengths[0]):
                raise _Refused("Content-Length takes digits, at most fifteen")
            self._body_left = int(lengths[0])
            self._step = self._body if self._body_left else self._head

    def _body(self) -> bool:
        taken = self._take(self._body_left)
        self._passed += taken
        self._body_left -= len(taken)
        if not self._body_left:
            self._step = self._head
        return True

    def _chunk(self) -> bool:
        taken = self._take(self._body_left)
        self._gathered += taken
        self._body_left -= len(taken)
        if not self._body_left:
            self._step = self._chunk_end
        return True

    def _chunk_end(self) -> bool:
        if not _CRLF.startswith(self._held[:2]):
            raise _Refused("a chunk is longer than its size says")
        if len(self._held) < len(_CRLF):
            return False
        del self._held[: len(_CRLF)]
        self._step = self._chunk_line
        return True

    def _chunk_line(self) -> bool:
        end = self._held.find(_CRLF, 0, _MOST_CHUNK_LINE_BYTES)
        if end < 0:
            if len(self._held) >= _MOST_CHUNK_LINE_BYTES:
                raise _Refused("the line of a chunk's size is too long")
            _check_plain(self._held, 0, len(self._held), is_whole=False)
            return False
        line = _CHUNK_LINE.fullmatch(self._held, 0, end)
        if line is None:
            raise _Refused("a chunk begins with its size, at most twelve hexadecimal digits, and CRLF")
        size, extension = int(line[1], 16), line[2] or b""
        self._extension_bytes += len(extension)
        if self._extension_bytes > _MOST_EXTENSION_BYTES:
            raise _Refused("the chunk extensions are too long")
        # A match keeps a buffer of its text, which could then not shrink.
        del line
        del self._held[: end + len(_CRLF)]
        self._body_left = size
        self._step = self._chunk if size else self._trailers
        return True

    def _trailers(self) -> bool:
        """Take the trailers, which are header lines that nobody reads, and the empty line after them."""
        end = 0 if self._held.startswith(_CRLF) else self._held.find(_END_OF_HEAD, max(0, self._looked_at - 3))
        size = (2 if end == 0 else end + len(_END_OF_HEAD)) if end >= 0 else len(self._held)
        if size > _MOST_TRAILER_BYTES:
            raise _Refused("the trailers are too long", _TOO_LARGE)
        _check_plain(self._held, max(0, self._looked_at - 1), size, is_whole=end >= 0)
        self._looked_at = size
        if self._held.startswith((b" ", b"\t")):
            raise _Refused("a header is folded over two lines (RFC 9112 5.2)")
        if end < 0:
            return False
        self._looked_at = 0
        self._pass_gathered()
        self._passed += b"0\r\n" + self._take(size)
        self._step = self._head
        return True


class StrictConnection(h11.Connection):
    """The server side of h11 behind a `Framing`, whose faults h11 raises as RemoteProtocolError in order."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._framing = Framing()

    @property
    def fault(self) -> Fault | None:
        """Why the framing has refused the input, if it has."""
        return self._framing.fault

    def receive_data(self, data: bytes) -> None:
        """Take input of the client; b"" when the client has ended its side."""
        had_a_fault = self._framing.fault is not None
        if data:
            passed = self._framing.feed(data)
        else:
            self._framing.end()
            passed = b""
        if passed:
            super().receive_data(passed)
        if self._framing.fault is not None and not had_a_fault:
            # After the valid requests before it, so that those are answered first.
            super().receive_data(_POISON)
        if not data:
            super().receive_data(b"")


def _check_plain(text: bytearray, start: int, end: int, *, is_whole: bool) -> None:
    """Refuse half line ends, control characters and folded lines; if not `is_whole`, a CR at the end may continue."""
    found = _NOT_PLAIN.search(text, start, end)
    if found is None or (not is_whole and found.end() == end and found[0] == b"\r"):
        return
    match found.lastgroup:
        case "line":
            raise _Refused("a line ends with CR and LF together (RFC 9112 2.2)")
        case "fold":
            raise _Refused("a header is folded over two lines (RFC 9112 5.2)")
        case _:
            raise _Refused("the head of the request holds a control character")

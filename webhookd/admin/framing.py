"""Where a request ends, decided before a parser sees it: what two programs could read in two ways is refused.

h11 reads leniently what RFC 9112 lets a recipient read leniently: a bare LF as the end of a line, a folded header,
Content-Length twice. A proxy in front of this server may read the same bytes otherwise, and then a part of one request
is the start of another. So the bytes of every request pass through `Framing`, which follows head, body, chunks and
trailers by itself, lets through what is plain, and stops at the first byte that isn't (RFC 9112 sections 2.2, 5.1, 5.2,
6.1, 6.3 and 7.1). The same pass bounds what a request may say before its body.
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
_MOST_EXTENSION_BYTES = 4096  # of one body: extensions count nowhere else
_MOST_TRAILER_BYTES = 4096
_TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_CRLF = b"\r\n"
_END_OF_HEAD = b"\r\n\r\n"
_WHITE_SPACE = b" \t"

# A line's end that is half there, a control character, or a line that continues the one before it.
_NOT_PLAIN = re.compile(
    rb"(?P<line>(?<!\r)\n|\r(?!\n))|(?P<control>[\x00-\x08\x0b\x0c\x0e-\x1f\x7f])|(?P<fold>\n[ \t])"
)
_DIGITS = re.compile(rb"[0-9]{1,15}")
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]{1,12})(;[\t\x20-\x7e\x80-\xff]*)?")

# No state of h11 in which this is the next input lets it pass, be it a request, a chunk or a trailer.
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
    """Follows one connection's bytes from request to request; `fault` stands once something was refused.

    Chunks leave it gathered: a body that comes as a chunk for each of its bytes costs the parser and the application no
    more than one that comes whole.
    """

    def __init__(self) -> None:
        self.fault: Fault | None = None
        self._held = bytearray()
        self._passed = bytearray()
        self._gathered = bytearray()  # of chunks, what isn't passed yet
        self._looked_at = 0  # so much of an unfinished head, or of trailers, is known to be plain
        self._has_line = False  # of that head, its request line
        self._step: Callable[[], bool] = self._head
        self._body_left = 0
        self._extension_bytes = 0

    def feed(self, data: bytes) -> bytes:
        """Return what may be parsed of all that has come; what is held back, or follows a fault, is not in it."""
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
        """Note that no more comes: half a head or half a chunk's line is a fault."""
        if self._held and self.fault is None:
            self.fault = Fault(HTTPStatus.BAD_REQUEST, "the request ends in the middle")

    # Each step takes what it can of what is held, and returns whether the next one may try.

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
        # What has come so far is looked at each time, so that a fault is told at once and not at the deadline.
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
        # Cut at fixed bytes and not matched: an expression that looks for a value between two runs of spaces may try
        # every way to share the spaces out.
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
            # Of another coding h11 says that it isn't implemented.
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
        # A match holds on to what it was made of, which could then not shrink.
        del line
        del self._held[: end + len(_CRLF)]
        self._body_left = size
        self._step = self._chunk if size else self._trailers
        return True

    def _trailers(self) -> bool:
        """Take what follows the last chunk: header lines that nobody here reads, and an empty line."""
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
    """h11's server side behind a `Framing`; what that refuses is a RemoteProtocolError in its turn."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, max_incomplete_event_size=HEAD_BYTES)
        self._framing = Framing()

    @property
    def fault(self) -> Fault | None:
        """Why the framing has refused what came, if it has."""
        return self._framing.fault

    def receive_data(self, data: bytes) -> None:
        """Take what the client sent; b"" when it has ended its side."""
        had_a_fault = self._framing.fault is not None
        if data:
            passed = self._framing.feed(data)
        else:
            self._framing.end()
            passed = b""
        if passed:
            super().receive_data(passed)
        if self._framing.fault is not None and not had_a_fault:
            # In line behind what came before it, so that requests which were well formed are answered first.
            super().receive_data(_POISON)
        if not data:
            super().receive_data(b"")


def _check_plain(text: bytearray, start: int, end: int, *, is_whole: bool) -> None:
    """Refuse half line ends, control characters and folded lines; unless it `is_whole`, a last CR may still go on."""
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

"""Reads one HTTP/1.1 response, with a bound on everything. Pure: bytes in, facts out.

At most 64 KiB of a response are read, interim responses and heads included, in at most 512 parts, and 4 KiB of its body
are kept. Nothing is decompressed. An invalid response is a `WireError`. `heads` says what is tolerated in a head; the
rest, chunks and trailers included, must follow the RFC exactly.
"""

import re

import httptools

from webhookd.delivery.http.heads import HeadError, HeadReader, complaint, plain_end

MAX_RESPONSE_BYTES = 64 * 1024
MAX_PARTS = 512  # headers, chunks and interim responses: 64 KiB of the smallest ones take 50 times as long to read
_MAX_HEAD_LINES = 2 * MAX_PARTS  # folded lines, and two lines of each interim response, too
KEPT_BODY_BYTES = 4 * 1024

_INTERIM = (b"HTTP/1.1 1", b"HTTP/1.0 1")
_LENGTHS = frozenset({"content-length", "transfer-encoding"})
_UNPRINTABLE = re.compile(r"[^\x20-\x7e]+")


class WireError(Exception):
    """The bytes are not an HTTP/1.1 response, or one that is refused; the text says why."""


class _EnoughError(Exception):
    """Raised through the parser, to read no more."""


class ResponseReader:
    """Takes the bytes of one response at a time; `room` is how many more it takes.

    `is_complete` is true once all of it has been read; `is_reusable` then says whether the connection may carry another
    request, and the reader another response. `is_truncated`: there was more of the body than is kept.
    """

    def __init__(self) -> None:
        self._parser = httptools.HttpResponseParser(self)
        self.begin()

    def begin(self) -> None:
        """Expect a response, the first one or the next one after a reusable one."""
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.is_truncated = False
        self.is_complete = False
        self.is_reusable = False
        self.room = MAX_RESPONSE_BYTES
        self._heads: HeadReader | None = None
        self._is_behind_heads = False
        self._has_head = False
        self._is_interim = False
        self._is_plausible = True
        self._parts = 0

    @property
    def has_bytes(self) -> bool:
        """Whether any byte has been received."""
        return self.room < MAX_RESPONSE_BYTES

    def feed(self, data: bytes) -> bytes:
        """Take bytes, at most `room` of them; WireError if they are no valid response.

        Returns what a second parser may be given: heads complete and in their normal form, the rest unchanged.
        """
        is_first = not self.has_bytes
        self.room -= len(data)
        if is_first and plain_end(data):
            self._is_behind_heads = True
        readable = data if self._is_behind_heads else self._normalized(data)
        if readable:
            self._parse(readable)
        if self._has_head and not self._is_plausible:
            raise WireError(f"the receiver's answer is no HTTP/1.1: its status is {self.status:03}, or it isn't 1.x")
        if not self.is_complete and self.room <= 0:
            self._stop_early()
        return readable

    def _normalized(self, data: bytes) -> bytes:
        self._heads = self._heads or HeadReader(_MAX_HEAD_LINES)
        taken: list[bytes] = []
        at = 0
        while not self._is_behind_heads:
            try:
                found = self._heads.take(data, at)
            except HeadError as error:
                raise WireError(f"the receiver's answer is no HTTP/1.1: {error}") from error
            if found is None:
                return b"".join(taken)
            head, at = found
            taken.append(head)
            self._is_behind_heads = not head.startswith(_INTERIM)
        return b"".join([*taken, data[at:]])

    def _parse(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            self.is_reusable = False
            if not self.is_complete:
                raise WireError("the receiver wants to change the protocol") from error
        except httptools.HttpParserCallbackError:
            self.room = 0
        except httptools.HttpParserError as error:
            self.is_reusable = False
            # Bytes after a complete response don't invalidate it.
            if not self.is_complete:
                why = "where a chunk or its trailers end can't be told" if self._has_head else complaint(data)
                raise WireError(f"the receiver's answer is no HTTP/1.1: {why}") from error

    def end(self) -> None:
        """Take the end of the stream; WireError if the response isn't complete."""
        self.is_reusable = False
        if self.is_complete:
            return
        if not self._has_head:
            where = "in the middle of its head" if self.has_bytes else "without a byte of an answer"
            raise WireError(f"the receiver closed the connection {where}")
        if any(name.lower() in _LENGTHS for name, _ in self.headers):
            raise WireError("the receiver closed the connection in the middle of the body it announced")
        self.is_complete = True

    def _stop_early(self) -> None:
        if not self._has_head:
            raise WireError(
                f"the head of the receiver's answer is more than {MAX_RESPONSE_BYTES} bytes or {MAX_PARTS} parts"
            )
        self.is_truncated = self.is_complete = True
        self.is_reusable = False

    def _count(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise _EnoughError

    # Called by httptools.

    def on_message_begin(self) -> None:
        """Begin a message: the response, an interim one before it, or a message that should not follow it."""
        if self.is_complete:
            self.is_reusable = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header of the response; a trailer field is not one (RFC 9110, 6.5.1)."""
        if not self.is_complete:
            self._parts += 1  # as `_count` does, in the one place where a call more is felt
            if self._parts > MAX_PARTS:
                raise _EnoughError
            if self._has_head:
                return
            text = value.decode("latin-1")
            if not (text.isascii() and text.isprintable()):
                text = _UNPRINTABLE.sub("?", text)
            self.headers.append((name.decode("latin-1"), text))

    def on_headers_complete(self) -> None:
        """Take the status, unless it is that of an interim response."""
        if self.is_complete:
            return
        status = self._parser.get_status_code()
        self._is_interim = 100 <= status < 200
        if self._is_interim:
            self._count()
            self.headers.clear()
            return
        self.status = status
        self._has_head = True
        # The parser accepts any three digits, and the version HTTP/2.0 too.
        self._is_plausible = 200 <= status <= 599 and self._parser.get_http_version() in {"1.0", "1.1"}

    def on_body(self, data: bytes) -> None:
        """Keep the first 4 KiB of the body."""
        if self.is_complete:
            return
        self._count()
        wanted = KEPT_BODY_BYTES - len(self.body)
        self.body += data[:wanted]
        self.is_truncated = self.is_truncated or len(data) > wanted

    def on_message_complete(self) -> None:
        """Complete the response, unless this was an interim one."""
        if self._is_interim or self.is_complete:
            return
        self.is_complete = True
        self.is_reusable = self._parser.should_keep_alive()

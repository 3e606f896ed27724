"""The head of a response, in a normal form that all parsers read in the same way. Pure: bytes in, bytes out.

What RFC 9112 has a user agent accept is rewritten: a folded line into spaces (section 5.2), a bare LF into CRLF (2.2),
a repeated Content-Length into one (RFC 9110, 8.6). What parsers read in different ways is a HeadError. Each byte is
examined a bounded number of times, in whatever pieces the head arrives.
"""

import re
from collections.abc import Sequence

_LENGTH_NAME = b"content-length"
_CODING_NAME = b"transfer-encoding"
_FRAMING = frozenset({_LENGTH_NAME, _CODING_NAME})
_BLANKS = b" \t"
_BEGINNING = b"HTTP/"
_END = re.compile(rb"\n\r?\n")
_PLAIN = re.compile(
    rb"HTTP/1\.[01] [2-5][0-9]{2}[^\r\n\0]*+\r\n"
    rb"(?:(?!content-length:|transfer-encoding:)[^ \t\r\n\0][^\r\n\0]*+\r\n)*+"
    rb"(?:(?:content-length: [0-9]{1,19}|transfer-encoding: chunked)\r\n)?+"
    rb"(?:(?!content-length:|transfer-encoding:)[^ \t\r\n\0][^\r\n\0]*+\r\n)*+\r\n",
    re.IGNORECASE,
)
_STATUS_LINE = re.compile(rb"HTTP/1\.[01] [0-9]{3}(?: .*+)?", re.DOTALL)
_FIELD = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):.*+", re.DOTALL)
_LENGTH = re.compile(rb"[0-9]{1,19}")  # more digits are beyond 64 bits
_SHOWN_BYTES = 40


class HeadError(Exception):
    """A head that is refused; the text says why."""


class HeadReader:
    """Collects the heads of one response, interim ones included, of at most `most_lines` together."""

    __slots__ = ("_begun", "_lines_left")

    def __init__(self, most_lines: int) -> None:
        self._lines_left = most_lines
        self._begun: bytearray | None = None

    def take(self, data: bytes, start: int = 0) -> tuple[bytes, int] | None:
        """Take bytes from `start` on; return the head and its end in `data`, or None if the head isn't complete.

        HeadError for a head that is refused, and as soon as the first bytes are not those of a response.
        """
        before = 0
        whole: bytes | bytearray = data
        if self._begun is not None:
            before = len(self._begun)
            self._begun += data[start:]
            whole, start = self._begun, 0
        if not whole.startswith(_BEGINNING[: len(whole) - start], start):
            raise HeadError(f"it begins with {_shown([whole[start : start + _SHOWN_BYTES]])}")
        found = _END.search(whole, max(before - 2, start))
        if found is None:
            if self._begun is None:
                self._begun = bytearray(data[start:])
            return None
        self._begun = None
        head = bytes(whole[start : found.end()])
        self._lines_left -= head.count(b"\n")
        if self._lines_left < 0:
            raise HeadError("it has too many lines before its body")
        return rewritten(head), found.end() - before


def plain_end(data: bytes) -> int:
    """Return the end of the head of a final response if `rewritten` would not change it; 0 when in doubt.

    Nearly every response begins with such a head, in one piece.
    """
    found = _PLAIN.match(data)
    return found.end() if found else 0


def complaint(heads: bytes) -> str:
    """Return what is wrong with rewritten heads that a parser has refused: the first line that is invalid.

    Of a header only the name is shown, since its value may be a secret.
    """
    is_first, is_interim = True, True
    names: set[bytes] = set()
    for line in heads.split(b"\r\n"):
        if is_first:
            if _STATUS_LINE.fullmatch(line) is None:
                return f"its first line is {_shown([line])}"
            is_interim = line[9:10] == b"1"
            names.clear()
        elif line:
            field = _FIELD.fullmatch(line)
            if field is None:
                return f"a line of its head, {_shown([line.partition(b':')[0]])}, is no header"
            names.add(field[1].lower())
        elif not is_interim:
            break
        is_first = not line
    return "it has a content-length and a transfer-encoding" if names >= _FRAMING else "its head can't be read"


def rewritten(head: bytes) -> bytes:
    """Return a head, its empty line included, in the normal form; HeadError if it can be read in two ways."""
    if b"\0" in head:
        raise HeadError("there is a NUL in its head")
    status, *lines = [line.removesuffix(b"\r") for line in head.split(b"\n")[:-2]]
    fields: list[bytes] = []
    folds: dict[int, list[bytes]] = {}
    for line in lines:
        if line[:1] not in {b" ", b"\t"}:
            fields.append(line)
            continue
        if not fields:
            raise HeadError("there is white space before its first header")
        more = line.strip(_BLANKS)
        if not more:
            raise HeadError("a line of its head is white space alone")  # some parsers take it for the end of the head
        folds.setdefault(len(fields) - 1, []).append(more)
    for at, parts in folds.items():
        if fields[at].partition(b":")[0].lower() in _FRAMING:
            raise HeadError("where it ends is said in a folded line")
        fields[at] = b" ".join([fields[at].rstrip(_BLANKS), *parts])
    return b"\r\n".join([status, *_framed(fields), b"", b""])


def _framed(fields: list[bytes]) -> list[bytes]:
    """Return the headers with at most one Content-Length and one Transfer-Encoding."""
    kept: list[bytes] = []
    places: dict[bytes, int] = {}
    values: dict[bytes, list[bytes]] = {name: [] for name in _FRAMING}
    for field in fields:
        name, colon, value = field.partition(b":")
        name = name.lower()
        if colon and name in _FRAMING:
            values[name] += [each.strip(_BLANKS).lower() for each in value.split(b",")]
            if name in places:
                continue
            places[name] = len(kept)
        kept.append(field)
    lengths, codings = values[_LENGTH_NAME], values[_CODING_NAME]
    if any(each != lengths[0] or _LENGTH.fullmatch(each) is None for each in lengths):
        raise HeadError(f"its content-length is {_shown(lengths)}")
    # Only the last coding says where the body ends; the others don't matter, since the body isn't decoded.
    if codings and (codings[-1] != b"chunked" or codings.count(b"chunked") > 1):
        raise HeadError(f"its transfer-encoding is {_shown(codings)}")
    for name, at in places.items():
        if len(values[name]) > 1:
            kept[at] = b"%b: %b" % (name, values[name][-1])
    return kept


def _shown(values: Sequence[bytes | bytearray]) -> str:
    return repr(b", ".join(values)[:_SHOWN_BYTES].decode("latin-1"))

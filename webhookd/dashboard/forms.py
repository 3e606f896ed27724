"""What a form sends: fields in the order they came, bounded in size and number, as text.

Reading a form costs the event loop some microseconds for each escape and each line, so both are bounded before they
are looked at one by one.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl

from quart import Request

from webhookd.admin.bodies import expect_media_type, read_body
from webhookd.admin.preconditions import NO_PRECONDITIONS, Preconditions
from webhookd.base.errors import ErrorCode, Rejected

FORM = "application/x-www-form-urlencoded"
ETAG_FIELD = "etag"
MOST_BYTES = 262_144
MOST_FIELDS = 500
# No list that the API takes has more than 100 entries.
MOST_LINES = 500
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Form(Mapping[str, str]):
    """The fields of a form; a name that came more than once stands for its last value, `all` has every one."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._last = dict(pairs)

    def __getitem__(self, name: str) -> str:
        return self._last[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._last)

    def __len__(self) -> int:
        return len(self._last)

    def text(self, name: str) -> str:
        """Return a field without the white space around it; the empty text where it is missing."""
        return self._last.get(name, "").strip()

    def all(self, name: str) -> list[str]:
        """Return every value of a field that may come more than once."""
        return [value for found, value in self._pairs if found == name]

    def lines(self, name: str) -> list[str]:
        """Return what stands in a field, one entry a line, without those that are empty.

        Rejected VALIDATION_ERROR for more than `MOST_LINES` lines.
        """
        return self._entries(name, self.text(name))

    def entries(self, name: str) -> list[str]:
        """Return what stands in a field, one entry a line or between commas; raises as `lines`."""
        return self._entries(name, self.text(name).replace(",", "\n"))

    def _entries(self, name: str, text: str) -> list[str]:
        lines = text.splitlines()
        if len(lines) > MOST_LINES:
            accepted = f"{len(lines)} lines or entries, and at most {MOST_LINES} are read: leave some out"
            raise Rejected(ErrorCode.VALIDATION_ERROR, f"/{name}: {accepted}", errors=((f"/{name}", accepted),))
        return [line.strip() for line in lines if line.strip()]


def unchanged_since(form: Form) -> Preconditions:
    """Return the condition that nobody has changed the webhook or event type since its form was opened."""
    tag = form.text(ETAG_FIELD)
    return Preconditions(match=(tag,)) if tag else NO_PRECONDITIONS


async def read_form(request: Request, timeout_seconds: float, *, max_bytes: int = MOST_BYTES) -> Form:
    """Return the form in a request's body; Rejected for a body that is none or is too large."""
    expect_media_type(request, FORM)
    body = await read_body(request, max_bytes=max_bytes, timeout_seconds=timeout_seconds)
    return parse_form(body)


def parse_form(body: bytes) -> Form:
    """Return the fields of an urlencoded text; Rejected where it is none."""
    if _BROKEN_ESCAPE.search(body) is not None:
        raise Rejected(ErrorCode.VALIDATION_ERROR, "the form has a % that is not followed by two hexadecimal digits")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError as error:  # UnicodeDecodeError is one
        raise Rejected(
            ErrorCode.VALIDATION_ERROR, "the form isn't percent-encoded UTF-8, or has too many fields"
        ) from error
    # A browser sends line breaks as CR LF.
    return Form([(name, value.replace("\r\n", "\n")) for name, value in pairs])

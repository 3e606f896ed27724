"""Reads HTML forms: text fields, with a limit on their size and number.

Each escape and each line of a form costs the event loop some microseconds, so their number is limited before they are
decoded.
"""

import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl

from quart import Request

from webhookd.admin.bodies import expect_media_type, read_body
from webhookd.admin.preconditions import NO_PRECONDITIONS, Preconditions
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import invalid

FORM = "application/x-www-form-urlencoded"
ETAG_FIELD = "etag"
MOST_BYTES = 262_144
MOST_FIELDS = 500
# No list that the API takes has more than 100 entries.
MOST_LINES = 500
_BROKEN_ESCAPE = re.compile(rb"%(?![0-9A-Fa-f]{2})")


class Form(Mapping[str, str]):
    """The fields of a form; a repeated name has its last value here, and all values in `all`."""

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
        """Return a field without surrounding white space; "" if it is missing."""
        return self._last.get(name, "").strip()

    def all(self, name: str) -> list[str]:
        """Return all values of a field that may be repeated."""
        return [value for found, value in self._pairs if found == name]

    def lines(self, name: str) -> list[str]:
        """Return the non-empty lines of a field; Rejected VALIDATION_ERROR for more than `MOST_LINES` lines."""
        return self._entries(name, self.text(name))

    def entries(self, name: str) -> list[str]:
        """Return the entries of a field, separated by line breaks or commas; raises as `lines`."""
        return self._entries(name, self.text(name).replace(",", "\n"))

    def _entries(self, name: str, text: str) -> list[str]:
        lines = text.splitlines()
        if len(lines) > MOST_LINES:
            raise invalid(((f"/{name}", f"{len(lines)} lines or entries; at most {MOST_LINES} are accepted"),))
        return [line.strip() for line in lines if line.strip()]


def unchanged_since(form: Form) -> Preconditions:
    """Return the condition that nobody has changed the webhook or event type since its form was opened."""
    tag = form.text(ETAG_FIELD)
    return Preconditions(match=(tag,)) if tag else NO_PRECONDITIONS


async def read_form(request: Request, timeout_seconds: float, *, max_bytes: int = MOST_BYTES) -> Form:
    """Return the form in a request's body; Rejected for a body that is no form or too large."""
    expect_media_type(request, FORM)
    body = await read_body(request, max_bytes=max_bytes, timeout_seconds=timeout_seconds)
    return parse_form(body)


def parse_form(body: bytes) -> Form:
    """Return the fields of an urlencoded text; Rejected VALIDATION_ERROR if it is none."""
    if _BROKEN_ESCAPE.search(body) is not None:
        raise Rejected(ErrorCode.VALIDATION_ERROR, "the form has a % that is not followed by two hexadecimal digits")
    try:
        pairs = parse_qsl(
            body.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=MOST_FIELDS
        )
    except ValueError as error:  # or a UnicodeDecodeError, which is one
        raise Rejected(
            ErrorCode.VALIDATION_ERROR, "the form isn't percent-encoded UTF-8, or has too many fields"
        ) from error
    # A browser sends line breaks as CR LF.
    return Form([(name, value.replace("\r\n", "\n")) for name, value in pairs])

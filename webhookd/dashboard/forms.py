"""What a form sends: fields in the order they came, bounded in size and number, as text."""

from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl

from quart import Request

from webhookd.admin.bodies import expect_media_type, read_body
from webhookd.errors import ErrorCode, Rejected

FORM = "application/x-www-form-urlencoded"
MOST_BYTES = 262_144
MOST_FIELDS = 500


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
        """Return what stands in a field, one entry a line or between commas."""
        return [part.strip() for part in self.text(name).replace(",", "\n").splitlines() if part.strip()]


async def read_form(request: Request, timeout_seconds: float) -> Form:
    """Return the form in a request's body; Rejected for a body that is none or is too large."""
    expect_media_type(request, FORM)
    body = await read_body(request, max_bytes=MOST_BYTES, timeout_seconds=timeout_seconds)
    return parse_form(body)


def parse_form(body: bytes) -> Form:
    """Return the fields of an urlencoded text; Rejected where it is none."""
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

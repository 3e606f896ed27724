"""Limits of forms: a form that would block the event loop is refused before it is decoded."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from tests.dashboard.browsing import Site, text_of
from tests.linear import calls
from webhookd.base.errors import Rejected
from webhookd.dashboard.forms import MOST_BYTES, MOST_LINES, Form, parse_form
from webhookd.dashboard.webhook_forms import document_of

T = TypeVar("T")


def refused(read: Callable[[T], object], given: T) -> Callable[[], None]:
    """Return a function that calls `read` and expects a refusal."""

    def run() -> None:
        with pytest.raises(Rejected):
            read(given)

    return run


def test_fields_are_decoded() -> None:
    """Escapes, plus signs and line breaks are decoded, and the last of two values counts."""
    form = parse_form(b"a=1&b=x%20y+z%0D%0A%C3%A9&a=2&c=")
    assert dict(form) == {"a": "2", "b": "x y z\né", "c": ""}
    assert form.all("a") == ["1", "2"]


@pytest.mark.parametrize("body", [b"a=%", b"a=%2", b"a=%2g", b"%=", b"a=%u0041", b"a=%%20", b"a=%" + b"%" * 100_000])
def test_a_broken_escape_is_refused(body: bytes) -> None:
    """A form is refused at the first % without two hexadecimal digits; more of them cost nothing."""
    with pytest.raises(Rejected, match="% that is not followed by two hexadecimal digits"):
        parse_form(body)
    assert calls(refused(parse_form, body)) < 1000


@pytest.mark.parametrize(
    ("name", "unit"),
    [("retry/delays", "*,"), ("retry/delays", "1\n"), ("events", "a,"), ("metadata", "k{}=\n"), ("headers", "h{}:v\n")],
)
def test_too_many_entries_are_refused_before_one_is_looked_at(name: str, unit: str) -> None:
    """The error names the field, its number of entries and the limit; a field at the limit is accepted."""
    few = "".join(unit.format(number) for number in range(MOST_LINES))
    document_of(Form([(name, few)]))
    many = "".join(unit.format(number) for number in range(MOST_BYTES // 8))
    with pytest.raises(Rejected) as told:
        document_of(Form([(name, many)]))
    accepted = f"{MOST_BYTES // 8} lines or entries; at most {MOST_LINES} are accepted"
    assert told.value.errors == ((f"/{name}", accepted),)
    assert calls(refused(document_of, Form([(name, many)]))) < 1000


async def test_a_form_says_at_its_field_that_it_has_too_many_lines(site: Site) -> None:
    """The forms of a webhook and a replay, and the check while typing, show the error at the field."""
    visitor = await site.visitor()
    many = "a," * (MOST_LINES + 1)
    made = await visitor.post("/webhooks", {"url": "https://hook.example/", "events": "*"})
    webhook = made.headers["location"].removesuffix("/secret")
    for path in ("/webhooks", f"{webhook}/edit", f"{webhook}/replay", "/webhooks/check/events"):
        answer = await visitor.post(path, {"url": "https://hook.example/", "events": many, "since": "2020-01-01T00:00"})
        assert f"{MOST_LINES + 1} lines or entries; at most {MOST_LINES} are accepted" in text_of(answer.text), path
        assert answer.status_code in {200, 422}, path

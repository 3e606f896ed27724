"""The formats of numbers and times, the paths of charts, and the conversion of forms and documents. Pure."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from webhookd.admin.webhooks import merge
from webhookd.base.errors import Rejected
from webhookd.dashboard import formatting
from webhookd.dashboard.charts import Wish, chart, sparkline
from webhookd.dashboard.forms import Form, parse_form
from webhookd.dashboard.webhook_forms import by_field, difference, document_of, fields_of
from webhookd.jobs.statistics import Point, Series
from webhookd.observe.statistics import Counts

LEAVES = st.text("ab", max_size=2) | st.integers() | st.booleans() | st.lists(st.integers(), max_size=2)
DOCUMENTS = st.dictionaries(
    st.text("ab/~", max_size=2), LEAVES | st.dictionaries(st.text("xy", max_size=1), LEAVES, max_size=2), max_size=4
)


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (None, formatting.NOTHING),
        (0, "0 ms"),
        (0.0456, "46 ms"),
        (1.25, "1.2 s"),
        (5.0, "5 s"),
        (59, "59 s"),
        (90, "1 min 30 s"),
        (3600, "1 h"),
        (7500, "2 h 5 min"),
        (259_200, "3 d"),
        (-5, "0 ms"),
    ],
)
def test_durations(seconds: float | None, said: str) -> None:
    """A duration has at most two units, and none that is zero."""
    assert formatting.duration(seconds) == said


def test_ages_sizes_and_counts() -> None:
    """Times, sizes, large numbers and ids are readable."""
    assert formatting.when(0) == "1970-01-01 00:00:00"
    assert [formatting.size(number) for number in (12, 2048, 15_000_000, 3e12)] == [
        "12 B",
        "2.0 KiB",
        "14.3 MiB",
        "2.7 TiB",
    ]
    assert formatting.count(1_234_567) == "1\u202f234\u202f567"
    assert formatting.shortened("dlv_01JHMVZ3X5N7Q9S1T3V5W7Y9A1") == "dlv_…W7Y9A1"
    assert formatting.shortened("mine") == "mine"


def test_times_in_sentences() -> None:
    """The times in a sentence of the API have the format of pages."""
    said = formatting.readable("Paused by Retry-After until 2025-01-31T12:00:05.000Z")
    assert said == "Paused by Retry-After until 2025-01-31 12:00:05 UTC"


def series(*delivered: int) -> Series:
    points = tuple(Point(at=60 * at, counts=Counts(delivered=number)) for at, number in enumerate(delivered))
    return Series(seconds=60, points=points)


def test_a_chart_fits_its_box() -> None:
    """The scale ends at a round number above the maximum, no value is no line, and a single value is a dash."""
    wish = Wish(name="delivered", value=lambda point: point.counts.delivered or None, total="9")
    drawn = chart("Deliveries", series(0, 7, 0, 9), [wish], formatting.count)
    assert (drawn.top, drawn.middle, drawn.is_empty) == ("10", "5", False)
    assert drawn.lines[0].path == "M225.0 36.0h1.5M525.0 12.0h1.5"
    assert drawn.spots[1].text == "00:01: delivered 7"
    assert drawn.times == ("00:00", "00:01", "00:02", "00:03")
    assert chart("Deliveries", series(0, 0), [wish], formatting.count).is_empty
    assert sparkline(series(0, 4))[0] == "M48.5 22.0v-22.0h47.0v22.0z"
    assert sparkline(series(0, 4))[2] == "Last 24 hours: 4 delivered, 0 failed attempts"


@given(DOCUMENTS, DOCUMENTS)
def test_a_difference_is_the_patch_that_makes_it(before: dict[str, object], after: dict[str, object]) -> None:
    """The difference, merged into `before`, gives `after`; for equal documents it is empty."""
    assert merge(before, difference(before, after)) == after
    assert difference(before, before) == {}


def test_a_form_is_its_document_and_back() -> None:
    """Every field of a form is in its document, and the reverse."""
    fields = {
        "url": "https://a.example/",
        "events": "user.*\n*",
        "description": "d",
        "isActive": "on",
        "ordering": "key",
        "concurrency": "4",
        "rateLimit/perSecond": "0.5",
        "rateLimit/burst": "2",
        "retry/delays": "1, 2.5",
        "retry/maxRefusals": "7",
        "signature/form": "hex",
        "signature/ed25519": "on",
        "metadata": "a=b=c",
    }
    document = document_of(Form(list(fields.items())))
    assert document["rateLimit"] == {"perSecond": 0.5, "burst": 2}
    assert document["metadata"] == {"a": "b=c"}
    assert fields_of(document) == fields
    assert document_of(Form([("events", ""), ("concurrency", "many"), ("retry/jitter", "inf")])) == {
        "url": "",
        "events": [],
        "isActive": False,
        "concurrency": "many",
        "retry": {"jitter": "inf"},
    }


def test_problems_find_their_field() -> None:
    """A problem is shown at its field with the place in it, or for the whole form."""
    assert by_field(
        {"events/1": "unknown", "retry/delays/0": "at least 0.01", "headers/Host": "refused", "x": "no"}
    ) == {
        "events": "Line 2: unknown",
        "retry/delays": "0: at least 0.01",
        "headers": "Host: refused",
        "": "No",
    }


@pytest.mark.parametrize("body", [b"a=%ff", b"\xff=a", b"&".join(b"a=1" for _ in range(501))])
def test_forms_are_bounded(body: bytes) -> None:
    """A form that is no UTF-8 or has too many fields is refused."""
    with pytest.raises(Rejected):
        parse_form(body)


def test_lines_of_a_form() -> None:
    """Line breaks are CR LF; commas separate entries, but not lines."""
    form = parse_form(b"events=a%0D%0Ab%2C+c%0D%0A&x=1&x=2&empty=")
    assert form.entries("events") == ["a", "b", "c"]
    assert form.lines("events") == ["a", "b, c"]
    assert (form["x"], form.all("x"), form.text("empty"), form.text("none")) == ("2", ["1", "2"], "", "")

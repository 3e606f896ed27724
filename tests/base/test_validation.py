"""Error messages for invalid documents: they are found exactly where msgspec finds an error, in our own words."""

import json
from typing import Annotated, Any, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from tests.foreign import PHRASES
from tests.linear import MOST_GROWTH, growth
from webhookd.admin.app import all_operations
from webhookd.admin.schemas import EventTypeInput, NewKey, ReplayRequest
from webhookd.admin.webhook_schemas import NewWebhook, Rotation, WebhookSettings
from webhookd.base.models import NewEvent
from webhookd.base.validation import MOST_COMPLAINTS, accepted_form, complaints, type_info

KINDS = (NewWebhook, WebhookSettings, Rotation, ReplayRequest, NewKey, EventTypeInput, NewEvent)
NAMES = sorted({field.encode_name for kind in KINDS for field in msgspec.structs.fields(kind)} | {
    "perSecond", "burst", "delays", "jitter", "maxRefusals", "maxAgeSeconds", "parkAfter", "form", "ed25519", "x",
})  # fmt: skip
VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 40) | st.sampled_from([10**30, int("9" * 401), 2**63, 604_800, 604_801]),
    st.floats(-1, 40, allow_nan=False) | st.sampled_from([1e300, 0.5]),
    st.text(max_size=6)
    | st.sampled_from(["*", "user.created", "user.*", "strict", "admin", "hex", "a" * 129, "2025-01-31T12:00:00Z"]),
)
DOCUMENTS = st.recursive(
    VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner),
    max_leaves=10,
)
GOOD: dict[type, dict[str, object]] = {
    NewWebhook: {"url": "https://a.example/", "events": ["*"]},
    WebhookSettings: {"url": "https://a.example/", "events": ["*"]},
    Rotation: {},
    ReplayRequest: {"since": "2025-01-31T12:00:00Z"},
    NewKey: {"role": "viewer"},
    EventTypeInput: {},
    NewEvent: {"type": "user.created", "data": {}},
}


def is_taken(document: object, kind: type) -> bool:
    try:
        msgspec.json.decode(json.dumps(document), type=kind)
    except msgspec.ValidationError:
        return False
    return True


@given(st.sampled_from(KINDS), st.dictionaries(st.sampled_from(NAMES), DOCUMENTS, max_size=4) | DOCUMENTS)
def test_what_is_told_is_what_msgspec_refuses(kind: type, change: Any) -> None:
    """A document has complaints exactly if msgspec refuses it, each with a pointer, none with the library's words."""
    document = GOOD[kind] | change if isinstance(change, dict) else change
    found = complaints(document, kind)
    assert bool(found) != is_taken(document, kind), found
    for pointer, words in found:
        assert pointer == "" or pointer.startswith("/")
        assert not PHRASES.search(words), words


@pytest.mark.parametrize(
    ("change", "pointer", "words"),
    [
        ({"concurrency": 0}, "/concurrency", "takes a whole number from 1 to 256, not 0"),
        ({"concurrency": "x"}, "/concurrency", "takes a whole number from 1 to 256, not a string"),
        ({"concurrency": True}, "/concurrency", "takes a whole number from 1 to 256, not true or false"),
        ({"concurrency": 10**400}, "/concurrency", "takes a whole number from 1 to 256, not a number as large as that"),
        ({"events": []}, "/events", "not a list of 0"),
        ({"events": ["*", "a b"]}, "/events/1", "takes a type such as user.created, every type below a prefix"),
        ({"events": "*"}, "/events", "takes a list of 1 to 100 items, each item a type"),
        ({"ordering": "loose"}, "/ordering", 'takes "strict" or "key" or "none", not a string'),
        ({"retry": {"often": 2}}, "/retry/often", "is not known here; there is delays, jitter"),
        ({"retry": {"jiter": 2}}, "/retry/jiter", "is not known here; did you mean jitter?"),
        ({"retry": {"delays": [5, -1]}}, "/retry/delays/1", "takes a number from 1 to 604800, not -1"),
        ({"retry": 7}, "/retry", "takes an object, not 7"),
        ({"rateLimit": {}}, "/rateLimit/perSecond", "is missing; takes a number from 0.01 to 10000"),
        ({"metadata": {"a": 1}}, "/metadata/a", "takes a string of at most 500 characters, not 1"),
        ({"metadata": {"": "x"}}, "/metadata/", "a name is a string of 1 to 40 characters"),
        ({"metadata": {"a/b~c": 1}}, "/metadata/a~1b~0c", "takes a string"),
        ({"metadata": {str(number): "" for number in range(51)}}, "/metadata", "at most 50 members, and these are 51"),
        ({"description": "x" * 501}, "/description", "at most 500 characters, not a string of 501"),
        ({"organizationId": "a b"}, "/organizationId", "takes 1 to 64 letters, digits, _ . : and -, not a string"),
        ({"url": None}, "/url", "takes a string of 1 to 2048 characters, not null"),
    ],
)
def test_a_complaint_says_where_and_how_to_mend_it(change: dict[str, object], pointer: str, words: str) -> None:
    """Each kind of mistake is reported at its place, with what is accepted and the kind of value given."""
    ((found, said),) = complaints(GOOD[NewWebhook] | change, NewWebhook)
    assert found == pointer
    assert words in said


def test_no_value_is_shown() -> None:
    """The value may be a secret: of a string, only the length is reported."""
    for secret in ("whsec_" + "s" * 200, ["whsec_" + "s" * 200], {"whsec": "s" * 200}):
        for name in ("secret", "url", "headers", "description"):
            told = json.dumps(complaints(GOOD[NewWebhook] | {name: secret}, NewWebhook))
            assert "sss" not in told


def test_every_form_is_said_in_words() -> None:
    """Whatever an operation accepts, in its body or query, has a description; a pattern is never shown."""
    kinds: list[object] = [kind for each in all_operations() for kind in (each.query, *each.takes.values())]
    forms = [
        accepted_form(type_info(field.type))
        for kind in kinds
        if isinstance(kind, type)
        for field in msgspec.structs.fields(kind)
    ]
    assert len(forms) > 50
    for form in forms:
        assert "any value" not in form or "each value any value" in form
        assert not set(form) & set("^$\\")
        assert not PHRASES.search(form)


def test_unions_ranges_and_literals() -> None:
    """Types that no body uses yet have a description too."""
    assert accepted_form(type_info(Literal["a", "b"])) == '"a" or "b"'
    assert accepted_form(type_info(Annotated[int, Meta(gt=0)])) == "a whole number above 0"
    assert accepted_form(type_info(Annotated[float, Meta(ge=1)])) == "a number, at least 1"
    assert accepted_form(type_info(str | int | None)) in {"a string or a whole number", "a whole number or a string"}
    assert complaints(1.5, str | int) == (("", "takes a whole number or a string, not 1.5"),) or complaints(
        1.5, str | int
    )
    assert complaints(None, str | None) == ()
    assert complaints("c", Literal["a", "b"]) == (("", 'takes "a" or "b", not a string'),)


def test_complaints_are_bounded_and_linear() -> None:
    """Of many mistakes the first are reported, in time linear in the document."""
    many = {"metadata": {str(number): number for number in range(500)}}
    assert len(complaints(GOOD[NewWebhook] | many, NewWebhook)) == MOST_COMPLAINTS

    def document(size: int) -> object:
        return {"url": "x" * size, "events": ["y" * size], "z" * size: 1, "metadata": {"m" * size: "v" * size}}

    assert growth(document, lambda made: complaints(made, NewWebhook), 2**20) < MOST_GROWTH

"""Error messages for text that is not JSON, and names that an object has twice."""

import json
import tracemalloc
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.foreign import PHRASES
from tests.linear import MOST_GROWTH, growth
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import decode_body, decode_event
from webhookd.base.json_errors import BOM, find_repeated, reason

ANY = msgspec.json.Decoder(object)
LIMIT = 262_144


def told(text: bytes) -> str:
    with pytest.raises(Rejected) as refused:
        decode_body(text, ANY)
    assert refused.value.code is ErrorCode.MALFORMED_JSON
    return refused.value.detail


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"", "it is empty; send a JSON object such as {}"),
        (b" \r\n", "it is empty"),
        (BOM, "it is empty"),
        (b"{", "it ends too early"),
        (b'{"a": "', "it ends too early"),
        (b'{"a"', "it ends too early"),
        (b"{} {}", "something follows the JSON near byte 4"),
        (b"{'a': 1}", "the name near byte 1 must be in double quotes"),
        (b'{"a": 1,}', "what is near byte 8 is not JSON"),
        (b'{"a" 1}', "a quote, colon, comma or bracket is missing near byte 5"),
        (b'{"a": 01}', "the number near byte 7"),
        (b'{"a": NaN}', "what is near byte 6 is not JSON"),
        (b'{"a": Infinity}', "what is near byte 6 is not JSON"),
        (b'{"a": tru}', "what is near byte"),
        (b"nonsense", "what is near byte 4 is not JSON"),
        (b'{"a": "\x01"}', "byte 7 is a control character"),
        (b'{"a": "\n"}', "byte 7 is a control character"),
        (b'{"a": "\\x"}', "the escape near byte"),
        (b'{"a": "\\ud800"}', "the escape \\ud800 at byte 7 is half of a surrogate pair"),
        (b'{"a": "\\udc00"}', "the escape \\udc00 at byte 7 is half of a surrogate pair"),
        (b'{"a": "\\uD800\\u0041"}', "the escape \\uD800 at byte 7 is half of a surrogate pair"),
        (b'{"a": "\\\\\\udbff\\n"}', "the escape \\udbff at byte 9 is half of a surrogate pair"),
        (b'{"a": "\\ud83d\\ude00\\ude00"}', "half of a surrogate pair"),
        (b"\xff", "byte 0 isn't UTF-8"),
        ("{}".encode("utf-16"), "byte 0 isn't UTF-8"),
        (b'{"a": "\xed\xa0\x80"}', "byte 7 isn't UTF-8"),
    ],
)
def test_what_is_no_json_is_told_in_our_words(text: bytes, words: str) -> None:
    """The message for each kind of mistake names it, its byte and, if known, the fix."""
    detail = told(text)
    assert words in detail
    assert not PHRASES.search(detail), detail


@given(
    st.binary(max_size=60)
    | st.text(max_size=30).map(str.encode)
    | st.text('{}[]",:\\u0dD8ab1 e.-', max_size=30).map(str.encode)
)
def test_nothing_is_told_in_a_librarys_words(text: bytes) -> None:
    """Any input is accepted, or refused with a message of our own."""
    decoders: tuple[Callable[[], object], ...] = (
        lambda: decode_body(text, ANY),
        lambda: decode_event(text, max_bytes=LIMIT),
    )
    for decode in decoders:
        try:
            decode()
        except Rejected as refused:
            detail = refused.detail
        else:
            continue
        assert not PHRASES.search(detail), detail


def test_the_reason_is_found_in_linear_time() -> None:
    """Long runs of escapes, surrogate halves and backslashes are examined in linear time."""
    for part in (b"\\ud83d", b"\\ude00", b"\\u", b"\\", b'\\"', b"\\ud83d\\ude00", b" "):

        def text(size: int, part: bytes = part) -> bytes:
            return b'"' + part * (size // len(part))

        assert growth(text, lambda made: reason(made, ""), 2**17) < MOST_GROWTH


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        (b'{"a": 1, "a": 2}', "/a"),
        (b'{"a": 1, "\\u0061": 2}', "/a"),
        (b'{"b": [{}, {"c": {"d": 1, "e": 2, "d": 3}}]}', "/b/1/c/d"),
        (b'[[{"": 1, "": 1}]]', "/0/0/"),
        (b'{"a/b~c": 1, "a/b~c": 2}', "/a~1b~0c"),
        (b'{"a": {"a": 1}, "b": {"a": 1}, "A": 1}', None),
        (b'{"a": "\\"a\\": 1, \\"a\\": 2"}', None),
        (b"[1, 2, 1]", None),
        (b'{"a": ' + b"9" * 400 + b', "b": 1e300}', None),
    ],
)
def test_a_name_that_is_there_twice_is_found(text: bytes, pointer: str | None) -> None:
    """Names are compared after decoding, within their own object, and the pointer is returned."""
    assert find_repeated(text) == pointer
    if pointer is None:
        assert decode_body(text, ANY) is not None
        return
    with pytest.raises(Rejected) as refused:
        decode_body(text, ANY)
    assert (refused.value.code, refused.value.errors[0][0]) == (ErrorCode.VALIDATION_ERROR, pointer)


@pytest.mark.parametrize("number", ["9" * 5000, "-" + "9" * 5000, "1e999", "-1e400"])
def test_a_number_that_nothing_holds_is_refused(number: str) -> None:
    """Numbers with too many digits or too large an exponent are refused, but are carried in an event's data."""
    text = f'{{"a": {number}, "a": {number}}}'.encode()
    assert find_repeated(text) == "/a"
    with pytest.raises(Rejected, match=r"a number in .* is too (large|long)"):
        decode_body(f'{{"a": [{number}]}}'.encode(), ANY)
    line = f'{{"type": "user.created", "data": {{"a": {number}}}}}'.encode()
    assert number.encode() in bytes(decode_event(line, max_bytes=LIMIT).data)


DATA = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
FIELDS = ("type", "data", "id", "timestamp", "organizationId", "orderingKey", "traceparent")
COLONS = (":", ": ", " :", ":\n")


def escaped(name: str, place: int) -> str:
    """Return a name with one of its letters as an escape."""
    return f"{name[:place]}\\u{ord(name[place]):04x}{name[place + 1 :]}" if place < len(name) else name


@st.composite
def events(draw: Any) -> tuple[bytes, bool]:
    """Return the text of an event, and whether it has a field twice."""
    values = {
        "type": st.just('"user.created"'),
        "data": st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=4), DATA, max_size=4).map(json.dumps),
        "id": st.sampled_from(["null", '"e1"', '"\\u0065_2"']),
        "timestamp": st.sampled_from(["null", '"2025-01-31T12:00:00Z"']),
        "organizationId": st.sampled_from(["null", '"acme"']),
        "orderingKey": st.sampled_from(["null", '"k"', '"a \\"quoted\\" key"', '"\\\\"', '"\\u0022"']),
        "traceparent": st.sampled_from(["null", '"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"']),
    }
    names = ["type", "data", *draw(st.lists(st.sampled_from(FIELDS), max_size=4))]
    names = draw(st.permutations(names))
    members = [
        f'"{escaped(name, draw(st.integers(0, 30)))}"{draw(st.sampled_from(COLONS))}{draw(values[name])}'
        for name in names
    ]
    return ("{" + ", ".join(members) + "}").encode(), len(set(names)) < len(names)


def test_a_name_that_is_twice_is_found_without_a_pointer_for_each_value() -> None:
    """What the search for a repeated name holds at a time grows with the document, not with its depth times its values.

    Pointers of 20,000 values at a depth of 120 are 150 MiB, of which one is wanted.
    """
    names = b"".join(b'{"%b":' % (b"n" * 70) for _ in range(120))
    text = b'{"a":' + names + b"[" + b"1," * 19_000 + b'{"x":1,"x":2}]' + b"}" * 121
    tracemalloc.start()
    try:
        pointer = find_repeated(text)
        _, most_bytes = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert pointer is not None
    assert pointer.count("/") == 1 + 120 + 2
    assert pointer.endswith("/19000/x")
    assert most_bytes < 200 * len(text)


@given(events())
def test_an_event_has_each_field_once(made: tuple[bytes, bool]) -> None:
    """A repeated field is refused, however its name is written and whatever its values contain."""
    line, repeats = made
    code: ErrorCode | None = None
    pointers: list[str] = []
    try:
        decode_event(line, max_bytes=LIMIT)
    except Rejected as refused:
        code, pointers = refused.code, [pointer for pointer, _ in refused.errors]
    assert repeats == (code is not None), line
    if repeats:
        assert code is ErrorCode.VALIDATION_ERROR
        assert pointers[0].strip("/") in FIELDS


@pytest.mark.parametrize("text", [b"1", b'"x"', b"[]", b"null", b"true"])
def test_what_is_no_object_is_no_event(text: bytes) -> None:
    """An event that is a number or a list is refused as not an object, and with no other message."""
    with pytest.raises(Rejected) as refused:
        decode_event(text, max_bytes=LIMIT)
    assert refused.value.detail == "the event: takes an object"


def test_duplicates_within_data_are_passed_through() -> None:
    """`data` is the producer's own: its bytes reach the receiver unchanged."""
    data = b'{"a": 1, "a": 2, "data": {}, "type": "x", "type": "y"}'
    new = decode_event(b'{"type": "user.created", "data": ' + data + b"}", max_bytes=LIMIT)
    assert bytes(new.data) == data


def test_fields_are_counted_in_linear_time() -> None:
    """Long runs of quotes in data, a key or unknown values are counted once; a long line is refused too."""
    lines = (
        lambda size: b'{"type": "user.created", "data": {"x": "' + b'\\"' * (size // 2) + b'"}}',
        lambda size: (
            b'{"type": "user.created", "data": {}, "id": null, "data": {"x": "' + b'\\"' * (size // 2) + b'"}}'
        ),
        lambda size: b'{"type": "user.created", "data": {}' + b', "id": null' * (size // 12) + b"}",
        lambda size: b'{"type": "user.created", "data": {' + b'"a":1,' * (size // 6) + b'"a":1}, "id": 7}',
        lambda size: b'{"type": "user.created", "data": {}, "' + b"x" * size + b'": 1}',
        lambda size: b'{"type": "' + b"x" * size + b'", "data": {}}',
        lambda size: b'{"type": [' + b"1," * (size // 2) + b'1], "data": {}}',
    )

    def work(line: bytes) -> None:
        try:
            decode_event(line, max_bytes=2**20)
        except Rejected:
            return

    for line in lines:
        assert growth(line, work, 2**19) < MOST_GROWTH


@pytest.mark.parametrize("text", [b'{"type": "user.created", "data": {}}', b'\t{"type": "user.created", "data": {}}'])
def test_a_byte_order_mark_says_nothing(text: bytes) -> None:
    """A BOM before an event or a body is ignored; within a text it is not JSON."""
    assert decode_event(BOM + text, max_bytes=LIMIT).type == "user.created"
    assert decode_body(BOM + text, ANY) == json.loads(text)
    assert "not JSON" in told(BOM + BOM + text)

"""From a producer's bytes to the bytes that are sent: unchanged data, and the place of each error."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.linear import MOST_GROWTH, growth
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.event_format import MAX_DEPTH, MAX_JSON_DIGITS, accept, check_json_text, decode_event

LIMIT = 262_144
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def body_of(line: bytes) -> bytes:
    return accept(decode_event(line, max_bytes=LIMIT), event_id="evt_1", now=1736937000.0).body


@given(st.dictionaries(st.text(), JSON, max_size=4), st.sampled_from([None, 0, 2]), st.booleans())
def test_data_is_carried_byte_for_byte(data: dict[str, object], indent: int | None, ascii_only: bool) -> None:
    """Whatever JSON object is submitted, the envelope has its bytes unchanged, and the envelope is JSON."""
    try:
        text = json.dumps(data, indent=indent, ensure_ascii=ascii_only).encode()
    except UnicodeEncodeError:
        return  # a lone surrogate has no UTF-8
    body = body_of(b'{"type": "user.created", "data": ' + text + b"}")
    expected = b'{"id":"evt_1","type":"user.created","timestamp":"2025-01-15T10:30:00.000Z","data":'
    assert body == expected + text + b"}"
    assert json.loads(body)["data"] == data


def test_the_envelope_is_the_documented_one() -> None:
    """The envelope has id, type, time and data in this order, then the organization if there is one."""
    line = (
        b'{"organizationId": "acme", "timestamp": "2025-01-15T12:30:00+02:00", "type": "user.created",'
        b' "data": { "a" : 1 }, "orderingKey": "k"}'
    )
    assert body_of(line) == (
        b'{"id":"evt_1","type":"user.created","timestamp":"2025-01-15T10:30:00.000Z","data":{ "a" : 1 },'
        b'"organizationId":"acme"}'
    )


@pytest.mark.parametrize(
    ("line", "code", "pointer"),
    [
        (b"", ErrorCode.MALFORMED_JSON, None),
        (b"\xff", ErrorCode.MALFORMED_JSON, None),
        (b"{} {}", ErrorCode.MALFORMED_JSON, None),
        (b"null", ErrorCode.VALIDATION_ERROR, ""),
        (b'{"type": "a"}', ErrorCode.VALIDATION_ERROR, "/data"),
        (b'{"type": "a", "data": {}, "more": 1}', ErrorCode.VALIDATION_ERROR, "/more"),
        (b'{"type": "a b", "data": {}}', ErrorCode.VALIDATION_ERROR, "/type"),
        (b'{"type": "a.", "data": {}}', ErrorCode.VALIDATION_ERROR, "/type"),
        (b'{"type": "a\\n", "data": {}}', ErrorCode.VALIDATION_ERROR, "/type"),
        (b'{"type": "a", "data": 1}', ErrorCode.VALIDATION_ERROR, "/data"),
        (b'{"type": "a", "data": {}, "id": "a.b"}', ErrorCode.VALIDATION_ERROR, "/id"),
        (b'{"type": "a", "data": {}, "timestamp": "2025-01-15"}', ErrorCode.VALIDATION_ERROR, "/timestamp"),
        (b'{"type": "a", "data": {}, "timestamp": "2025-01-15T10:30:00"}', ErrorCode.VALIDATION_ERROR, "/timestamp"),
        (b'{"type": "a", "data": {"x": tru}}', ErrorCode.MALFORMED_JSON, None),
        (b'{"type": "a", "data": {"x": "\xc3\x28"}}', ErrorCode.MALFORMED_JSON, None),
        (b'{"type": "a", "data": ' + b"[" * 100_000, ErrorCode.MALFORMED_JSON, None),
    ],
)
def test_what_is_no_event_is_refused_with_its_place(line: bytes, code: ErrorCode, pointer: str | None) -> None:
    """Each kind of mistake has its error code, and a wrong field its JSON pointer."""
    with pytest.raises(Rejected) as refused:
        decode_event(line, max_bytes=LIMIT)
    assert refused.value.code is code
    assert [where for where, _ in refused.value.errors] == ([] if pointer is None else [pointer])


def test_size_and_depth_have_their_bounds() -> None:
    """An event of the maximum size or depth is accepted; one byte or level more is refused."""

    def event(data: bytes) -> bytes:
        return b'{"type":"a","data":' + data + b"}"

    padding = LIMIT - len(event(b'{"x":""}'))
    decode_event(event(b'{"x":"' + b"x" * padding + b'"}'), max_bytes=LIMIT)
    with pytest.raises(Rejected) as large:
        decode_event(event(b'{"x":"' + b"x" * (padding + 1) + b'"}'), max_bytes=LIMIT)
    assert large.value.code is ErrorCode.PAYLOAD_TOO_LARGE
    deepest = MAX_DEPTH - 1
    decode_event(event(b'{"x":' * deepest + b"1" + b"}" * deepest), max_bytes=LIMIT)
    with pytest.raises(Rejected, match="nested"):
        decode_event(event(b'{"x":' * MAX_DEPTH + b"1" + b"}" * MAX_DEPTH), max_bytes=LIMIT)
    # Brackets in strings are no nesting.
    decode_event(event(b'{"x":"' + b"[{" * 500 + b'\\""}'), max_bytes=LIMIT)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode) | JSON.map(msgspec.json.encode))
def test_no_bytes_break_the_decoder(line: bytes) -> None:
    """Any input is either an event or a refusal."""
    code = None
    try:
        decode_event(line, max_bytes=LIMIT)
    except Rejected as refused:
        code = refused.code
    assert code in {None, ErrorCode.MALFORMED_JSON, ErrorCode.VALIDATION_ERROR}


def is_too_deep(text: bytes) -> bool:
    try:
        check_json_text(text)
    except Rejected as refused:
        return "nested" in refused.detail
    return False


def depth_of(text: bytes) -> int:
    """Return the depth, counted byte by byte as RFC 8259 defines it."""
    deepest = depth = 0
    is_string = is_escaped = False
    for byte in text:
        if is_escaped:
            is_escaped = False
        elif is_string:
            is_escaped = byte == ord("\\")
            is_string = byte != ord('"')
        elif byte == ord('"'):
            is_string = True
        elif byte in b"[{":
            depth += 1
            deepest = max(deepest, depth)
        elif byte in b"]}":
            depth -= 1
    return deepest


STRINGS = st.text('a[]{}"\\', max_size=12).map(lambda text: json.dumps(text).encode())
ITEMS = st.lists(STRINGS | st.sampled_from([b"1", b"[]", b'{"":[]}']), max_size=30).map(b",".join)


@given(ITEMS, st.integers(MAX_DEPTH - 5, MAX_DEPTH + 1), ITEMS)
def test_depth_is_counted_outside_strings(before: bytes, depth: int, inner: bytes) -> None:
    """Brackets, quotes and backslashes in strings don't count, and neither do closed brackets."""
    text = b"[" + (before + b"," if before else b"") + b"[" * depth + inner + b"]" * depth + b"]"
    json.loads(text)
    assert is_too_deep(text) == (depth_of(text) > MAX_DEPTH)


@pytest.mark.parametrize(
    "unit",
    [b'\\"', b'"', b"\\", b"[", b"[]", b"[" * 128 + b"]" * 128, b'"["', b'["', b'["",', b'"\\', b"{}[]", b'\\\\"'],
    ids=repr,
)
@pytest.mark.parametrize("prefix", [b"", b"[" * 129 + b'"', b'{"' + b"[" * 129], ids=["", "string", "key"])
def test_depth_is_found_in_time_linear_in_the_length(prefix: bytes, unit: bytes) -> None:
    """Checking repeated brackets, quotes and escapes takes time linear in the length, up to the largest body."""

    def text(length: int) -> bytes:
        return prefix + b"[" * 129 + unit * (length // len(unit))

    assert growth(text, is_too_deep, 1_048_576 // 8) < MOST_GROWTH


def test_what_is_decoded_to_objects_is_bounded_in_values() -> None:
    """Too many values are refused before they are decoded; commas and brackets in strings don't count."""

    def code(text: bytes) -> ErrorCode | None:
        try:
            check_json_text(text, most_values=1000)
        except Rejected as refused:
            return refused.code
        return None

    full = b"[" + b",".join([b"1"] * 999) + b"]"
    assert code(full) is None
    assert code(b"[" + full + b"]") is ErrorCode.PAYLOAD_TOO_LARGE
    assert code(b"[" + b"{}," * 500 + b"1]") is ErrorCode.PAYLOAD_TOO_LARGE
    assert code(b'["' + b'[{,\\"' * 5000 + b'"]') is None
    assert code(b'["' + b'[{,\\"' * 5000 + b'",' + full + b"]") is ErrorCode.PAYLOAD_TOO_LARGE


@pytest.mark.parametrize("unit", ["[", ".", "[]", "].", "` - at `$", "a"], ids=repr)
def test_a_name_that_looks_like_a_place_costs_its_length(unit: str) -> None:
    """The place of an error is found in linear time, also if the name of an unknown field looks like a place."""

    def line(length: int) -> bytes:
        return b'{"type":"a","data":{},"x` - at `$' + (unit * (length // len(unit))).encode() + b'":1}'

    def refuse(text: bytes) -> None:
        with pytest.raises(Rejected, match="is not known here"):
            decode_event(text, max_bytes=2 * LIMIT)

    assert growth(line, refuse, LIMIT // 8) < MOST_GROWTH


NUMBERS = st.lists(st.integers(0, 10**6), max_size=8).map(lambda numbers: json.dumps(numbers).encode())


def is_too_long(text: bytes) -> bool:
    try:
        check_json_text(text, most_values=20_000)
    except Rejected as refused:
        return "too long" in refused.detail
    return False


@given(ITEMS, st.integers(MAX_JSON_DIGITS - 2, MAX_JSON_DIGITS + 2), NUMBERS)
def test_a_number_is_bounded_in_digits(before: bytes, digits: int, after: bytes) -> None:
    """A number is read in quadratic time, so a long one is refused; in a string its digits are no number."""
    number = b"7" * digits
    in_string = b'["' + b"7" * 500 + b'",' + (before + b"," if before else b"") + after + b"]"
    assert not is_too_long(in_string)
    assert is_too_long(b"[" + (before + b"," if before else b"") + number + b"]") == (digits > MAX_JSON_DIGITS)
    assert is_too_long(b'{"a": -' + number + b', "b": ' + in_string + b"}") == (digits > MAX_JSON_DIGITS)


@pytest.mark.parametrize("unit", [b"1", b"1" * 400 + b",", b"1,", b'"' + b"1" * 500 + b'",', b'1"', b'1\\"'], ids=len)
def test_long_numbers_are_found_in_time_linear_in_the_length(unit: bytes) -> None:
    """Checking repeated digits, quotes and escapes takes time linear in the length."""

    def text(length: int) -> bytes:
        return b"[" + unit * (length // len(unit))

    assert growth(text, is_too_long, 1_048_576 // 8) < MOST_GROWTH

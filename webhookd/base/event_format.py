"""From a producer's bytes to the body that every attempt sends: decoding, checking and the envelope.

The envelope is built once, when the event is accepted; `data` keeps its bytes unchanged. JSON is not trusted: it must
be UTF-8, and its depth is checked before it is parsed. Every failure is a `Rejected` that says what is wrong, and
where.
"""

import re
from math import inf
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import fields, replace

from webhookd.base.clock import TimeError, iso, parse_iso
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.fields import TRACEPARENT_PATTERN
from webhookd.base.json_errors import BOM, find_repeated, reason
from webhookd.base.json_text import depth, has_long_number, outside_strings
from webhookd.base.models import AcceptedEvent, NewEvent
from webhookd.base.validation import complaints

T = TypeVar("T")

MAX_DEPTH = 128
MAX_JSON_VALUES = 20_000
MAX_JSON_DIGITS = 400  # the largest double has 309
_OPENING_BRACE = ord("{")

_decoder = msgspec.json.Decoder(NewEvent)
_quote = msgspec.json.Encoder().encode
_NOT_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_UNKNOWN = "unknown field `"
_LONGEST_MEMBER = 4096
_LONGEST_NAMED = 16_384
_EVENT = "the event"
_QUOTES = b'"'
_NAME_OF_DATA = b'"data":'
_QUOTES_OF_A_FIELD = 4
_LEAST_QUOTES = 2 + 6 * _QUOTES_OF_A_FIELD  # of an event with all fields, without those in its data
_TRACEPARENT = re.compile(TRACEPARENT_PATTERN)


# The raw values of an event's fields; of a repeated field the last one.
_Members = msgspec.defstruct(
    "_Members", [(field.name, msgspec.Raw | UnsetType, UNSET) for field in fields(NewEvent)], rename="camel"
)
_member_decoder = msgspec.json.Decoder(_Members)


def decode_event(line: bytes, *, max_bytes: int) -> NewEvent:
    """Decode and check one submitted event.

    Raises Rejected: PAYLOAD_TOO_LARGE over `max_bytes`; MALFORMED_JSON if it isn't UTF-8 JSON or is nested deeper than
    128; VALIDATION_ERROR, with JSON pointers, if it isn't an event or has a field twice.
    """
    if len(line) > max_bytes:
        raise Rejected(
            ErrorCode.PAYLOAD_TOO_LARGE, f"the event has {len(line)} bytes; at most {max_bytes} are accepted"
        )
    line = line.removeprefix(BOM)
    check_json_text(line)
    try:
        new = _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise invalid(_event_complaints(line, error), _EVENT) from error
    except _NOT_JSON as error:
        raise _malformed(line, error) from error
    if memoryview(new.data)[0] != _OPENING_BRACE:
        raise invalid((("/data", "takes an object"),))
    _check_once(line, new)
    if new.timestamp is not None:
        try:
            parse_iso(new.timestamp)
        except TimeError as error:
            raise invalid((("/timestamp", f"takes {error}"),)) from error
    if new.traceparent is not None and not _is_traceparent(new.traceparent):
        raise invalid((("/traceparent", "takes a W3C traceparent of version 00 to fe with ids that aren't all zeros"),))
    return new


def in_trace(new: NewEvent, header: str | None) -> NewEvent:
    """Return the event with the request's `traceparent` header, unless it has a traceparent of its own.

    An invalid header is ignored (W3C Trace Context, section 3.2).
    """
    if new.traceparent is not None or header is None:
        return new
    is_valid = _TRACEPARENT.match(header) and _is_traceparent(header)
    return replace(new, traceparent=header) if is_valid else new


def accept(new: NewEvent, *, event_id: str, now: float) -> AcceptedEvent:
    """Build the envelope of a checked event; `now` is its time if the producer gave none."""
    timestamp = now if new.timestamp is None else parse_iso(new.timestamp)
    return AcceptedEvent(
        id=event_id,
        type=new.type,
        organization_id=new.organization_id,
        ordering_key=new.ordering_key,
        traceparent=new.traceparent,
        timestamp=timestamp,
        accepted_at=now,
        body=seal_envelope(event_id, new.type, timestamp, bytes(new.data), new.organization_id),
    )


def seal_envelope(event_id: str, event_type: str, timestamp: float, data: bytes, organization_id: str | None) -> bytes:
    """Return the envelope around the unchanged bytes of `data`."""
    # Id, type and time were checked: they hold no character that JSON escapes.
    tail = b"}" if organization_id is None else b',"organizationId":' + _quote(organization_id) + b"}"
    head = f'{{"id":"{event_id}","type":"{event_type}","timestamp":"{iso(timestamp)}","data":'
    return head.encode() + data + tail


def check_json_text(text: bytes, *, most_values: int | None = None) -> None:
    """Raise Rejected MALFORMED_JSON unless `text` is UTF-8 and nested at most 128 deep.

    With `most_values`, also PAYLOAD_TOO_LARGE for more values, or a number of more than `MAX_JSON_DIGITS` digits. Give
    it for a text that is decoded to objects: each value takes 50 times as long as a byte, and a number takes time
    quadratic in its length.
    """
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise Rejected(
            ErrorCode.MALFORMED_JSON, f"byte {error.start} isn't UTF-8; JSON is always UTF-8 (RFC 8259)"
        ) from error
    # Counting is quick and never too low: only a text that may be over a limit is examined further.
    brackets = text.count(b"{") + text.count(b"[")
    if most_values is not None:
        # Each value but the first follows a comma or a bracket.
        marks = brackets + text.count(b",")
        if marks >= most_values and len(outside_strings(text, b"{[,")) >= most_values:
            raise Rejected(
                ErrorCode.PAYLOAD_TOO_LARGE, f"the JSON holds too much; at most {most_values} values are accepted"
            )
        if has_long_number(text, MAX_JSON_DIGITS):
            raise Rejected(
                ErrorCode.PAYLOAD_TOO_LARGE,
                f"a number in the JSON is too long; at most {MAX_JSON_DIGITS} digits are accepted, and any in a string",
            )
    if brackets > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise Rejected(ErrorCode.MALFORMED_JSON, f"the JSON is nested more than {MAX_DEPTH} deep")


def decode_body(text: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON body.

    Raises Rejected: MALFORMED_JSON, PAYLOAD_TOO_LARGE, or VALIDATION_ERROR with JSON pointers, also if an object has a
    name twice.
    """
    text = text.removeprefix(BOM)
    check_json_text(text, most_values=MAX_JSON_VALUES)
    decoded = decode_json(text, decoder)
    if (repeated := find_repeated(text)) is not None:
        raise invalid(((repeated, "is repeated: remove one of the two"),))
    return decoded


def decode_json(text: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a checked text; Rejected MALFORMED_JSON, or VALIDATION_ERROR with JSON pointers.

    The number of its values must be bounded, as by `check_json_text`: to explain an error, all are examined.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise invalid(complaints(_document(text), decoder.type)) from error
    except _NOT_JSON as error:
        raise _malformed(text, error) from error


def invalid(found: tuple[tuple[str, str], ...], whole: str = "the body") -> Rejected:
    """Return VALIDATION_ERROR for a document with these errors, as (JSON pointer, what); `detail` is the first."""
    errors = found or (("", "isn't accepted"),)
    pointer, what = errors[0]
    return Rejected(ErrorCode.VALIDATION_ERROR, f"{pointer or whole}: {what}", errors=errors)


def _document(text: bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.ValidationError as error:  # a number of more digits than Python converts
        raise invalid((("", "a number in it is too large"),)) from error
    except _NOT_JSON as error:
        raise _malformed(text, error) from error


def _malformed(text: bytes, error: Exception) -> Rejected:
    return Rejected(ErrorCode.MALFORMED_JSON, f"not JSON: {reason(text, str(error))}")


def _event_complaints(line: bytes, refused: msgspec.ValidationError) -> tuple[tuple[str, str], ...]:
    """Return what is wrong with an event, without decoding its data, which may have any number of values."""
    try:
        members = _member_decoder.decode(line)
    except msgspec.ValidationError:
        return (("", "takes an object"),)
    except _NOT_JSON as error:
        raise _malformed(line, error) from error
    found: dict[str, object] = {
        field.encode_name: {} if field.name == "data" else _shortened(bytes(raw))
        for field in fields(_Members)
        if (raw := getattr(members, field.name)) is not UNSET
    }
    if unknown := str(refused).partition(_UNKNOWN)[2].removesuffix("`"):
        found.setdefault(unknown, None)
    return complaints(found, NewEvent)


def _shortened(value: bytes) -> object:
    """Decode the value of a field; if it is too long for any field, return a stand-in of its type."""
    if len(value) <= _LONGEST_MEMBER:
        return _document(value)
    if value.startswith(_QUOTES):
        return value.decode()
    return {} if value.startswith(b"{") else [] if value.startswith(b"[") else inf


def _check_once(line: bytes, new: NewEvent) -> None:
    """Raise Rejected VALIDATION_ERROR if an event has a field twice, of which the decoder silently takes the last.

    It counts quotes. Each name has two, and so has each value except `data`: if there are no more, no name is repeated.
    If there are, a null or a quote within a value may be the reason, so the quotes in each raw value are counted too.
    """
    optional = (new.id, new.timestamp, new.organization_id, new.ordering_key, new.traceparent)
    if _quotes_around(line, bytes(new.data)) == _LEAST_QUOTES - _QUOTES_OF_A_FIELD * optional.count(None):
        return
    members = _member_decoder.decode(line)
    values = [getattr(members, name) for name in members.__struct_fields__]
    if line.count(_QUOTES) == sum(2 + bytes(value).count(_QUOTES) for value in values if value is not UNSET):
        return
    pointer = find_repeated(line) if len(line) <= _LONGEST_NAMED else None
    if pointer is None or pointer.count("/") > 1:
        raise invalid((("", "has a field twice: remove one of the two"),), _EVENT)
    raise invalid(((pointer, "is repeated: remove one of the two"),))


def _quotes_around(line: bytes, data: bytes) -> int:
    """Return the number of quotes in an event outside its data; most lines have them in a few bytes."""
    head, name, tail = line.partition(_NAME_OF_DATA)
    tail = tail.lstrip()
    if tail.startswith(data):
        return head.count(_QUOTES) + name.count(_QUOTES) + tail.count(_QUOTES, len(data))
    return line.count(_QUOTES) - data.count(_QUOTES)


def _is_traceparent(text: str) -> bool:
    version, trace_id, parent_id, _ = text.split("-")
    return version != "ff" and trace_id.strip("0") != "" and parent_id.strip("0") != ""

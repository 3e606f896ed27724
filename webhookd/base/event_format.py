"""From a producer's bytes to the bytes every attempt sends: decoding, checking and the envelope.

The envelope is made once, when the event is accepted; `data` is carried byte for byte as it came. JSON is untrusted
here: it is checked as UTF-8, its depth is bounded before a parser sees it, and every failure is a `Rejected` that says
what and where.
"""

import re
from math import inf
from typing import TypeVar

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

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
MAX_JSON_DIGITS = 400  # the greatest double has 309
_OPENING_BRACE = ord("{")

_decoder = msgspec.json.Decoder(NewEvent)
_quote = msgspec.json.Encoder().encode
_NO_JSON = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_UNKNOWN = "unknown field `"
_LONGEST_MEMBER = 4096
_LONGEST_NAMED = 16_384
_EVENT = "the event"
_QUOTES = b'"'
_QUOTES_OF_A_FIELD = 4
_LEAST_QUOTES = 2 + 6 * _QUOTES_OF_A_FIELD  # of an event with all of its fields, but for those in its data
_TRACEPARENT = re.compile(TRACEPARENT_PATTERN)


class _Members(msgspec.Struct, rename="camel"):
    """The fields of an event as they stand in its text, the last one of each name."""

    type: msgspec.Raw | UnsetType = UNSET
    data: msgspec.Raw | UnsetType = UNSET
    id: msgspec.Raw | UnsetType = UNSET
    timestamp: msgspec.Raw | UnsetType = UNSET
    organization_id: msgspec.Raw | UnsetType = UNSET
    ordering_key: msgspec.Raw | UnsetType = UNSET
    traceparent: msgspec.Raw | UnsetType = UNSET


_member_decoder = msgspec.json.Decoder(_Members)


def decode_event(line: bytes, *, max_bytes: int) -> NewEvent:
    """Decode and check one submitted event.

    Raises Rejected: PAYLOAD_TOO_LARGE past `max_bytes`, MALFORMED_JSON for what isn't UTF-8 JSON or is nested deeper
    than 128, VALIDATION_ERROR (with JSON pointers) for what isn't an event or has a field twice.
    """
    if len(line) > max_bytes:
        raise Rejected(ErrorCode.PAYLOAD_TOO_LARGE, f"the event has {len(line)} bytes; at most {max_bytes} are taken")
    line = line.removeprefix(BOM)
    check_json_text(line)
    try:
        new = _decoder.decode(line)
    except msgspec.ValidationError as error:
        raise invalid(_event_complaints(line, error), _EVENT) from error
    except _NO_JSON as error:
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
    """Return the event in the trace of the request it came with, unless it names one; `header` is its `traceparent`.

    A header that isn't valid is as good as none (W3C Trace Context, section 3.2).
    """
    if new.traceparent is not None or header is None:
        return new
    is_valid = _TRACEPARENT.match(header) and _is_traceparent(header)
    return replace(new, traceparent=header) if is_valid else new


def accept(new: NewEvent, *, event_id: str, now: float) -> AcceptedEvent:
    """Fix the envelope of a checked event; `now` is its time where the producer stated none."""
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
    """Join the envelope around `data`, whose bytes stay as they are."""
    # Id, type and time are checked to hold no character that JSON escapes; so is an organization.
    tail = b"}" if organization_id is None else b',"organizationId":' + _quote(organization_id) + b"}"
    head = f'{{"id":"{event_id}","type":"{event_type}","timestamp":"{iso(timestamp)}","data":'
    return head.encode() + data + tail


def check_json_text(text: bytes, *, most_values: int | None = None) -> None:
    """Raise Rejected MALFORMED_JSON unless `text` is UTF-8 and nested at most 128 deep.

    With `most_values` it is decoded to objects, which costs the loop 50 times as much for each of them as for a byte,
    and the square of its length for each number: PAYLOAD_TOO_LARGE where it may hold more values, or a number is of
    more than `MAX_JSON_DIGITS` digits.
    """
    try:
        text.decode()
    except UnicodeDecodeError as error:
        raise Rejected(
            ErrorCode.MALFORMED_JSON, f"byte {error.start} isn't UTF-8; JSON is always UTF-8 (RFC 8259)"
        ) from error
    # Counting is quick and never too low, so only what might be too much, or too deep, is looked at closely.
    brackets = text.count(b"{") + text.count(b"[")
    # Each value but the first stands behind a comma or a bracket.
    marks = brackets + text.count(b",")
    if most_values is not None and marks >= most_values and len(outside_strings(text, b"{[,")) >= most_values:
        raise Rejected(ErrorCode.PAYLOAD_TOO_LARGE, f"the JSON holds too much; at most {most_values} values are taken")
    if most_values is not None and has_long_number(text, MAX_JSON_DIGITS):
        raise Rejected(
            ErrorCode.PAYLOAD_TOO_LARGE,
            f"a number in the JSON is too long; at most {MAX_JSON_DIGITS} digits are taken, and any number in a string",
        )
    if brackets > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise Rejected(ErrorCode.MALFORMED_JSON, f"the JSON is nested more than {MAX_DEPTH} deep")


def decode_body(text: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode a JSON body.

    Raises Rejected: MALFORMED_JSON, PAYLOAD_TOO_LARGE, or VALIDATION_ERROR with JSON pointers, also for a name that an
    object has twice.
    """
    text = text.removeprefix(BOM)
    check_json_text(text, most_values=MAX_JSON_VALUES)
    decoded = decode_json(text, decoder)
    if (repeated := find_repeated(text)) is not None:
        raise invalid(((repeated, "is there twice: leave one of the two out"),))
    return decoded


def decode_json(text: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode checked text; Rejected MALFORMED_JSON or VALIDATION_ERROR with the place of the failure.

    Its values must be bounded, as by `check_json_text`: where it isn't what the decoder takes, all are looked at.
    """
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise invalid(complaints(_document(text), decoder.type)) from error
    except _NO_JSON as error:
        raise _malformed(text, error) from error


def invalid(found: tuple[tuple[str, str], ...], whole: str = "the body") -> Rejected:
    """Return the refusal of a document with this wrong in it, as (JSON pointer, what); the first is told."""
    (pointer, what), *_ = told = found or (("", "isn't taken as it is"),)
    return Rejected(ErrorCode.VALIDATION_ERROR, f"{pointer or whole}: {what}", errors=tuple(told))


def _document(text: bytes) -> object:
    try:
        return msgspec.json.decode(text)
    except msgspec.ValidationError as error:  # of what takes anything: a number of more digits than Python reads
        raise invalid((("", "a number in it is too large"),)) from error
    except _NO_JSON as error:
        raise _malformed(text, error) from error


def _malformed(text: bytes, error: Exception) -> Rejected:
    return Rejected(ErrorCode.MALFORMED_JSON, f"not JSON: {reason(text, str(error))}")


def _event_complaints(line: bytes, refused: msgspec.ValidationError) -> tuple[tuple[str, str], ...]:
    """Return what is wrong with an event, without reading its data, which may hold any number of values."""
    try:
        members = _member_decoder.decode(line)
    except msgspec.ValidationError:
        return (("", "takes an object"),)
    except _NO_JSON as error:
        raise _malformed(line, error) from error
    found: dict[str, object] = {
        field.encode_name: {} if field.name == "data" else _glance(bytes(raw))
        for field in msgspec.structs.fields(_Members)
        if (raw := getattr(members, field.name)) is not UNSET
    }
    if unknown := str(refused).partition(_UNKNOWN)[2].removesuffix("`"):
        found.setdefault(unknown, None)
    return complaints(found, NewEvent)


def _glance(value: bytes) -> object:
    """Return a value that is as long as a field of an event may be; of a longer one what is enough to refuse it."""
    if len(value) <= _LONGEST_MEMBER:
        return _document(value)
    if value.startswith(_QUOTES):
        return value.decode()
    return {} if value.startswith(b"{") else [] if value.startswith(b"[") else inf


def _check_once(line: bytes, new: NewEvent) -> None:
    """Raise Rejected VALIDATION_ERROR where an event has a field twice: the decoder takes the last one in silence.

    Quotes are counted. Each name has two, and so has each value but the data's own; so where there are no more than
    that, no name is there twice. Where there are, a null or a quote within a value may be the reason: then they are
    counted in each value as it stands in the text.
    """
    optional = (new.id, new.timestamp, new.organization_id, new.ordering_key, new.traceparent)
    in_all = line.count(_QUOTES)
    if in_all - bytes(new.data).count(_QUOTES) == _LEAST_QUOTES - _QUOTES_OF_A_FIELD * optional.count(None):
        return
    members = _member_decoder.decode(line)
    values = [getattr(members, name) for name in members.__struct_fields__]
    if in_all == sum(2 + bytes(value).count(_QUOTES) for value in values if value is not UNSET):
        return
    pointer = find_repeated(line) if len(line) <= _LONGEST_NAMED else None
    if pointer is None or pointer.count("/") > 1:
        raise invalid((("", "has a field twice: leave one of the two out"),), _EVENT)
    raise invalid(((pointer, "is there twice: leave one of the two out"),))


def _is_traceparent(text: str) -> bool:
    version, trace_id, parent_id, _ = text.split("-")
    return version != "ff" and trace_id.strip("0") != "" and parent_id.strip("0") != ""

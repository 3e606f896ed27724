"""From a producer's bytes to the bytes every attempt sends: decoding, checking and the envelope.

The envelope is made once, when the event is accepted; `data` is carried byte for byte as it came. JSON is untrusted
here: it is checked as UTF-8, its depth is bounded before a parser sees it, and every failure is a `Rejected` that says
what and where.
"""

import re
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from webhookd.clock import iso, parse_iso
from webhookd.errors import ErrorCode, Rejected
from webhookd.jsontext import depth, outside_strings
from webhookd.models import TRACEPARENT_PATTERN, AcceptedEvent, NewEvent

T = TypeVar("T")

MAX_DEPTH = 128
_OPENING_BRACE = ord("{")

_decoder = msgspec.json.Decoder(NewEvent)
_quote = msgspec.json.Encoder().encode
_AT = " - at `$"
_LONGEST_PATH = 1024  # each level of the deepest JSON that is taken has at most 5 characters or a name of ours
_TRACEPARENT = re.compile(TRACEPARENT_PATTERN)


def decode_event(line: bytes, *, max_bytes: int) -> NewEvent:
    """Decode and check one submitted event.

    Raises Rejected: PAYLOAD_TOO_LARGE past `max_bytes`, MALFORMED_JSON for what isn't UTF-8 JSON or is nested deeper
    than 128, VALIDATION_ERROR (with JSON pointers) for what isn't an event.
    """
    if len(line) > max_bytes:
        raise Rejected(ErrorCode.PAYLOAD_TOO_LARGE, f"the event has {len(line)} bytes; at most {max_bytes} are taken")
    check_json_text(line)
    new = decode_json(line, _decoder)
    if memoryview(new.data)[0] != _OPENING_BRACE:
        raise _invalid("/data", "expected an object")
    if new.timestamp is not None:
        try:
            parse_iso(new.timestamp)
        except (ValueError, OverflowError) as error:
            raise _invalid("/timestamp", str(error)) from error
    if new.traceparent is not None and not _is_traceparent(new.traceparent):
        raise _invalid("/traceparent", "expected a W3C traceparent of version 00 to fe with ids that aren't all zeros")
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

    PAYLOAD_TOO_LARGE where it may hold more than `most_values`: what is decoded to objects costs the loop 50 times as
    much for each of them as for a byte.
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
    if brackets > MAX_DEPTH and depth(text) > MAX_DEPTH:
        raise Rejected(ErrorCode.MALFORMED_JSON, f"the JSON is nested more than {MAX_DEPTH} deep")


def decode_json(text: bytes, decoder: msgspec.json.Decoder[T]) -> T:
    """Decode checked text; Rejected MALFORMED_JSON or VALIDATION_ERROR with the place of the failure."""
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise _invalid(*locate(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Rejected(ErrorCode.MALFORMED_JSON, f"not JSON: {error}") from error


def locate(error: msgspec.ValidationError) -> tuple[str, str]:
    """Split msgspec's message into a JSON pointer (RFC 6901) and what is accepted there."""
    message = str(error)
    accepted, found, path = message.rpartition(_AT)
    # The message may hold a name of the sender's choice, which may look like a place as well.
    if not found or not path.endswith("`") or len(path) > _LONGEST_PATH:
        return "", message
    return _pointer(path.removesuffix("`")), accepted


def _pointer(path: str) -> str:
    """Return the JSON pointer of what msgspec writes as `.webhooks[0].url`."""
    names, *indexed = path.split("[")
    steps = names.split(".")[1:]
    for part in indexed:
        index, _, names = part.partition("]")
        steps += [index, *names.split(".")[1:]]
    return "".join("/" + step.strip("\"'").replace("~", "~0").replace("/", "~1") for step in steps)


def _invalid(pointer: str, accepted: str) -> Rejected:
    where = pointer or "the body"
    return Rejected(ErrorCode.VALIDATION_ERROR, f"{where}: {accepted}", errors=((pointer, accepted),))


def _is_traceparent(text: str) -> bool:
    version, trace_id, parent_id, _ = text.split("-")
    return version != "ff" and trace_id.strip("0") != "" and parent_id.strip("0") != ""

"""An event as a producer submits it, and its line, on the socket and over HTTP."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypedDict


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One event to submit; `data` is a JSON object, or its bytes, which reach the receivers unchanged.

    Without an `id` the client generates one.
    """

    type: str
    data: Mapping[str, object] | bytes
    id: str | None = None
    timestamp: str | None = None
    organization_id: str | None = None
    ordering_key: str | None = None
    traceparent: str | None = None


class EventFields(TypedDict, total=False):
    """The optional fields of an event, as keyword arguments of `send`."""

    timestamp: str | None
    organization_id: str | None
    ordering_key: str | None
    traceparent: str | None


def encode(event: Event, event_id: str) -> bytes:
    """Return the event's line with its newline; ValueError for data that JSON can't represent."""
    fields = {
        "type": event.type,
        "id": event_id,
        "timestamp": event.timestamp,
        "organizationId": event.organization_id,
        "orderingKey": event.ordering_key,
        "traceparent": event.traceparent,
    }
    head = _to_json({name: value for name, value in fields.items() if value is not None})
    data = event.data if isinstance(event.data, bytes) else _to_json(event.data)
    if b"\n" in data:
        raise ValueError("data given as bytes must not hold a newline: it ends the event's line")
    return head[:-1] + b',"data":' + data + b"}\n"


def _to_json(value: Mapping[str, object]) -> bytes:
    return json.dumps(dict(value), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()

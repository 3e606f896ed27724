"""The rows of a batch: what is stored of an event, a queued delivery and an attempt, in the order of the columns.

Pure, and the same for every engine.
"""

from itertools import accumulate
from operator import attrgetter

import msgspec
from msgspec.structs import astuple, replace

from webhookd.base.models import (
    AcceptedEvent,
    AttemptRecord,
    DeliveryError,
    DeliveryStatus,
    EndpointState,
    QueuedDelivery,
    Trigger,
)

_KEPT_HEADER_BYTES = 4 * 1024
_json = msgspec.json.Encoder().encode

Row = tuple[object, ...]

# Where a stored value comes from, by column: an attribute of the record, or of its outcome.
_ATTEMPT = {
    "delivery_pk": "delivery.pk",
    "number": "number",
    "id": "attempt_id",
    "trigger": "trigger",
    "started_at": "started_at",
    "error": "error",
    "retry_after_seconds": "retry_after_seconds",
}
_RESPONSE = {
    "duration_seconds": "duration_seconds",
    "remote_address": "remote_address",
    "response_status": "status",
    "response_body": "body",
    "detail": "detail",
}
_COUNTED = {"attempts": "number", "response_status": "outcome.status", "duration_seconds": "outcome.duration_seconds"}
_CHANGED = _COUNTED | {
    name: name for name in ("status", "refusals", "backoff_step", "next_attempt_at", "completed_at", "error")
}
_attempt_of = attrgetter(*_ATTEMPT.values())
_response_of = attrgetter(*_RESPONSE.values())
_counts_of = attrgetter("delivery.pk", *_COUNTED.values())
_changes_of = attrgetter("delivery.pk", *_CHANGED.values())

EVENT_COLUMNS = ("pk", "deliveries", *AcceptedEvent.__struct_fields__)
DELIVERY_COLUMNS = ("event_type", *QueuedDelivery.__struct_fields__)
ATTEMPT_COLUMNS = (*_ATTEMPT, *_RESPONSE, "response_headers", "truncated")
STATE_COLUMNS = EndpointState.__struct_fields__
"""The columns of `state_row` after the endpoint's row number."""
COUNT_COLUMNS = tuple(_COUNTED)
"""The columns of `count_row` after the delivery's row number: what each attempt changes."""
CHANGE_COLUMNS = (*_CHANGED, "trigger")
"""The columns of `change_row` after the delivery's row number: what an attempt changes of a delivery that waits."""


def event_row(pk: int, event: AcceptedEvent, deliveries: int) -> Row:
    """Return an event's row, with the number of its deliveries."""
    return (pk, deliveries, *astuple(event))


def delivery_row(queued: QueuedDelivery, event_type: str) -> Row:
    """Return a new delivery's row."""
    if queued.status is DeliveryStatus.CANCELED:  # it is never due
        queued = replace(queued, next_attempt_at=None)
    return (event_type, *astuple(queued))


def attempt_row(record: AttemptRecord) -> Row:
    """Return an attempt's row."""
    outcome = record.outcome
    headers, is_cut = _stored_headers(outcome.headers)
    return (*_attempt_of(record), *_response_of(outcome), headers, outcome.truncated or is_cut)


def change_row(record: AttemptRecord) -> Row:
    """Return the row number and the new state of the delivery that an attempt was for."""
    # An attempt that was interrupted is repeated for the same reason.
    trigger = record.trigger if record.error is DeliveryError.INTERRUPTED else Trigger.AUTO
    return (*_changes_of(record), trigger)


def count_row(record: AttemptRecord) -> Row:
    """Return the row number of the delivery that an attempt was for, and what changes even after it has ended."""
    row: Row = _counts_of(record)
    return row


def state_row(endpoint_pk: int, state: EndpointState) -> Row:
    """Return an endpoint's row number and its delivery state."""
    return (endpoint_pk, *astuple(state))


def _stored_headers(headers: tuple[tuple[str, str], ...]) -> tuple[str, bool]:
    """Return the first headers of a response that fit in 4 KiB, as JSON, and whether there are more.

    A receiver may send 60 KiB of headers in each response, to any number of attempts.
    """
    text = _json(headers)
    if len(text) <= _KEPT_HEADER_BYTES:
        return text.decode(), False
    lengths = accumulate(len(name) + len(value) for name, value in headers)
    fitting = sum(length <= _KEPT_HEADER_BYTES for length in lengths)
    return _json(headers[:fitting]).decode(), fitting < len(headers)

"""The request of one attempt: its headers, in the order the wire contract lists them."""

from collections.abc import Iterable

from webhookd.delivery.signing import Signer
from webhookd.hidden import Secret
from webhookd.models import Message
from webhookd.version import USER_AGENT


def compose(
    *,
    signer: Signer,
    custom: Iterable[tuple[str, Secret[str]]],
    message: Message,
    delivery_id: str,
    number: int,
    sequence: int | None,
    at: float,
) -> list[tuple[str, str]]:
    """Return the headers of attempt `number` (1-based) that starts `at`, signed afresh; `host` and length come later.

    `custom` are the webhook's own headers. `sequence` is None for a request that has no place in the endpoint's line.
    """
    timestamp = int(at)
    headers = [
        ("content-type", "application/json"),
        ("user-agent", USER_AGENT),
        ("webhook-id", message.event_id),
        ("webhook-timestamp", str(timestamp)),
        *signer.sign(event_id=message.event_id, timestamp=timestamp, body=message.body, now=at),
        ("x-webhook-event", message.type),
        ("x-webhook-delivery", delivery_id),
        ("x-webhook-attempt", str(number)),
    ]
    if sequence is not None:
        headers.append(("x-webhook-sequence", str(sequence)))
    if message.traceparent is not None:
        headers.append(("traceparent", message.traceparent))
    headers += [(name, value.reveal()) for name, value in custom]
    return headers

"""The request of one attempt: its headers, in the order of the contract."""

from typing import Protocol

from webhookd.base.models import Credentials, Endpoint, Message, Outcome
from webhookd.base.version import USER_AGENT
from webhookd.delivery import custom_headers
from webhookd.delivery.signing import Signer


class RequestSender(Protocol):
    """Sends requests; every outcome is a value."""

    async def send(
        self, *, endpoint_id: str, url: str, headers: list[tuple[str, str]], body: bytes, timeout_seconds: float
    ) -> Outcome:
        """Make one request."""
        ...

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        ...


class Receiver:
    """The URL, the signer and the headers of an endpoint, all read in one transaction.

    `revision` is that of the endpoint's lane at that moment.
    """

    __slots__ = ("headers", "revision", "signer", "url")

    def __init__(self, endpoint: Endpoint, credentials: Credentials, revision: int = 0) -> None:
        self.revision = revision
        self.url = endpoint.url
        self.signer = Signer(credentials, endpoint.signature)
        self.headers = custom_headers.sent(credentials.headers)


def compose(
    *, receiver: Receiver, message: Message, delivery_id: str, number: int, sequence: int | None, at: float
) -> list[tuple[str, str]]:
    """Return the signed headers of attempt `number` (1-based) that starts `at`; the transport adds host and length.

    `sequence` is None for a request that has no place in the endpoint's queue.
    """
    timestamp = int(at)
    headers = [
        ("content-type", "application/json"),
        ("user-agent", USER_AGENT),
        ("webhook-id", message.event_id),
        ("webhook-timestamp", str(timestamp)),
        *receiver.signer.sign(event_id=message.event_id, timestamp=timestamp, body=message.body, now=at),
        ("x-webhook-event", message.type),
        ("x-webhook-delivery", delivery_id),
        ("x-webhook-attempt", str(number)),
    ]
    if sequence is not None:
        headers.append(("x-webhook-sequence", str(sequence)))
    if message.traceparent is not None:
        headers.append(("traceparent", message.traceparent))
    headers += [(name, value.reveal()) for name, value in receiver.headers]
    return headers

"""The request of one attempt: its headers, in the order of the contract, and how it is handed to a sender."""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import trio

from webhookd.base.models import Credentials, Endpoint, Message, Outcome
from webhookd.base.version import USER_AGENT
from webhookd.delivery import custom_headers
from webhookd.delivery.signing import Signer


class Request(NamedTuple):
    """One POST request; the transport adds host and length to the headers."""

    endpoint_id: str
    url: str
    headers: list[tuple[str, str]]
    body: bytes
    timeout_seconds: float


Done = Callable[[Outcome | Exception], None]
"""Takes the outcome of a request, or the exception that a bug has raised; it must not raise."""


class Cancelable(Protocol):
    """A request that has been started, at `started_at` (trio's time)."""

    @property
    def started_at(self) -> float:
        """When it was started (trio's time)."""
        ...

    def cancel(self) -> None:
        """Cut it off: nothing is called any more."""
        ...


class RequestSender(Protocol):
    """Sends requests; every outcome is a value."""

    def start(self, request: Request, done: Done) -> Cancelable:
        """Start a request; `done` is called once, later, never during this call."""
        ...

    async def forget(self, endpoint_id: str) -> None:
        """Close the idle connections of an endpoint."""
        ...


async def send(sender: RequestSender, request: Request) -> Outcome:
    """Make a request and wait for its outcome; if the wait is canceled, the request is cut off."""
    results: list[Outcome | Exception] = []
    is_over = trio.Event()

    def done(result: Outcome | Exception) -> None:
        results.append(result)
        is_over.set()

    started = sender.start(request, done)
    try:
        await is_over.wait()
    finally:
        started.cancel()
    [result] = results
    if isinstance(result, Exception):
        raise result
    return result


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

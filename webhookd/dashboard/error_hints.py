"""What each error of a failed attempt means, and what to do about it."""

from collections.abc import Mapping

from webhookd.base.models import DeliveryError

REASONS: Mapping[DeliveryError, str] = {
    DeliveryError.TIMEOUT: "The response was not complete in time. A receiver should respond first, then process.",
    DeliveryError.DNS: "The receiver's host name can't be resolved.",
    DeliveryError.CONNECT: "The connection to the receiver failed: nothing listens there, or a firewall blocks it.",
    DeliveryError.TLS: "The TLS handshake failed: check the receiver's certificate, its chain and its name.",
    DeliveryError.PROTOCOL: "The response is not valid HTTP.",
    DeliveryError.REDIRECT: "The receiver redirects. Redirects are never followed: change the webhook's URL.",
    DeliveryError.BLOCKED: "The egress policy of this server doesn't allow the receiver's address.",
    DeliveryError.REFUSED: "The receiver refused this message; it may accept others.",
    DeliveryError.HTTP_4XX: "The receiver rejects every request: often a wrong path or missing credentials.",
    DeliveryError.HTTP_5XX: "The receiver failed with a server error.",
    DeliveryError.GONE: "The receiver answered that it is gone for good, so the webhook was disabled.",
    DeliveryError.THROTTLED: "The receiver asked to slow down: no request is sent until the pause ends.",
    DeliveryError.RECEIVER: "The receiver asked for this in its webhook-delivery header.",
    DeliveryError.INTERRUPTED: "The server stopped while the request was in flight. It doesn't count as a failure.",
    DeliveryError.EXPIRED: "The delivery reached its maximum age.",
}

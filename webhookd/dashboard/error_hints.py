"""What each code of a failed attempt means to somebody who has to do something about it."""

from collections.abc import Mapping

from webhookd.base.models import DeliveryError

REASONS: Mapping[DeliveryError, str] = {
    DeliveryError.TIMEOUT: "No whole answer came in time. A receiver should answer at once and work afterwards.",
    DeliveryError.DNS: "The name of the receiver's host doesn't resolve.",
    DeliveryError.CONNECT: "No connection to the receiver: nothing listens there, or a firewall is in between.",
    DeliveryError.TLS: "The TLS handshake failed: look at the receiver's certificate, its chain and its name.",
    DeliveryError.PROTOCOL: "What came back is no valid HTTP answer.",
    DeliveryError.REDIRECT: "The receiver redirects, and webhooks are never sent elsewhere: change the webhook's URL.",
    DeliveryError.BLOCKED: "The receiver's address is one that this server must not connect to (egress policy).",
    DeliveryError.REFUSED: "The receiver refused this message itself; other messages may go through.",
    DeliveryError.HTTP_4XX: "The receiver takes no requests like this: often a wrong path or missing credentials.",
    DeliveryError.HTTP_5XX: "The receiver failed on its side.",
    DeliveryError.GONE: "The receiver says that it is gone for good, so the webhook was disabled.",
    DeliveryError.THROTTLED: "The receiver asked to slow down; nothing is sent to it until its pause is over.",
    DeliveryError.RECEIVER: "The receiver asked for this itself, by its webhook-delivery header.",
    DeliveryError.INTERRUPTED: "The server stopped while the request was in flight; it counts against nobody.",
    DeliveryError.EXPIRED: "It grew too old to be delivered.",
}

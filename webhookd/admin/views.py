"""Converts rows of the journal to documents of the API."""

from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import asdict

from webhookd.admin.reason_text import reason_text
from webhookd.admin.schemas import AttemptView, DeliveryDetailView, DeliveryView, EventView, KeyView, Page, RequestView
from webhookd.admin.webhook_schemas import HealthView, Retry, Webhook, WebhookWithSecret
from webhookd.base.clock import iso
from webhookd.base.models import Endpoint
from webhookd.base.secret import Secret
from webhookd.config import DeliveryConfig
from webhookd.delivery.custom_headers import sent
from webhookd.delivery.policy.resolve import resolve
from webhookd.dispatch.health import EndpointHealth
from webhookd.journal import AttemptRow, DeliveryDetail, DeliveryRow, EventRow, KeyRow, RowPage

HIDDEN = "[hidden]"
R = TypeVar("R")
V = TypeVar("V")
D = TypeVar("D", bound=Struct)


class _Envelope(Struct):
    data: Raw


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def iso_or_none(at: float | None) -> str | None:
    """Format an optional time."""
    return None if at is None else iso(at)


def shown(kind: type[D], row: object, **own: object) -> D:
    """Return a document of the API with the fields of `row`, times as ISO-8601, and with those that are its `own`.

    A time's name ends with `at`.
    """
    fields = {name: getattr(row, name) for name in kind.__struct_fields__ if name not in own}
    times = {name: iso_or_none(at) for name, at in fields.items() if name.rpartition("_")[2] == "at"}
    return kind(**fields | times | own)


def page(found: RowPage[R], view: Callable[[R], V]) -> Page[V]:
    """Return a page of a list as the API shows it; `view` turns a row into a document."""
    return Page(data=[view(row) for row in found.items], next_cursor=found.next_cursor)


def webhook(endpoint: Endpoint, health: EndpointHealth, defaults: DeliveryConfig) -> Webhook:
    """Return an endpoint as the API shows it, with the settings in force."""
    policy = resolve(endpoint.overrides, defaults)
    return shown(
        Webhook,
        endpoint,
        ordering=policy.ordering,
        concurrency=policy.concurrency,
        rate_limit=policy.rate_limit,
        timeout_seconds=policy.timeout_seconds,
        retry=msgspec.convert(policy, Retry, from_attributes=True),
        breaker_threshold=policy.breaker_threshold,
        when_inactive=policy.when_inactive,
        headers=endpoint.header_names,
        health=shown(
            HealthView,
            health,
            reason=reason_text(health),
            node=None if health.driver is None else health.driver.name,
        ),
    )


def with_secret(view: Webhook, secret: Secret[str]) -> WebhookWithSecret:
    """Return a webhook with its secret, which is shown only once."""
    return WebhookWithSecret(**asdict(view), secret=secret.reveal())


def delivery(row: DeliveryRow, *, in_flight: bool) -> DeliveryView:
    """Return a delivery as lists of the API show it."""
    return shown(
        DeliveryView,
        row,
        webhook_id=row.endpoint_id,
        event=row.event_type,
        in_flight=in_flight,
        duration_ms=None if row.duration_seconds is None else round(row.duration_seconds * 1000),
    )


def attempt(row: AttemptRow) -> AttemptView:
    """Return an attempt as the API shows it."""
    headers: dict[str, str] = {}
    for name, value in row.response_headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return shown(
        AttemptView,
        row,
        duration_ms=round(row.duration_seconds * 1000),
        response_headers=headers,
        response_body=row.response_body.decode(errors="replace"),
    )


def detailed(view: DeliveryView, detail: DeliveryDetail, headers: dict[str, str]) -> DeliveryDetailView:
    """Return a delivery with its request and its attempts."""
    request = RequestView(url=detail.endpoint.url, headers=headers, body=detail.message.body.decode())
    return DeliveryDetailView(**asdict(view), request=request, attempt_log=[attempt(row) for row in detail.attempts])


def hidden_headers(endpoint: Endpoint) -> dict[str, str]:
    """Return the custom headers of an endpoint with hidden values."""
    return dict(sent((name, HIDDEN) for name in endpoint.header_names))


def event(row: EventRow) -> EventView:
    """Return an event as the API shows it."""
    return shown(EventView, row, timestamp=iso(row.timestamp), data=_envelope_decoder.decode(row.body).data)


def key(row: KeyRow, last_used_at: float | None) -> KeyView:
    """Return an API key as lists show it."""
    return shown(KeyView, row, last_used_at=iso_or_none(last_used_at))

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


class _Envelope(Struct):
    data: Raw


_envelope_decoder = msgspec.json.Decoder(_Envelope)


def iso_or_none(at: float | None) -> str | None:
    """Format an optional time."""
    return None if at is None else iso(at)


def page(found: RowPage[R], view: Callable[[R], V]) -> Page[V]:
    """Return a page of a list as the API shows it; `view` turns a row into a document."""
    return Page(data=[view(row) for row in found.items], next_cursor=found.next_cursor)


def webhook(endpoint: Endpoint, health: EndpointHealth, defaults: DeliveryConfig) -> Webhook:
    """Return an endpoint as the API shows it, with the settings in force."""
    policy = resolve(endpoint.overrides, defaults)
    return Webhook(
        id=endpoint.id,
        url=endpoint.url,
        events=endpoint.events,
        description=endpoint.description,
        is_active=endpoint.is_active,
        disabled_reason=endpoint.disabled_reason,
        disabled_at=iso_or_none(endpoint.disabled_at),
        organization_id=endpoint.organization_id,
        metadata=endpoint.metadata,
        ordering=policy.ordering,
        concurrency=policy.concurrency,
        rate_limit=policy.rate_limit,
        timeout_seconds=policy.timeout_seconds,
        retry=msgspec.convert(policy, Retry, from_attributes=True),
        breaker_threshold=policy.breaker_threshold,
        when_inactive=policy.when_inactive,
        headers=endpoint.header_names,
        signature=endpoint.signature,
        ed25519_public_key=endpoint.ed25519_public_key,
        secret_hint=endpoint.secret_hint,
        previous_secret_expires_at=iso_or_none(endpoint.previous_secret_expires_at),
        created_at=iso(endpoint.created_at),
        updated_at=iso(endpoint.updated_at),
        health=HealthView(
            breaker=health.breaker,
            sending=health.sending,
            reason=reason_text(health),
            queued=health.queued,
            parked=health.parked,
            oldest_pending_at=iso_or_none(health.oldest_pending_at),
            next_attempt_at=iso_or_none(health.next_attempt_at),
            consecutive_failures=health.consecutive_failures,
            last_success_at=iso_or_none(health.last_success_at),
            last_failure_at=iso_or_none(health.last_failure_at),
        ),
    )


def with_secret(view: Webhook, secret: Secret[str]) -> WebhookWithSecret:
    """Return a webhook with its secret, which is shown only once."""
    return WebhookWithSecret(**asdict(view), secret=secret.reveal())


def delivery(row: DeliveryRow, *, in_flight: bool) -> DeliveryView:
    """Return a delivery as lists of the API show it."""
    return DeliveryView(
        id=row.id,
        webhook_id=row.endpoint_id,
        event_id=row.event_id,
        event=row.event_type,
        sequence=row.sequence,
        status=row.status,
        in_flight=in_flight,
        attempts=row.attempts,
        refusals=row.refusals,
        next_attempt_at=iso_or_none(row.next_attempt_at),
        expires_at=iso(row.expires_at),
        response_status=row.response_status,
        error=row.error,
        created_at=iso(row.created_at),
        completed_at=iso_or_none(row.completed_at),
        duration_ms=None if row.duration_seconds is None else round(row.duration_seconds * 1000),
    )


def attempt(row: AttemptRow) -> AttemptView:
    """Return an attempt as the API shows it."""
    headers: dict[str, str] = {}
    for name, value in row.response_headers:
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return AttemptView(
        id=row.id,
        number=row.number,
        trigger=row.trigger,
        started_at=iso(row.started_at),
        duration_ms=round(row.duration_seconds * 1000),
        remote_address=row.remote_address,
        response_status=row.response_status,
        response_headers=headers,
        response_body=row.response_body.decode(errors="replace"),
        truncated=row.truncated,
        error=row.error,
        detail=row.detail,
        retry_after_seconds=row.retry_after_seconds,
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
    return EventView(
        id=row.id,
        type=row.type,
        timestamp=iso(row.timestamp),
        organization_id=row.organization_id,
        ordering_key=row.ordering_key,
        traceparent=row.traceparent,
        deliveries=row.deliveries,
        accepted_at=iso(row.accepted_at),
        data=_envelope_decoder.decode(row.body).data,
    )


def key(row: KeyRow, last_used_at: float | None) -> KeyView:
    """Return an API key as lists show it."""
    return KeyView(
        id=row.id,
        role=row.role,
        name=row.name,
        organization_id=row.organization_id,
        expires_at=iso_or_none(row.expires_at),
        last_used_at=iso_or_none(last_used_at),
        created_at=iso(row.created_at),
    )

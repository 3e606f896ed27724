"""From the journal's rows to the documents of the API."""

import base64
from collections.abc import Mapping
from typing import TypeVar

from webhookd.admin.schemas import HealthView, ListQuery, Retry, Webhook, WebhookWithSecret
from webhookd.clock import iso
from webhookd.config import DeliveryConfig
from webhookd.delivery.policy import resolve
from webhookd.errors import ErrorCode, Rejected
from webhookd.health import Health
from webhookd.hidden import Secret
from webhookd.models import Endpoint

MOST_ROWS = 100
T = TypeVar("T")


def iso_or_none(at: float | None) -> str | None:
    """Format a time that may be missing."""
    return None if at is None else iso(at)


def webhook(endpoint: Endpoint, health: Health, defaults: DeliveryConfig) -> Webhook:
    """Return an endpoint as the API shows it, with the policy in force."""
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
        retry=Retry(
            delays=policy.delays,
            jitter=policy.jitter,
            max_refusals=policy.max_refusals,
            max_age_seconds=policy.max_age_seconds,
            park_after=policy.park_after,
        ),
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
            reason=health.reason,
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
    """Return the same with the one showing of its secret."""
    return WebhookWithSecret(**{name: getattr(view, name) for name in view.__struct_fields__}, secret=secret.reveal())


def page_of(rows: Mapping[str, T], query: ListQuery, *, newest_first: bool = False) -> tuple[list[T], str | None]:
    """Cut a page out of a short list that is held whole, ordered by its keys; Rejected INVALID_CURSOR."""
    names = sorted(rows, reverse=newest_first)
    if query.cursor is not None:
        last = _open_cursor(query.cursor)
        names = [name for name in names if (name < last if newest_first else name > last)]
    limit = min(query.limit, MOST_ROWS)
    next_cursor = base64.urlsafe_b64encode(names[limit - 1].encode()).decode() if len(names) > limit else None
    return [rows[name] for name in names[:limit]], next_cursor


def _open_cursor(cursor: str) -> str:
    try:
        return base64.b64decode(cursor, altchars=b"-_", validate=True).decode()
    except ValueError as error:
        raise Rejected(ErrorCode.INVALID_CURSOR, "the cursor isn't one that this list gave out") from error

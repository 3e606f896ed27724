"""Webhooks as JSON: the settings that a client sends, and the webhook that the API answers with."""

from collections.abc import Mapping
from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from webhookd.admin.schemas import EventPattern, Input, Output
from webhookd.base.fields import BreakerThreshold, Concurrency, OrganizationId, TimeoutSeconds
from webhookd.base.models import (
    BreakerState,
    DisabledReason,
    Ordering,
    RateLimit,
    RetryOverrides,
    SignatureChoice,
    WhenInactive,
)
from webhookd.delivery.custom_headers import MOST_BYTES

OwnDelaySeconds = Annotated[float, Meta(ge=1, le=604_800)]
MetadataKey = Annotated[str, Meta(min_length=1, max_length=40)]
MetadataValue = Annotated[str, Meta(max_length=500)]


class RetrySettings(RetryOverrides, frozen=True, kw_only=True):
    """The retry settings of a webhook.

    Only the server's defaults may have delays below a second: a hundred failing webhooks that are tried every 10 ms
    would slow down all others.
    """

    delays: Annotated[tuple[OwnDelaySeconds, ...], Meta(min_length=1, max_length=50)] | None = None


class WebhookSettings(Input, frozen=True, kw_only=True):
    """The settings of a webhook; null or a missing field means the server's default."""

    url: Annotated[str, Meta(min_length=1, max_length=2048, extra_json_schema={"format": "uri"})]
    events: Annotated[tuple[EventPattern, ...], Meta(min_length=1, max_length=100)]
    description: Annotated[str, Meta(max_length=500)] = ""
    is_active: bool = True
    metadata: Annotated[dict[MetadataKey, MetadataValue], Meta(max_length=50)] = msgspec.field(default_factory=dict)
    ordering: Ordering | None = None
    concurrency: Concurrency | None = None
    rate_limit: RateLimit | None = None
    timeout_seconds: TimeoutSeconds | None = None
    retry: RetrySettings = RetrySettings()
    breaker_threshold: BreakerThreshold | None = None
    when_inactive: WhenInactive | None = None
    headers: Annotated[
        dict[str, str],
        Meta(
            description=(
                "custom request headers, whose values are never shown again; names are case-insensitive, and names "
                f"and values have at most {MOST_BYTES} characters in total"
            )
        ),
    ] = msgspec.field(default_factory=dict)
    signature: SignatureChoice = SignatureChoice()


class NewWebhook(WebhookSettings, frozen=True, kw_only=True):
    """A webhook to be created; without `secret` a new one is generated."""

    organization_id: OrganizationId | None = None
    secret: Annotated[str, Meta(max_length=128)] | None = None


# Every setting, null for the server's default. It only describes: a patch is checked after it is merged.
WebhookPatch = msgspec.defstruct(
    "WebhookPatch",
    [(field.name, field.type | UnsetType | None, UNSET) for field in msgspec.structs.fields(WebhookSettings)],
    bases=(Input,),
    frozen=True,
    kw_only=True,
)


class Rotation(Input, frozen=True, kw_only=True):
    """How to rotate a secret; both secrets sign during the overlap."""

    overlap_seconds: Annotated[float, Meta(ge=0, le=604_800)] = 86_400
    secret: Annotated[str, Meta(max_length=128)] | None = None


class Retry(Output, frozen=True, kw_only=True):
    """The retry settings in force."""

    delays: tuple[float, ...]
    jitter: float
    max_refusals: int
    max_age_seconds: float
    park_after: int


class HealthView(Output, frozen=True, kw_only=True):
    """The health of a webhook; `reason` says in one sentence why no request is in flight.

    `node` is the name of the node that drives it, null for a journal in a file, or while no node drives it.
    """

    breaker: BreakerState
    sending: bool
    reason: str | None
    queued: int
    parked: int
    oldest_pending_at: str | None
    next_attempt_at: str | None
    consecutive_failures: int
    last_success_at: str | None
    last_failure_at: str | None
    node: str | None


class Webhook(Output, frozen=True, kw_only=True):
    """A webhook with the settings in force; `headers` are the names of its custom headers."""

    id: str
    url: str
    events: tuple[str, ...]
    description: str
    is_active: bool
    disabled_reason: DisabledReason | None
    disabled_at: str | None
    organization_id: str | None
    metadata: Mapping[str, str]
    ordering: Ordering
    concurrency: int
    rate_limit: RateLimit | None
    timeout_seconds: float
    retry: Retry
    breaker_threshold: int
    when_inactive: WhenInactive
    headers: tuple[str, ...]
    signature: SignatureChoice
    ed25519_public_key: str | None = msgspec.field(name="ed25519PublicKey")
    secret_hint: str
    previous_secret_expires_at: str | None
    created_at: str
    updated_at: str
    health: HealthView


class WebhookWithSecret(Webhook, frozen=True, kw_only=True):
    """A webhook with its secret, which is shown only once."""

    secret: str

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
    """The retry rules that a webhook may state for itself.

    Delays below a second are the operator's alone, as defaults: a hundred failing webhooks that are tried every 10 ms
    take the machine from all others.
    """

    delays: Annotated[tuple[OwnDelaySeconds, ...], Meta(min_length=1, max_length=50)] | None = None


class WebhookSettings(Input, frozen=True, kw_only=True):
    """What can be set of a webhook at any time; null or absent means the server's own."""

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
                "custom request headers, the values of which are never shown again; names count without regard to "
                f"case, and names and values have at most {MOST_BYTES} characters in all"
            )
        ),
    ] = msgspec.field(default_factory=dict)
    signature: SignatureChoice = SignatureChoice()


class NewWebhook(WebhookSettings, frozen=True, kw_only=True):
    """A webhook to be created; without `secret` one is made."""

    organization_id: OrganizationId | None = None
    secret: Annotated[str, Meta(max_length=128)] | None = None


# Every setting, and null for the server's own. Only described here: a patch is checked once it is merged.
WebhookPatch = msgspec.defstruct(
    "WebhookPatch",
    [(field.name, field.type | UnsetType | None, UNSET) for field in msgspec.structs.fields(WebhookSettings)],
    bases=(Input,),
    frozen=True,
    kw_only=True,
)


class Rotation(Input, frozen=True, kw_only=True):
    """How to change a secret; for the overlap both sign."""

    overlap_seconds: Annotated[float, Meta(ge=0, le=604_800)] = 86_400
    secret: Annotated[str, Meta(max_length=128)] | None = None


class Retry(Output, frozen=True, kw_only=True):
    """The retry rules in force."""

    delays: tuple[float, ...]
    jitter: float
    max_refusals: int
    max_age_seconds: float
    park_after: int


class HealthView(Output, frozen=True, kw_only=True):
    """How a webhook is; `reason` says in one sentence why nothing is being sent."""

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


class Webhook(Output, frozen=True, kw_only=True):
    """A webhook with the policy in force for it; `headers` are the names of its custom headers."""

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
    """A webhook and the one showing of its secret."""

    secret: str

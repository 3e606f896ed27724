"""What the journal's queries take and give, as plain data. Times are epoch seconds."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

from webhookd.base.models import (
    DeliveryError,
    DeliveryStatus,
    Endpoint,
    Message,
    Ordering,
    PolicyOverrides,
    QueuedDelivery,
    ReplayKind,
    ReplayStatus,
    Role,
    SignatureChoice,
    Trigger,
)
from webhookd.base.secret import Secret

T = TypeVar("T")


class RowPage(Struct, Generic[T], frozen=True, kw_only=True):
    """One page of a list, and the opaque cursor of the next one (None: this was the last)."""

    items: list[T]
    next_cursor: str | None


class WindowRequest(Struct, frozen=True, kw_only=True):
    """Which part of an endpoint's queue an actor asks for; see `windows.read`.

    `floor` is a sequence below which nothing is pending, as far as the asker knows: 0 after a new `Window.edition`.
    """

    endpoint_pk: int
    ordering: Ordering
    limit: int
    now: float
    blocked_keys: frozenset[str]
    in_flight: frozenset[int]
    floor: int = 0


class Window(Struct, frozen=True, kw_only=True):
    """A part of an endpoint's queue.

    `pending`: pending deliveries in the order they go; `parked`: parked ones that are due; `expired`: those of both
    kinds whose age has passed, which are in neither. `complete`: `pending` holds all that is pending and may be sent.
    `next_attempt_at`: the earliest later moment at which a parked delivery (out of strict order: or a pending one)
    falls due; `next_expiry_at`: the earliest expiry. `last_sequence` is that of the delivery that was queued last;
    `edition` is another one once what was queued before has been changed by a retry, a recover or a cancelation.
    """

    pending: tuple[QueuedDelivery, ...]
    parked: tuple[QueuedDelivery, ...]
    expired: tuple[QueuedDelivery, ...]
    complete: bool
    next_attempt_at: float | None
    next_expiry_at: float | None
    last_sequence: int
    edition: int = 0


class NewEndpoint(Struct, frozen=True, kw_only=True):
    """A webhook to be registered."""

    id: str
    url: str
    events: tuple[str, ...]
    secret: Secret[str]
    created_at: float
    secret_hint: str
    ed25519_secret: Secret[str] | None = None
    ed25519_public_key: str | None = None
    description: str = ""
    is_active: bool = True
    organization_id: str | None = None
    metadata: Mapping[str, str] = {}
    overrides: PolicyOverrides = PolicyOverrides()
    signature: SignatureChoice = SignatureChoice()
    headers: tuple[tuple[str, Secret[str]], ...] = ()


class EndpointChanges(Struct, frozen=True, kw_only=True):
    """What of a webhook changes; UNSET stays as it is.

    Switching off sets `disabled_reason` manual and `disabled_at`, switching on clears both. An ed25519 key, once made,
    stays: `ed25519_secret` is only given where the webhook has none yet.
    """

    url: str | UnsetType = UNSET
    events: tuple[str, ...] | UnsetType = UNSET
    description: str | UnsetType = UNSET
    is_active: bool | UnsetType = UNSET
    organization_id: str | UnsetType | None = UNSET
    metadata: Mapping[str, str] | UnsetType = UNSET
    overrides: PolicyOverrides | UnsetType = UNSET
    signature: SignatureChoice | UnsetType = UNSET
    headers: tuple[tuple[str, Secret[str]], ...] | UnsetType = UNSET
    ed25519_secret: Secret[str] | UnsetType = UNSET
    ed25519_public_key: str | UnsetType = UNSET


EndpointCondition = Callable[[Endpoint], None]
"""Raises Rejected if the webhook must not be changed in its present state."""


class QueueFacts(Struct, frozen=True, kw_only=True):
    """What an endpoint has queued; `next_attempt_at` is when its line, or something parked, falls due."""

    queued: int
    parked: int
    oldest_pending_at: float | None
    next_attempt_at: float | None


class Census(Struct, frozen=True, kw_only=True):
    """What waits, and how the webhooks are that haven't been deleted; `breakers` as their last attempts left them.

    `oldest_pending_at` is when the oldest event came whose delivery an active webhook waits for.
    """

    pending: int
    parked: int
    oldest_pending_at: float | None
    active_endpoints: int
    inactive_endpoints: int
    breakers: Mapping[str, int]


class WebhookOrder(StrEnum):
    """By what a list of webhooks is sorted."""

    CREATED = "created"
    URL = "url"
    TROUBLE = "trouble"
    QUEUED = "queued"


class WebhookKind(StrEnum):
    """Which webhooks a list is narrowed down to."""

    TROUBLED = "troubled"
    ON = "on"
    OFF = "off"


class WebhookSearch(Struct, frozen=True, kw_only=True):
    """What to look for: `text` in URL, description, organization or as the start of the id; `descending` as sorted."""

    organization_id: str | None
    text: str = ""
    kind: WebhookKind | None = None
    order: WebhookOrder = WebhookOrder.CREATED
    descending: bool = True
    limit: int = 25
    offset: int = 0


class FoundWebhooks(Struct, frozen=True, kw_only=True):
    """A part of what was found, and how many there are of it in all."""

    endpoints: list[Endpoint]
    total: int


class Situation(Struct, frozen=True, kw_only=True):
    """What waits, and how many webhooks are in which state: of one organization, or of all.

    `oldest_pending_at` is that of webhooks which are switched on: the others hold on purpose.
    """

    webhooks: int
    off: int
    troubled: int
    open: int
    pending: int
    parked: int
    oldest_pending_at: float | None


class DeliveryRow(Struct, frozen=True, kw_only=True):
    """A delivery as lists show it; `duration_seconds` is its last attempt's."""

    pk: int
    id: str
    endpoint_pk: int
    endpoint_id: str
    event_pk: int
    event_id: str
    event_type: str
    sequence: int
    status: DeliveryStatus
    attempts: int
    refusals: int
    next_attempt_at: float | None
    expires_at: float
    response_status: int | None
    error: DeliveryError | None
    created_at: float
    completed_at: float | None
    duration_seconds: float | None


class AttemptRow(Struct, frozen=True, kw_only=True):
    """One attempt of a delivery."""

    id: str
    number: int
    trigger: Trigger
    started_at: float
    duration_seconds: float
    remote_address: str | None
    response_status: int | None
    response_headers: tuple[tuple[str, str], ...]
    response_body: bytes
    truncated: bool
    error: DeliveryError | None
    detail: str
    retry_after_seconds: float | None


class DeliveryDetail(Struct, frozen=True, kw_only=True):
    """A delivery with all there is to know: its endpoint (deleted ones too), what it sends, its last attempts."""

    row: DeliveryRow
    endpoint: Endpoint
    endpoint_is_deleted: bool
    message: Message
    attempts: list[AttemptRow]


class EventRow(Struct, frozen=True, kw_only=True):
    """An event of the feed; `body` is the envelope."""

    pk: int
    id: str
    type: str
    organization_id: str | None
    ordering_key: str | None
    traceparent: str | None
    timestamp: float
    accepted_at: float
    deliveries: int
    body: bytes


class FoundEvents(Struct, frozen=True, kw_only=True):
    """A page of a search, newest first; without `has_ended` there may be more, from `next_cursor` on.

    `looked_back_to` is when the last event came that was looked at; None where that is the page's last one.
    """

    items: list[EventRow]
    next_cursor: str | None
    looked_back_to: float | None


class Selection(Struct, frozen=True, kw_only=True):
    """What to recover or replay for an endpoint: times are epoch seconds, `since` inclusive, `until` not.

    `events` are patterns that narrow it down, empty for all; `subscribed` are the endpoint's own, which a replay keeps
    to, as it does to the endpoint's `organization_id`.
    """

    endpoint_pk: int
    kind: ReplayKind
    since: float
    until: float
    events: tuple[str, ...]
    subscribed: tuple[str, ...]
    organization_id: str | None


class QueuedAs(Struct, frozen=True, kw_only=True):
    """How a step queues: when, for how long, and as what where the endpoint is switched off and drops."""

    at: float
    max_age_seconds: float
    status: DeliveryStatus


class ReplayMatch(Struct, frozen=True, kw_only=True):
    """What a recover or replay matches: how many, and the range of row numbers that holds all of them."""

    count: int
    first: int
    last: int


class ReplayRow(Struct, frozen=True, kw_only=True):
    """A recover or replay: `matched` is what it found when it was asked for, `queued` what it has made go so far."""

    id: str
    endpoint_pk: int
    kind: ReplayKind
    since: float
    until: float
    events: tuple[str, ...]
    last: int
    position: int
    matched: int
    queued: int
    status: ReplayStatus
    created_at: float


class KeptAnswer(Struct, frozen=True, kw_only=True):
    """An answer kept for an Idempotency-Key of one caller and route; `sealed` is its body and headers."""

    caller: str
    route: str
    key: str
    body_hash: bytes
    status: int
    sealed: bytes
    created_at: float


class EventTypeRow(Struct, frozen=True, kw_only=True):
    """A name of the catalogue; `schema_json` and `example_json` are JSON text."""

    name: str
    description: str = ""
    schema_json: str | None = None
    example_json: str | None = None
    deprecated: bool = False


EventTypeCondition = Callable[[EventTypeRow | None], None]
"""Raises Rejected if the event type must not be changed in its present state; None: the catalogue has no such name."""


class KeyRow(Struct, frozen=True, kw_only=True):
    """An API key without its text."""

    id: str
    role: Role
    name: str
    organization_id: str | None
    key_hash: bytes
    created_at: float
    expires_at: float | None
    last_used_at: float | None = None

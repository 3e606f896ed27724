"""The parameters and results of the journal's queries, as plain data. Times are epoch seconds."""

from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Generic, TypeVar

from msgspec import UNSET, Struct, UnsetType

from webhookd.base.models import (
    AcceptedEvent,
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
from webhookd.journal.floors import NO_FLOORS, Floors

T = TypeVar("T")


class RowPage(Struct, Generic[T], frozen=True, kw_only=True):
    """A page of a list, and the opaque cursor of the next page (None: this is the last one)."""

    items: list[T]
    next_cursor: str | None


class WindowRequest(Struct, frozen=True, kw_only=True):
    """The part of an endpoint's queue that an actor requests; see `windows.read`.

    `floors` are those of the last window, if nothing that they don't cover was changed since.
    """

    endpoint_pk: int
    ordering: Ordering
    limit: int
    now: float
    blocked_keys: frozenset[str]
    in_flight: frozenset[int]
    floors: Floors = NO_FLOORS


class Window(Struct, frozen=True, kw_only=True):
    """A part of an endpoint's queue.

    `pending` are pending deliveries in the order in which they are sent; `parked` are parked deliveries that are due;
    `expired` are those that would be in one of them, but are older than they may be. `complete` says that `pending` has
    all pending deliveries that may be sent. `next_attempt_at` is the earliest later time at which a parked delivery
    (without strict order, also a pending one) is due. `last_sequence` is the last one that was assigned; `edition`
    changes when a retry, a recover, a cancelation or a change that forgives changes deliveries that were queued before.
    `floors` are for the next request.
    """

    pending: tuple[QueuedDelivery, ...]
    parked: tuple[QueuedDelivery, ...]
    expired: tuple[QueuedDelivery, ...]
    complete: bool
    next_attempt_at: float | None
    last_sequence: int
    edition: int = 0
    floors: Floors = NO_FLOORS


class Expired(Struct, frozen=True, kw_only=True):
    """Queued deliveries of any endpoints that are older than they may be.

    `complete` says that there are no more of them. `next_expiry_at` is the earliest later expiry, None without one.
    """

    deliveries: list[QueuedDelivery]
    complete: bool
    next_expiry_at: float | None


class NewEndpoint(Struct, frozen=True, kw_only=True):
    """The settings and secrets of a new webhook."""

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
    """The settings of a webhook that change; those that are UNSET don't.

    Disabling sets `disabled_reason` to manual and sets `disabled_at`; enabling clears both. An ed25519 key never
    changes: `ed25519_secret` is given only if the webhook has none yet.
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
    """What an endpoint has queued; `next_attempt_at` is when its queue, or a parked delivery, is due."""

    queued: int
    parked: int
    oldest_pending_at: float | None
    next_attempt_at: float | None


class Census(Struct, frozen=True, kw_only=True):
    """The numbers of queued deliveries, and of webhooks by state, without deleted ones.

    `oldest_pending_at` is when the oldest delivery that an active webhook has queued was created. `breakers` counts the
    webhooks by the state of their circuit breaker.
    """

    pending: int
    parked: int
    oldest_pending_at: float | None
    active_endpoints: int
    inactive_endpoints: int
    breakers: Mapping[str, int]


class WebhookOrder(StrEnum):
    """How a list of webhooks is sorted."""

    CREATED = "created"
    URL = "url"
    TROUBLE = "trouble"
    QUEUED = "queued"


class WebhookKind(StrEnum):
    """A filter of a list of webhooks: those that need attention, the enabled or the disabled ones."""

    TROUBLED = "troubled"
    ON = "on"
    OFF = "off"


class WebhookSearch(Struct, frozen=True, kw_only=True):
    """A search of webhooks: `text` is in the URL, the description or the organization, or the start of the id."""

    organization_id: str | None
    text: str = ""
    kind: WebhookKind | None = None
    order: WebhookOrder = WebhookOrder.CREATED
    descending: bool = True
    limit: int = 25
    offset: int = 0


class FoundWebhooks(Struct, frozen=True, kw_only=True):
    """A part of the webhooks that a search finds, and their total number."""

    endpoints: list[Endpoint]
    total: int


class Situation(Struct, frozen=True, kw_only=True):
    """The numbers of webhooks by state, and of their queued deliveries: of one organization, or of all.

    `oldest_pending_at` leaves out disabled webhooks, which hold their deliveries on purpose.
    """

    webhooks: int
    off: int
    troubled: int
    open: int
    pending: int
    parked: int
    oldest_pending_at: float | None


class DeliveryRow(Struct, frozen=True, kw_only=True):
    """A delivery as lists show it; `duration_seconds` is that of its last attempt."""

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
    """A delivery with its endpoint, which may be deleted, its message and its last attempts."""

    row: DeliveryRow
    endpoint: Endpoint
    endpoint_is_deleted: bool
    message: Message
    attempts: list[AttemptRow]


class EventRow(AcceptedEvent, frozen=True, kw_only=True):
    """A stored event; `deliveries` is how many it had when it was stored."""

    pk: int
    deliveries: int


class FoundEvents(Struct, frozen=True, kw_only=True):
    """A page of a search for events, newest first; without a `next_cursor` it is the last one.

    `looked_back_to` is when the last event that was looked at was accepted; None if that is the page's last event.
    """

    items: list[EventRow]
    next_cursor: str | None
    looked_back_to: float | None


class Selection(Struct, frozen=True, kw_only=True):
    """What to recover or replay for an endpoint; `since` is inclusive, `until` is not.

    `events` are the patterns to select, empty for all. A replay selects only events that match `subscribed`, the
    endpoint's own patterns, and its `organization_id`.
    """

    endpoint_pk: int
    kind: ReplayKind
    since: float
    until: float
    events: tuple[str, ...]
    subscribed: tuple[str, ...]
    organization_id: str | None


class QueuedAs(Struct, frozen=True, kw_only=True):
    """How a step queues deliveries; `status` is CANCELED if the endpoint is disabled and drops its events."""

    at: float
    max_age_seconds: float
    status: DeliveryStatus


class ReplayMatch(Struct, frozen=True, kw_only=True):
    """What a recover or replay matches: how many rows, and the lowest and highest of their numbers."""

    count: int
    first: int
    last: int


class ReplayRow(Struct, frozen=True, kw_only=True):
    """A recover or replay; `matched` is how many rows it found when it was started, `queued` how many it has queued."""

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
    """The answer to a request with an Idempotency-Key, for one caller and route; `sealed` is its body and headers.

    `is_running`: there is no answer yet, and another process is working on the request.
    """

    caller: str
    route: str
    key: str
    body_hash: bytes
    status: int
    sealed: bytes
    created_at: float
    is_running: bool = False


class EventTypeRow(Struct, frozen=True, kw_only=True):
    """An event type of the catalogue; `schema_json` and `example_json` are JSON text."""

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


class Contents(Struct, frozen=True, kw_only=True):
    """What a journal contains; `pending` includes parked deliveries.

    `last_event_at` is None if there is no event, `key_id` is the id of the master key that opens it, if it has one.
    `counters` are the last row numbers that were assigned, by table.
    """

    version: int
    bytes: int
    events: int
    deliveries: int
    pending: int
    last_event_at: float | None
    key_id: str | None
    counters: tuple[tuple[object, ...], ...]


CopyReport = Callable[[int, int], None]
"""Gets the number of copied pages and of all pages of a backup; they are equal once the copy is being verified."""

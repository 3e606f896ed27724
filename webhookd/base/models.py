"""The vocabulary of the server: what the layers above hand to one another.

Everything here is immutable data without behaviour that needs a clock or I/O. Times are epoch seconds cut to the
millisecond; `pk` is the journal's row number and never leaves the process, `id` is the public name.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, Struct

from webhookd.base.secret import Secret


class Ordering(StrEnum):
    """How the deliveries of one endpoint follow each other."""

    STRICT = "strict"
    KEY = "key"
    NONE = "none"


class WhenInactive(StrEnum):
    """What becomes of an event for an endpoint that is switched off."""

    HOLD = "hold"
    DROP = "drop"


class SignatureForm(StrEnum):
    """The form of the `x-webhook-signature` header."""

    TIMESTAMPED = "timestamped"
    HEX = "hex"
    SHA256_HEX = "sha256=hex"
    OFF = "off"


class DisabledReason(StrEnum):
    """Why a webhook is off."""

    MANUAL = "manual"
    FAILING = "failing"
    GONE = "gone"
    RECEIVER = "receiver"


class DeliveryStatus(StrEnum):
    """Where a delivery is in its life; `PENDING` and `PARKED` are still to be sent."""

    PENDING = "pending"
    PARKED = "parked"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"


class Trigger(StrEnum):
    """What caused an attempt."""

    AUTO = "auto"
    MANUAL = "manual"
    RECOVER = "recover"
    REPLAY = "replay"
    TEST = "test"


class ReplayKind(StrEnum):
    """What a replay does: send failed deliveries again, or make new deliveries of events."""

    RECOVER = "recover"
    REPLAY = "replay"


class ReplayStatus(StrEnum):
    """Where a recover or replay is."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"


class BreakerState(StrEnum):
    """The circuit breaker of one endpoint."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


class Role(StrEnum):
    """What an API key may do."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"
    INGEST = "ingest"


class DeliveryError(StrEnum):
    """The stable code of what went wrong with an attempt or a delivery."""

    TIMEOUT = "timeout"
    DNS = "dns"
    CONNECT = "connect"
    TLS = "tls"
    PROTOCOL = "protocol"
    REDIRECT = "redirect"
    BLOCKED = "blocked"
    REFUSED = "refused"
    HTTP_4XX = "http_4xx"
    HTTP_5XX = "http_5xx"
    GONE = "gone"
    THROTTLED = "throttled"
    RECEIVER = "receiver"
    INTERRUPTED = "interrupted"
    EXPIRED = "expired"


class OperationalEvent(StrEnum):
    """What webhookd itself reports; a webhook gets these only where it names them."""

    FAILING = "webhook.failing"
    RECOVERED = "webhook.recovered"
    DISABLED = "webhook.disabled"
    DELIVERY_FAILED = "delivery.failed"


OPERATIONAL_EVENTS = frozenset(event.value for event in OperationalEvent)
TEST_EVENT = "webhook.test"

STARTING_EVENT_TYPES = (
    "user.created",
    "user.updated",
    "user.deleted",
    "user.email_verified",
    "organization.created",
    "organization.updated",
    "organization.deleted",
    "organization.member_added",
    "organization.member_removed",
    "subscription.created",
    "subscription.updated",
    "subscription.canceled",
    "subscription.renewed",
    "security.account_locked",
    "security.suspicious_login",
    "security.2fa_enabled",
    "security.2fa_disabled",
)

EVENT_TYPE_PATTERN = r"^[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\Z"
ORGANIZATION_PATTERN = r"^[A-Za-z0-9_.:-]{1,64}\Z"
# W3C Trace Context, section 3.2: version, trace, parent and flags.
TRACEPARENT_PATTERN = r"^[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}\Z"
EVENT_ID_PATTERN = r"^[A-Za-z0-9_-]{1,64}\Z"

ACCEPTS = "accepts"
"""The key of `Meta.extra` under which a type says in words what it takes, where a pattern alone would have to."""

_TYPE_WORDS = "words of letters, digits, _ and - joined by dots, such as user.created, of at most 128 characters"
_TIME_WORDS = "an ISO-8601 time with a zone, such as 2025-01-31T12:00:00.000Z"
EventTypeName = Annotated[
    str, Meta(min_length=1, max_length=128, pattern=EVENT_TYPE_PATTERN, extra={ACCEPTS: _TYPE_WORDS})
]
EventId = Annotated[str, Meta(pattern=EVENT_ID_PATTERN, extra={ACCEPTS: "1 to 64 letters, digits, _ and -"})]
OrganizationId = Annotated[
    str, Meta(pattern=ORGANIZATION_PATTERN, extra={ACCEPTS: "1 to 64 letters, digits, _ . : and -"})
]
Traceparent = Annotated[
    str,
    Meta(
        pattern=TRACEPARENT_PATTERN,
        extra={ACCEPTS: "a W3C traceparent, such as 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"},
    ),
]
Time = Annotated[str, Meta(max_length=40, extra_json_schema={"format": "date-time"}, extra={ACCEPTS: _TIME_WORDS})]

# Bounds shared by the server-wide defaults and by what a webhook may ask for itself.
DelaySeconds = Annotated[float, Meta(ge=0.01, le=604_800)]
RetryDelays = Annotated[tuple[DelaySeconds, ...], Meta(min_length=1, max_length=50)]
Jitter = Annotated[float, Meta(ge=0, le=1)]
MaxRefusals = Annotated[int, Meta(ge=1, le=1000)]
MaxAgeSeconds = Annotated[float, Meta(ge=1, le=2_592_000)]
ParkAfter = Annotated[int, Meta(ge=1, le=1000)]
TimeoutSeconds = Annotated[float, Meta(ge=1, le=30)]
BreakerThreshold = Annotated[int, Meta(ge=1, le=1000)]
RatePerSecond = Annotated[float, Meta(ge=0.01, le=10_000)]
RateBurst = Annotated[int, Meta(ge=1, le=10_000)]
Concurrency = Annotated[int, Meta(ge=1, le=256)]


class _Data(Struct, frozen=True, kw_only=True, gc=False):
    """Base of the plain data below, which can hold no cycle: the collector needn't look at it."""


class _Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of what crosses an edge as JSON."""


class NewEvent(_Input, frozen=True, kw_only=True):
    """One event as a producer submits it, decoded and checked."""

    type: EventTypeName
    data: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
    id: EventId | None = None
    timestamp: Time | None = None
    organization_id: OrganizationId | None = None
    ordering_key: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    traceparent: Traceparent | None = None


class AcceptedEvent(_Data, frozen=True, kw_only=True):
    """An event whose envelope bytes are fixed: `body` is what every attempt sends."""

    id: str
    type: str
    organization_id: str | None
    ordering_key: str | None
    traceparent: str | None
    timestamp: float
    accepted_at: float
    body: bytes


class PublishResult(_Data, frozen=True, kw_only=True):
    """The answer to a submitted event, the same for each submission of its id."""

    id: str
    deliveries: int
    duplicate: bool


class Target(_Data, frozen=True, kw_only=True):
    """One endpoint that an event goes to; `status` is `PENDING`, or `CANCELED` where the endpoint drops events."""

    endpoint_pk: int
    status: DeliveryStatus
    max_age_seconds: float


class RateLimit(_Input, frozen=True, kw_only=True):
    """A token bucket: `per_second` tokens a second, at most `burst` saved up."""

    per_second: RatePerSecond
    burst: RateBurst = 1


class RetryOverrides(_Input, omit_defaults=True, frozen=True, kw_only=True):
    """The retry rules a webhook states for itself; None keeps the server's."""

    delays: RetryDelays | None = None
    jitter: Jitter | None = None
    max_refusals: MaxRefusals | None = None
    max_age_seconds: MaxAgeSeconds | None = None
    park_after: ParkAfter | None = None


class PolicyOverrides(_Input, omit_defaults=True, frozen=True, kw_only=True):
    """The delivery policy a webhook states for itself; None keeps the server's."""

    ordering: Ordering | None = None
    concurrency: Concurrency | None = None
    rate_limit: RateLimit | None = None
    timeout_seconds: TimeoutSeconds | None = None
    retry: RetryOverrides = RetryOverrides()
    breaker_threshold: BreakerThreshold | None = None
    when_inactive: WhenInactive | None = None


class SignatureChoice(_Input, frozen=True, kw_only=True):
    """Which signature headers a webhook's requests carry beside the `v1` of `webhook-signature`."""

    form: SignatureForm = SignatureForm.TIMESTAMPED
    ed25519: bool = False


class Policy(_Data, frozen=True, kw_only=True):
    """The delivery policy in force for one endpoint: its own wishes over the server's defaults."""

    ordering: Ordering
    concurrency: int
    rate_limit: RateLimit | None
    timeout_seconds: float
    delays: tuple[float, ...]
    jitter: float
    max_refusals: int
    max_age_seconds: float
    park_after: int
    breaker_threshold: int
    when_inactive: WhenInactive
    disable_after_seconds: float
    warn_after_seconds: float


class Endpoint(_Data, frozen=True, kw_only=True):
    """A registered webhook, without its secrets."""

    pk: int
    id: str
    url: str
    events: tuple[str, ...]
    description: str
    is_active: bool
    disabled_reason: DisabledReason | None
    disabled_at: float | None
    organization_id: str | None
    metadata: Mapping[str, str]
    overrides: PolicyOverrides
    signature: SignatureChoice
    header_names: tuple[str, ...]
    secret_hint: str
    previous_secret_expires_at: float | None
    ed25519_public_key: str | None
    created_at: float
    updated_at: float


class Credentials(_Data, frozen=True, kw_only=True):
    """What an endpoint's requests are signed and sent with; never logged, never shown."""

    secret: Secret[str]
    previous_secret: Secret[str] | None
    previous_expires_at: float | None
    ed25519_secret: Secret[str] | None
    headers: tuple[tuple[str, Secret[str]], ...]


class EndpointState(_Data, frozen=True, kw_only=True):
    """What an endpoint's past means for its next request; survives a restart.

    `failing_since` is the first failure since the last success, moved forward by the time in which nothing was tried;
    `failures_since_success` counts the attempts since that success; `consecutive_faults` counts endpoint faults in a
    row; `reopenings` the probes that failed in a row;
    `pauses` the answers in a row that asked to slow down; `retry_at` is when an open breaker lets a probe through;
    `paused_until` is when a pause ends, and stays until the probe after it has had a good answer; `warned_at` is when
    `webhook.failing` was sent; `recovered_at` is when the last outage or pause ended with such an answer. `SHIFTED`
    names the times that go with a clock that is set.
    """

    SHIFTED: ClassVar = ("last_failure_at", "retry_at", "paused_until", "failing_since", "recovered_at")

    breaker: BreakerState = BreakerState.CLOSED
    consecutive_faults: int = 0
    reopenings: int = 0
    pauses: int = 0
    retry_at: float | None = None
    paused_until: float | None = None
    failing_since: float | None = None
    failures_since_success: int = 0
    last_success_at: float | None = None
    last_failure_at: float | None = None
    last_error: str | None = None
    warned_at: float | None = None
    recovered_at: float | None = None

    @property
    def is_unhealthy(self) -> bool:
        """Whether the endpoint's last answers were faults or asked to slow down."""
        return self.needs_probe or self.consecutive_faults > 0

    @property
    def needs_probe(self) -> bool:
        """Whether one request, and its answer, comes before all others."""
        return self.breaker is not BreakerState.CLOSED or self.paused_until is not None


class QueuedDelivery(_Data, frozen=True, kw_only=True):
    """A delivery still to be sent, as an actor's window holds it: ids and times, never a body."""

    pk: int
    id: str
    endpoint_pk: int
    event_pk: int
    ordering_key: str | None
    sequence: int
    status: DeliveryStatus
    trigger: Trigger
    attempts: int
    refusals: int
    backoff_step: int
    next_attempt_at: float
    created_at: float
    expires_at: float


class Message(_Data, frozen=True, kw_only=True):
    """What an attempt sends of its event."""

    event_id: str
    type: str
    organization_id: str | None
    traceparent: str | None
    body: bytes


class Outcome(_Data, frozen=True, kw_only=True):
    """What came of one request: a response, or the stable code and the reason of what kept it from one.

    `error` is one of `timeout dns connect tls protocol blocked interrupted`, or None where a response was read;
    `body` is at most 4 KiB of it, `truncated` says that there was more. `is_reused` says whether the request went over
    a connection that was open already, None where it got none.
    """

    duration_seconds: float
    remote_address: str | None = None
    is_reused: bool | None = None
    status: int | None = None
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    truncated: bool = False
    error: DeliveryError | None = None
    detail: str = ""


class Verdict(_Data, frozen=True, kw_only=True):
    """What becomes of a delivery, and of its endpoint, after an attempt; `disable` says why that is disabled."""

    status: DeliveryStatus
    refusals: int
    backoff_step: int
    endpoint: EndpointState
    error: DeliveryError | None = None
    retry_after_seconds: float | None = None
    next_attempt_at: float | None = None
    completed_at: float | None = None
    disable: DisabledReason | None = None


class AttemptRecord(Verdict, frozen=True, kw_only=True):
    """One attempt and what it made of its delivery and its endpoint: written in one transaction."""

    delivery: QueuedDelivery
    attempt_id: str
    number: int
    trigger: Trigger
    started_at: float
    outcome: Outcome

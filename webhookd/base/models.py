"""The data that the packages of webhookd pass to each other: immutable, without a clock or I/O.

Times are epoch seconds, truncated to the millisecond. `pk` is the journal's row number and never leaves the process;
`id` is the public identifier.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta, Struct

from webhookd.base.fields import (
    BreakerThreshold,
    Concurrency,
    EventId,
    EventTypeName,
    Jitter,
    MaxAgeSeconds,
    MaxRefusals,
    OrganizationId,
    ParkAfter,
    RateBurst,
    RatePerSecond,
    RetryDelays,
    Time,
    TimeoutSeconds,
    Traceparent,
)
from webhookd.base.secret import Secret


class Ordering(StrEnum):
    """The order in which an endpoint's deliveries are sent."""

    STRICT = "strict"
    KEY = "key"
    NONE = "none"


class WhenInactive(StrEnum):
    """What happens to an event for a disabled endpoint."""

    HOLD = "hold"
    DROP = "drop"


class SignatureForm(StrEnum):
    """The form of the `x-webhook-signature` header."""

    TIMESTAMPED = "timestamped"
    HEX = "hex"
    SHA256_HEX = "sha256=hex"
    OFF = "off"


class DisabledReason(StrEnum):
    """Why a webhook is disabled."""

    MANUAL = "manual"
    FAILING = "failing"
    GONE = "gone"
    RECEIVER = "receiver"


class DeliveryStatus(StrEnum):
    """The state of a delivery; `PENDING` and `PARKED` are not final."""

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
    """What a replay does: retry failed deliveries, or make new deliveries of events."""

    RECOVER = "recover"
    REPLAY = "replay"


class ReplayStatus(StrEnum):
    """The state of a recover or replay."""

    RUNNING = "running"
    DONE = "done"
    STOPPED = "stopped"


class BreakerState(StrEnum):
    """The state of an endpoint's circuit breaker."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


_CLOSED = BreakerState.CLOSED  # looked up several times for each request


class Role(StrEnum):
    """What an API key may do."""

    ADMIN = "admin"
    OPERATOR = "operator"
    VIEWER = "viewer"
    INGEST = "ingest"


class DeliveryError(StrEnum):
    """The stable code of why an attempt or a delivery failed."""

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


class _Data(Struct, frozen=True, kw_only=True, gc=False):
    """Base of the data below. It can't be part of a reference cycle, so the garbage collector doesn't track it."""


class _Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of what clients send as JSON."""


class NewEvent(_Input, frozen=True, kw_only=True):
    """An event as a producer submits it, decoded and checked."""

    type: EventTypeName
    data: Annotated[msgspec.Raw, Meta(extra_json_schema={"type": "object"})]
    id: EventId | None = None
    timestamp: Time | None = None
    organization_id: OrganizationId | None = None
    ordering_key: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    traceparent: Traceparent | None = None


class AcceptedEvent(_Data, frozen=True, kw_only=True):
    """An event with its final envelope: `body` is what every attempt sends."""

    id: str
    type: str
    organization_id: str | None
    ordering_key: str | None
    traceparent: str | None
    timestamp: float
    accepted_at: float
    body: bytes

    @property
    def message(self) -> "Message":
        """The parts that an attempt sends."""
        return Message(
            event_id=self.id,
            type=self.type,
            organization_id=self.organization_id,
            traceparent=self.traceparent,
            body=self.body,
        )


class PublishResult(_Data, frozen=True, kw_only=True):
    """The result of submitting an event; submitting the same id again gives the same result as a duplicate."""

    id: str
    deliveries: int
    duplicate: bool


class Target(_Data, frozen=True, kw_only=True):
    """An endpoint that gets an event; `status` is `PENDING`, or `CANCELED` if the endpoint drops events."""

    endpoint_pk: int
    status: DeliveryStatus
    max_age_seconds: float


class RateLimit(_Input, frozen=True, kw_only=True):
    """A token bucket that gains `per_second` tokens a second and holds at most `burst`."""

    per_second: RatePerSecond
    burst: RateBurst = 1


class RetryOverrides(_Input, omit_defaults=True, frozen=True, kw_only=True):
    """A webhook's own retry settings; None means the server's default."""

    delays: RetryDelays | None = None
    jitter: Jitter | None = None
    max_refusals: MaxRefusals | None = None
    max_age_seconds: MaxAgeSeconds | None = None
    park_after: ParkAfter | None = None


class PolicyOverrides(_Input, omit_defaults=True, frozen=True, kw_only=True):
    """A webhook's own delivery policy; None means the server's default."""

    ordering: Ordering | None = None
    concurrency: Concurrency | None = None
    rate_limit: RateLimit | None = None
    timeout_seconds: TimeoutSeconds | None = None
    retry: RetryOverrides = RetryOverrides()
    breaker_threshold: BreakerThreshold | None = None
    when_inactive: WhenInactive | None = None


class SignatureChoice(_Input, frozen=True, kw_only=True):
    """The signature headers of a webhook's requests, in addition to the `v1` of `webhook-signature`."""

    form: SignatureForm = SignatureForm.TIMESTAMPED
    ed25519: bool = False


class Policy(_Data, frozen=True, kw_only=True):
    """The delivery policy in force for one endpoint: its own settings, else the server's defaults."""

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
    """The secrets and custom headers of an endpoint's requests; never logged, never shown."""

    secret: Secret[str]
    previous_secret: Secret[str] | None
    previous_expires_at: float | None
    ed25519_secret: Secret[str] | None
    headers: tuple[tuple[str, Secret[str]], ...]


class EndpointState(_Data, frozen=True, kw_only=True):
    """What earlier attempts mean for an endpoint's next request; it survives a restart.

    - `consecutive_faults`: endpoint faults in a row; `reopenings`: failed probes in a row;
      `pauses`: 429 and 503 answers in a row.
    - `retry_at`: when an open breaker lets a probe through.
    - `paused_until`: when the pause ends. It is kept until the probe after the pause has succeeded.
    - `failing_since`: the first failure after the last success, plus the time in which nothing was sent;
      `failures_since_success`: the failed attempts since then.
    - `warned_at`: when `webhook.failing` was sent; `recovered_at`: when the last outage or pause ended with a success.
    - `forgiven`: how many changes by hand have forgiven something. A state that is derived from the one before such a
      change isn't stored any more.

    `SHIFTED` names the times that move with the clock when it is set.
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
    forgiven: int = 0

    @property
    def is_unhealthy(self) -> bool:
        """Whether the last answers were faults, a 429 or a 503."""
        return self.needs_probe or self.consecutive_faults > 0

    @property
    def needs_probe(self) -> bool:
        """Whether one request must succeed before any other is sent."""
        return self.paused_until is not None or self.breaker is not _CLOSED


class QueuedDelivery(_Data, array_like=True, frozen=True, kw_only=True):
    """A delivery that is not final, as an actor's window holds it: ids and times, without the body.

    It is an array to msgspec, because the journal converts it from a row by position; so is `Message`.
    """

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


class Message(_Data, array_like=True, frozen=True, kw_only=True):
    """The parts of an event that an attempt sends."""

    event_id: str
    type: str
    organization_id: str | None
    traceparent: str | None
    body: bytes


class Outcome(_Data, frozen=True, kw_only=True):
    """The result of one request: a response, or why there was none.

    `error` is `timeout`, `dns`, `connect`, `tls`, `protocol`, `blocked` or `interrupted`, and None if a response was
    read; `detail` is its reason. `body` holds at most 4 KiB of the response, `truncated` is true if there was more.
    `is_reused` is true if the connection was open already, and None if there was no connection.
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
    """The state of a delivery and its endpoint after an attempt; `disable` is why the endpoint is disabled by it."""

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
    """One attempt and the resulting state of its delivery and endpoint, recorded in one transaction."""

    delivery: QueuedDelivery
    attempt_id: str
    number: int
    trigger: Trigger
    started_at: float
    outcome: Outcome

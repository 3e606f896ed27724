"""The feed of recent attempts as JSON."""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from webhookd.admin.schemas import Cursor, EventPattern, Input, Limit, Output
from webhookd.base.models import BreakerState, DeliveryError, DeliveryStatus, Trigger


class AttemptOutcome(StrEnum):
    """Whether an attempt got what it wanted."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


class AttemptQuery(Input, frozen=True, kw_only=True):
    """Which attempts: after the `nextCursor` of an answer, or without `after` the last ones."""

    limit: Limit = 20
    after: Cursor | None = None
    webhook_id: Annotated[str, Meta(max_length=64)] | None = None
    event: EventPattern | None = None
    outcome: AttemptOutcome | None = None
    error: DeliveryError | None = None


class RecentAttemptView(Output, frozen=True, kw_only=True):
    """One attempt with what it was of; `status` to `breaker` are as they were from then on."""

    id: str
    webhook_id: str
    organization_id: str | None
    delivery_id: str
    event_id: str
    event: str
    traceparent: str | None
    sequence: int
    number: int
    trigger: Trigger
    started_at: str
    duration_ms: int
    waited_ms: int
    remote_address: str | None
    reused: bool | None
    response_status: int | None
    error: DeliveryError | None
    detail: str
    status: DeliveryStatus
    refusals: int
    next_attempt_at: str | None
    breaker: BreakerState


class RecentAttempts(Output, frozen=True, kw_only=True):
    """A part of the attempts as they happened; `nextCursor` is where to go on, `gap` says that some are missing."""

    data: list[RecentAttemptView]
    next_cursor: str
    gap: bool

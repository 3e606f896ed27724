"""The recent attempts of all webhooks, for a live view that polls.

The answers come from memory and cost the journal nothing; those of several nodes are followed in their journal, at the
same cost for any number of callers. A reader that is too slow, or a restart of a server that has its journal for
itself, causes a gap, which the answer reports.
"""

from enum import StrEnum
from typing import Annotated

from msgspec import Meta

from webhookd.admin.auth import Permission
from webhookd.admin.operations import Answer, Call, NoBody, operation
from webhookd.admin.schemas import MOST_ROWS, Cursor, EventPattern, Input, Limit, Output
from webhookd.admin.services import Services
from webhookd.admin.views import shown
from webhookd.base.errors import ErrorCode
from webhookd.base.models import BreakerState, DeliveryError, DeliveryStatus, Trigger
from webhookd.dispatch.subscriptions import matches
from webhookd.journal import cursors
from webhookd.observe.attempt_feed import AttemptFacts, FeedPage, Place

_LIST = "attempts"


class AttemptOutcome(StrEnum):
    """Whether an attempt succeeded."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"


class AttemptQuery(Input, frozen=True, kw_only=True):
    """Which attempts: those after the `nextCursor` of an answer, or without `after` the last ones."""

    limit: Limit = 20
    after: Cursor | None = None
    webhook_id: Annotated[str, Meta(max_length=64)] | None = None
    event: EventPattern | None = None
    outcome: AttemptOutcome | None = None
    error: DeliveryError | None = None


class RecentAttemptView(Output, frozen=True, kw_only=True):
    """An attempt with its delivery; `status` to `breaker` are the values after the attempt."""

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
    """Recent attempts, oldest first; `nextCursor` continues the feed, and with `gap` some attempts are missing."""

    data: list[RecentAttemptView]
    next_cursor: str
    gap: bool


async def list_attempts(call: Call[AttemptQuery, NoBody]) -> Answer[RecentAttempts]:
    """List the last attempts of all webhooks, oldest first, or those after a cursor, for a live view."""
    query = call.query
    limit = min(query.limit, MOST_ROWS)
    recent = await _read(call.services, query.after)
    found = [each for each in recent.attempts if _is_wanted(each[1], query, call.caller.organization_id)]
    last = recent.last
    if query.after is None:
        found = found[-limit:]
    else:
        last = found[limit - 1][0] if len(found) > limit else last
        found = found[:limit]
    next_cursor = cursors.encode(_LIST, last)
    data = [_view(attempt) for _, attempt in found]
    return Answer(value=RecentAttempts(data=data, next_cursor=next_cursor, gap=recent.gap))


async def _read(services: Services, after: str | None) -> FeedPage:
    place: Place | None = None
    if not services.store.is_shared:
        if after is not None:
            place = cursors.decode(after, _LIST, tuple[cursors.Number, cursors.Number])
        return services.router.recent.after(place)
    if after is not None:
        place = cursors.decode(after, _LIST, tuple[cursors.Number, cursors.Number, cursors.Number, cursors.Number])
    return await services.attempts.after(place)


def _is_wanted(attempt: AttemptFacts, query: AttemptQuery, organization_id: str | None) -> bool:
    return (
        organization_id in {None, attempt.organization_id}
        and query.webhook_id in {None, attempt.endpoint_id}
        and (query.event is None or matches(query.event, attempt.event_type))
        and (query.outcome is None or (query.outcome is AttemptOutcome.SUCCEEDED) == (attempt.error is None))
        and query.error in {None, attempt.error}
    )


def _view(attempt: AttemptFacts) -> RecentAttemptView:
    return shown(
        RecentAttemptView,
        attempt,
        webhook_id=attempt.endpoint_id,
        event=attempt.event_type,
        duration_ms=round(attempt.duration_seconds * 1000),
        waited_ms=round(attempt.waited_seconds * 1000),
        reused=attempt.is_reused,
    )


OPERATIONS = (operation(list_attempts, "GET /api/attempts", Permission.READ, refuses=(ErrorCode.INVALID_CURSOR,)),)

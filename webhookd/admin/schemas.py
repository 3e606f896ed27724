"""What crosses the admin API as JSON: the bodies and queries it takes, and the documents it answers with.

Times are ISO-8601 strings here and epoch seconds everywhere else. An input refuses fields it doesn't know.
"""

from typing import Annotated, Generic, TypeVar

from msgspec import Meta, Raw, Struct

from webhookd.base.fields import ACCEPTS, EventId, EventTypeName, OrganizationId, Time
from webhookd.base.models import DeliveryError, DeliveryStatus, ReplayStatus, Role, Trigger

T = TypeVar("T")

MOST_ROWS = 100

Cursor = Annotated[str, Meta(max_length=1024)]
Limit = Annotated[int, Meta(ge=1, le=2**31, description=f"values above {MOST_ROWS} count as {MOST_ROWS}")]
EventPattern = Annotated[
    str,
    Meta(
        max_length=130,
        pattern=r"^(\*|[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*(\.\*)?)\Z",
        description="an exact name, every name below a prefix (`user.*`), or every name (`*`)",
        extra={ACCEPTS: "a type such as user.created, every type below a prefix, such as user.*, or * for all"},
    ),
]


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of what is taken."""


class Output(Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of what is answered."""


class Deleted(Output, frozen=True, kw_only=True):
    """What was deleted."""

    id: str
    deleted: bool = True


class Page(Struct, Generic[T], frozen=True, kw_only=True, rename="camel"):
    """A part of a list; `nextCursor` asks for what follows."""

    data: list[T]
    next_cursor: str | None


# Deliveries


class DeliveryView(Output, frozen=True, kw_only=True):
    """One event for one webhook."""

    id: str
    webhook_id: str
    event_id: str
    event: str
    sequence: int
    status: DeliveryStatus
    in_flight: bool
    attempts: int
    refusals: int
    next_attempt_at: str | None
    expires_at: str
    response_status: int | None
    error: DeliveryError | None
    created_at: str
    completed_at: str | None
    duration_ms: int | None


class RequestView(Output, frozen=True, kw_only=True):
    """The request of a delivery as it would leave now: signed afresh, the values of custom headers hidden."""

    url: str
    headers: dict[str, str]
    body: str


class AttemptView(Output, frozen=True, kw_only=True):
    """One HTTP request of a delivery."""

    id: str
    number: int
    trigger: Trigger
    started_at: str
    duration_ms: int
    remote_address: str | None
    response_status: int | None
    response_headers: dict[str, str]
    response_body: str
    truncated: bool
    error: DeliveryError | None
    detail: str
    retry_after_seconds: float | None


class DeliveryDetailView(DeliveryView, frozen=True, kw_only=True):
    """A delivery with its request and its last 100 attempts, oldest first."""

    request: RequestView
    attempt_log: list[AttemptView]


class Force(Input, frozen=True, kw_only=True):
    """How to retry; `force` sends what has succeeded once more."""

    force: bool = False


# Events, catalogue and keys


class ReplayRequest(Input, frozen=True, kw_only=True):
    """What to recover or replay: from `since` on and before `until` (now), all of it or what `events` match."""

    since: Time
    until: Time | None = None
    events: Annotated[tuple[EventPattern, ...], Meta(max_length=100)] = ()
    dry_run: bool = False


class Matched(Output, frozen=True, kw_only=True):
    """How many deliveries or events were found."""

    matched: int


class ReplayStarted(Matched, frozen=True, kw_only=True):
    """A recover or replay that goes on by itself from now on."""

    id: str


class ReplayView(ReplayStarted, frozen=True, kw_only=True):
    """How far a recover or replay is: `queued` of what it `matched` has been made to go."""

    queued: int
    status: ReplayStatus


class Submitted(Output, frozen=True, kw_only=True):
    """The result of an accepted event."""

    id: str
    deliveries: int
    duplicate: bool


class SubmittedLine(Submitted, frozen=True, kw_only=True):
    """One result in a stream of them."""

    ok: bool = True


class RefusalReason(Output, frozen=True, kw_only=True):
    """Why one line of a stream was refused."""

    code: str
    message: str


class RefusedLine(Output, frozen=True, kw_only=True):
    """One refusal in a stream of results."""

    error: RefusalReason
    ok: bool = False


class EventView(Output, frozen=True, kw_only=True):
    """An event as it was accepted; `data` is what the producer sent."""

    id: str
    type: str
    timestamp: str
    organization_id: str | None
    ordering_key: str | None
    traceparent: str | None
    deliveries: int
    accepted_at: str
    data: Annotated[Raw, Meta(extra_json_schema={"type": "object"})]


class EventTypeInput(Input, frozen=True, kw_only=True):
    """What is said of an event type; `schema` is a JSON Schema of its `data`."""

    description: Annotated[str, Meta(max_length=2000)] = ""
    schema: dict[str, object] | None = None
    example: dict[str, object] | None = None
    deprecated: bool = False


class EventTypeView(Output, frozen=True, kw_only=True):
    """One entry of the catalogue."""

    name: str
    description: str
    schema: Raw | None
    example: Raw | None
    deprecated: bool


class NewKey(Input, frozen=True, kw_only=True):
    """A key to be made."""

    role: Role
    name: Annotated[str, Meta(max_length=100)] = ""
    organization_id: OrganizationId | None = None
    expires_at: Time | None = None


class KeyView(Output, frozen=True, kw_only=True):
    """An API key, without the key itself."""

    id: str
    role: Role
    name: str
    organization_id: str | None
    expires_at: str | None
    last_used_at: str | None
    created_at: str


class KeyWithText(KeyView, frozen=True, kw_only=True):
    """A new key and the one showing of its text."""

    key: str


class Health(Output, frozen=True, kw_only=True):
    """The process is alive."""

    status: str = "ok"


class StallView(Output, frozen=True, kw_only=True):
    """A time for which the event loop did one thing, a step of `task`; null where no single step took so long."""

    ended_at: str
    seconds: float
    cpu_seconds: float
    task: str | None


class LoopView(Output, frozen=True, kw_only=True):
    """How the event loop was in the last hour: its longest stall, null where none took 20 ms."""

    longest_stall: StallView | None


class ReadinessView(Output, frozen=True, kw_only=True):
    """Whether the server takes work; `reasons` say what is degraded."""

    status: str
    reasons: tuple[str, ...] = ()


# Query parameters


class NoQuery(Input, frozen=True, kw_only=True):
    """No parameter is taken."""


class CursorQuery(Input, frozen=True, kw_only=True):
    """Which page of a list: `cursor` is the `nextCursor` of the page before."""

    cursor: Cursor | None = None


class ListQuery(CursorQuery, frozen=True, kw_only=True):
    """Which page of a list, and its length."""

    limit: Limit = 20

    @property
    def rows(self) -> int:
        """The most rows of the page."""
        return min(self.limit, MOST_ROWS)


class DeliveryQuery(ListQuery, frozen=True, kw_only=True):
    """Which deliveries; `since` is inclusive, `until` is not."""

    status: DeliveryStatus | None = None
    event: EventTypeName | None = None
    event_id: EventId | None = None
    since: Time | None = None
    until: Time | None = None


class AttemptsQuery(Input, frozen=True, kw_only=True):
    """Which attempts of a delivery: the last ones, or those before the one of this number."""

    before: Annotated[int, Meta(ge=1, le=2**31)] | None = None


class EventQuery(ListQuery, frozen=True, kw_only=True):
    """Which part of the feed: `after` is the `nextCursor` of the last answer."""

    after: Cursor | None = None

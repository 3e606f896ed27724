"""The JSON of the admin API: request bodies, query parameters and response documents.

Times are ISO-8601 strings here and epoch seconds everywhere else. An input refuses unknown fields.
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
        description="an exact event type, all types below a prefix (`user.*`), or all types (`*`)",
        extra={ACCEPTS: "a type such as user.created, every type below a prefix, such as user.*, or * for all"},
    ),
]


class Input(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, rename="camel"):
    """Base of request bodies and query parameters."""


class Output(Struct, frozen=True, kw_only=True, rename="camel"):
    """Base of response documents."""


class Deleted(Output, frozen=True, kw_only=True):
    """The id of the deleted object."""

    id: str
    deleted: bool = True


class Page(Struct, Generic[T], frozen=True, kw_only=True, rename="camel"):
    """A page of a list; `nextCursor` is the cursor of the next page, null on the last one."""

    data: list[T]
    next_cursor: str | None


# Deliveries


class DeliveryView(Output, frozen=True, kw_only=True):
    """A delivery: one event for one webhook."""

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
    """The HTTP request of a delivery, with the headers of its last attempt; values of custom headers are hidden."""

    url: str
    headers: dict[str, str]
    body: str


class AttemptView(Output, frozen=True, kw_only=True):
    """An attempt: one HTTP request of a delivery."""

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
    """A delivery with its request and at most 100 attempts, oldest first."""

    request: RequestView
    attempt_log: list[AttemptView]


class Force(Input, frozen=True, kw_only=True):
    """How to retry; with `force`, a delivery that has succeeded is sent again."""

    force: bool = False


# Events, catalogue and keys


class ReplayRequest(Input, frozen=True, kw_only=True):
    """The time range to recover or replay: from `since` until before `until` (default: now); `events` filters by type.

    With `dryRun` the matches are counted, and nothing is queued.
    """

    since: Time
    until: Time | None = None
    events: Annotated[tuple[EventPattern, ...], Meta(max_length=100)] = ()
    dry_run: bool = False


class Matched(Output, frozen=True, kw_only=True):
    """The number of matching deliveries or events."""

    matched: int


class ReplayStarted(Matched, frozen=True, kw_only=True):
    """A recover or replay that runs in the background."""

    id: str


class ReplayView(ReplayStarted, frozen=True, kw_only=True):
    """The progress of a recover or replay: `queued` of the `matched` deliveries or events are queued."""

    queued: int
    status: ReplayStatus


class Submitted(Output, frozen=True, kw_only=True):
    """The result of an accepted event."""

    id: str
    deliveries: int
    duplicate: bool


class SubmittedLine(Submitted, frozen=True, kw_only=True):
    """The result of an accepted event in a stream of results."""

    ok: bool = True


class RefusalReason(Output, frozen=True, kw_only=True):
    """Why a line of a stream was refused."""

    code: str
    message: str


class RefusedLine(Output, frozen=True, kw_only=True):
    """The result of a refused line in a stream of results."""

    error: RefusalReason
    ok: bool = False


class EventView(Output, frozen=True, kw_only=True):
    """An accepted event; `data` is what the producer sent."""

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
    """The description of an event type; `schema` is a JSON Schema of its `data`."""

    description: Annotated[str, Meta(max_length=2000)] = ""
    schema: dict[str, object] | None = None
    example: dict[str, object] | None = None
    deprecated: bool = False


class EventTypeView(Output, frozen=True, kw_only=True):
    """An event type of the catalogue."""

    name: str
    description: str
    schema: Raw | None
    example: Raw | None
    deprecated: bool


class NewKey(Input, frozen=True, kw_only=True):
    """An API key to be created."""

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
    """A new API key with its text, which is shown only once."""

    key: str


class Health(Output, frozen=True, kw_only=True):
    """The process is alive."""

    status: str = "ok"


class StallView(Output, frozen=True, kw_only=True):
    """A stall of the event loop by one step of `task`; `task` is null if no single step took that long."""

    ended_at: str
    seconds: float
    cpu_seconds: float
    task: str | None


class LoopView(Output, frozen=True, kw_only=True):
    """The longest stall of the event loop in the last hour; null if none took 20 ms."""

    longest_stall: StallView | None


class NodeView(Output, frozen=True, kw_only=True):
    """A node: how many of the 256 slots it drives, and when its lease ends unless it goes on.

    `own` marks the node that answers, `leads` the one that does what only one may do at a time. `version` is that of
    the settings that it knows, `program` that of webhookd. `address` is from where it reaches the database, null for a
    Unix socket. `changesBehind` are changes of settings that it had not followed at its last beat.
    """

    id: str
    name: str
    version: int
    program: str | None
    address: str | None
    slots: int
    leads: bool
    lease_seconds: float
    last_beat_at: str | None
    beat_age_seconds: float
    changes_behind: int
    own: bool


class NodesView(Output, frozen=True, kw_only=True):
    """The nodes that share the journal, by name: none if it is a file. `freeSlots` are slots without a node."""

    nodes: tuple[NodeView, ...]
    free_slots: int


class ReadinessView(Output, frozen=True, kw_only=True):
    """Whether the server accepts work; `reasons` say what is degraded."""

    status: str
    reasons: tuple[str, ...] = ()


# Query parameters


class NoQuery(Input, frozen=True, kw_only=True):
    """No query parameters."""


class CursorQuery(Input, frozen=True, kw_only=True):
    """Which page of a list: `cursor` is the `nextCursor` of the previous page."""

    cursor: Cursor | None = None


class ListQuery(CursorQuery, frozen=True, kw_only=True):
    """Which page of a list, and at most how many rows."""

    limit: Limit = 20

    @property
    def rows(self) -> int:
        """The most rows of the page."""
        return min(self.limit, MOST_ROWS)


class DeliveryQuery(ListQuery, frozen=True, kw_only=True):
    """Filters of deliveries; `since` is inclusive, `until` is exclusive."""

    status: DeliveryStatus | None = None
    event: EventTypeName | None = None
    event_id: EventId | None = None
    since: Time | None = None
    until: Time | None = None


class AttemptsQuery(Input, frozen=True, kw_only=True):
    """Which attempts of a delivery: the last ones, or those before the attempt with the number `before`."""

    before: Annotated[int, Meta(ge=1, le=2**31)] | None = None


class EventQuery(ListQuery, frozen=True, kw_only=True):
    """Which part of the feed: `after` is the `nextCursor` of the previous answer."""

    after: Cursor | None = None

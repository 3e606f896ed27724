"""The examples of the OpenAPI document: a request and its answers for every operation, and each error once."""

from collections.abc import Mapping
from http import HTTPStatus

from msgspec import Struct
from msgspec.structs import asdict, replace

from webhookd.admin import example_story as story
from webhookd.admin.attempts import RecentAttempts
from webhookd.admin.bodies import JSON, NDJSON
from webhookd.admin.master_key import MasterKeyView
from webhookd.admin.schemas import (
    Deleted,
    DeliveryDetailView,
    Health,
    KeyWithText,
    LoopView,
    Matched,
    NodesView,
    NodeView,
    Page,
    ReadinessView,
    ReplayStarted,
    ReplayView,
    StallView,
    Submitted,
    SubmittedLine,
)
from webhookd.admin.statistics import CountsView, LatencyView, PointView, StatsView
from webhookd.admin.webhook_schemas import WebhookWithSecret
from webhookd.base.errors import ErrorCode
from webhookd.base.models import ReplayStatus, Trigger
from webhookd.base.version import VERSION
from webhookd.jobs.key_rotation import Stage

PATH_PARTS: Mapping[str, str] = {
    "webhookId": story.WEBHOOK_ID,
    "deliveryId": story.DELIVERY_ID,
    "eventId": story.EVENT_ID,
    "replayId": story.REPLAY_ID,
    "keyId": story.KEY_ID,
    "name": "invoice.paid",
}
REFUSALS: Mapping[ErrorCode, str] = {
    ErrorCode.VALIDATION_ERROR: "/concurrency: takes a whole number from 1 to 256, not 0",
    ErrorCode.MALFORMED_JSON: "not JSON: it ends too early: a quote, brace or bracket isn't closed",
    ErrorCode.INVALID_CURSOR: "the cursor isn't one that this list gave out: start again without it",
    ErrorCode.URL_NOT_ALLOWED: "/url: 10.0.0.1 is a private address",
    ErrorCode.UNKNOWN_EVENT_TYPE: "not in the catalogue: user.craeted; add a name with PUT /api/event-types/:name",
    ErrorCode.UNAUTHORIZED: "an API key is needed: Authorization: Bearer whd_…",
    ErrorCode.FORBIDDEN: "the role operator may change only isActive",
    ErrorCode.QUOTA_EXCEEDED: (
        f"the organization {story.ORGANIZATION} has 500 webhooks, and organizations.max_webhooks allows 500: delete "
        "one that isn't needed any more, or have the operator of this server raise the limit"
    ),
    ErrorCode.NOT_FOUND: f"there is no webhook {story.WEBHOOK_ID}",
    ErrorCode.REQUEST_TIMEOUT: "the body was not complete after 30 s",
    ErrorCode.CONFLICT: "a request with this Idempotency-Key is running; wait for its answer",
    ErrorCode.PRECONDITION_FAILED: (
        'it was changed since you read it: its ETag is "194aa2b8e5c" now. Read it again, then make your change'
    ),
    ErrorCode.PAYLOAD_TOO_LARGE: "the body is too large; at most 262144 bytes are accepted",
    ErrorCode.URI_TOO_LONG: "the request line is over 8192 bytes",
    ErrorCode.UNSUPPORTED_MEDIA_TYPE: "send the body as application/json",
    ErrorCode.IDEMPOTENCY_KEY_REUSED: "this Idempotency-Key was used with another body; use a new key",
    ErrorCode.RATE_LIMITED: "too many requests with this key; try again in 1 s",
    ErrorCode.REQUEST_HEADER_FIELDS_TOO_LARGE: "the head of the request is over 16384 bytes",
    ErrorCode.INTERNAL: "the request failed inside webhookd; its log has more under this request id",
    ErrorCode.NOT_IMPLEMENTED: "the only supported transfer coding is chunked (RFC 9112 section 6.1)",
    ErrorCode.JOURNAL_FULL: "the disk of the journal is full",
    ErrorCode.JOURNAL_UNREACHABLE: "the journal's database can't be reached; send it again later, with the same id",
    ErrorCode.KEYS_OUTDATED: (
        "this node can't see at present which API keys have been revoked, so it accepts none; send it to another node, "
        "or again later"
    ),
    ErrorCode.SHUTTING_DOWN: "the server is shutting down; send it again in a moment",
    ErrorCode.GATEWAY_TIMEOUT: "the query took too long; narrow its filters or ask for less",
    ErrorCode.HTTP_VERSION_NOT_SUPPORTED: "only HTTP/1.1 is supported",
}


class Example(Struct, frozen=True, kw_only=True):
    """The body of a request by media type, and its answers by status."""

    takes: Mapping[str, object] = {}
    answers: Mapping[HTTPStatus, object] = {}


def _answers(value: object, status: HTTPStatus = HTTPStatus.OK, *, to: object = None) -> Example:
    """Return the example of one answer, `to` a request with this JSON body."""
    return Example(takes={} if to is None else {JSON: to}, answers={status: value})


def _page(row: object, cursor: str | None = None) -> Page[object]:
    return Page(data=[row], next_cursor=cursor)


_started = Example(
    takes={JSON: story.RANGE},
    answers={
        HTTPStatus.ACCEPTED: ReplayStarted(id=story.REPLAY_ID, matched=1200),
        HTTPStatus.OK: Matched(matched=1200),
    },
)
_counts = CountsView(events=1, delivered=1, failures=1, failed=0, latency_ms=LatencyView(p50=82, p95=91, p99=91))


_stall = StallView(
    ended_at="2026-01-15T11:58:20.114Z", seconds=0.134, cpu_seconds=0.131, task=f"actor {story.WEBHOOK_ID}"
)


def _stats(seconds: int) -> Example:
    return _answers(StatsView(seconds=seconds, total=_counts, points=(PointView(**asdict(_counts), at=story.SENT),)))


_settled = MasterKeyView(key_id="1f6e0c5b9a2d4c38", stage=Stage.SETTLED, resealed=0, instruction=None)
_changed = Example(takes={JSON: story.PAUSE, story.MERGE_PATCH: story.PAUSE}, answers={HTTPStatus.OK: story.paused})

EXAMPLES: Mapping[str, Example] = {
    "listWebhooks": _answers(_page(story.delivered)),
    "createWebhook": _answers(
        WebhookWithSecret(**asdict(story.webhook), secret=story.SECRET), HTTPStatus.CREATED, to=story.NEW_WEBHOOK
    ),
    "getWebhook": _answers(story.delivered),
    "patchWebhook": _changed,
    "putWebhook": _changed,
    "deleteWebhook": _answers(Deleted(id=story.WEBHOOK_ID)),
    "rotateSecret": _answers(story.rotated, to={"overlapSeconds": 86_400}),
    "testWebhook": _answers(replace(story.taken, number=1, trigger=Trigger.TEST)),
    "recoverDeliveries": _started,
    "replayEvents": _started,
    "getReplay": _answers(ReplayView(id=story.REPLAY_ID, matched=1200, queued=500, status=ReplayStatus.RUNNING)),
    "stopReplay": _answers(ReplayView(id=story.REPLAY_ID, matched=1200, queued=500, status=ReplayStatus.STOPPED)),
    "listDeliveries": _answers(_page(story.delivery, "c.WyJkZWxpdmVyaWVzIiwxNzY4NDczMDAwLjAsMTJd")),
    "getDelivery": _answers(
        DeliveryDetailView(**asdict(story.delivery), request=story.request, attempt_log=[story.throttled, story.taken]),
    ),
    "retryDelivery": _answers(story.retried, to={"force": True}),
    "listAttempts": _answers(
        RecentAttempts(data=[story.recent], next_cursor="c.WyJhdHRlbXB0cyIsNDcxMSw5M10", gap=False),
    ),
    "publishEvents": Example(
        takes={JSON: story.NEW_EVENT, NDJSON: story.NEW_EVENT},
        answers={
            HTTPStatus.ACCEPTED: Submitted(id=story.EVENT_ID, deliveries=1, duplicate=False),
            HTTPStatus.OK: SubmittedLine(id=story.EVENT_ID, deliveries=1, duplicate=False),
        },
    ),
    "getStats": _stats(60),
    "getWebhookStats": _stats(3600),
    "listEvents": _answers(_page(story.event, "c.WyJldmVudHMiLDQxXQ")),
    "getEvent": _answers(story.event),
    "listEventDeliveries": _answers(_page(story.delivery)),
    "listEventTypes": _answers(_page(story.event_type)),
    "putEventType": _answers(story.event_type, to=story.NEW_EVENT_TYPE),
    "deleteEventType": _answers(Deleted(id=story.event_type.name)),
    "listKeys": _answers(_page(replace(story.key, last_used_at="2026-01-15T11:59:00.000Z"))),
    "createKey": _answers(
        KeyWithText(
            **asdict(story.key),
            key="whd_viewer_01KF0K8Y20JBWMXRMCFG7T1JD4_glTDKakoUPbVOd03b0gW7idkUX2l4CNVFK9DMWRIDXo",
        ),
        HTTPStatus.CREATED,
        to=story.NEW_KEY,
    ),
    "revokeKey": _answers(Deleted(id=story.KEY_ID)),
    "listAudit": _answers(_page(story.entry)),
    "getMasterKey": _answers(_settled),
    "rotateMasterKey": _answers(
        replace(_settled, stage=Stage.CHANGING),
        HTTPStatus.ACCEPTED,
        to={"newKey": "glTDKakoUPbVOd03b0gW7idkUX2l4CNVFK9DMWRIDXo="},
    ),
    "getBackup": _answers(story.copied),
    "makeBackup": _answers(story.copying, HTTPStatus.ACCEPTED, to={"file": story.copying.file}),
    "getOpenapi": _answers({"openapi": "3.1.0", "info": {"title": "webhookd", "version": VERSION}, "paths": {}}),
    "getHealth": _answers(Health()),
    "getReadiness": Example(
        answers={
            HTTPStatus.OK: ReadinessView(status="ok"),
            HTTPStatus.SERVICE_UNAVAILABLE: ReadinessView(status="draining"),
        }
    ),
    "getLoop": _answers(LoopView(longest_stall=_stall)),
    "getNodes": _answers(
        NodesView(
            nodes=(
                NodeView(
                    id="node_01JHMVZ3X5N7Q9S1T3V5W7Y9A1.1",
                    name="web-1",
                    version=1,
                    program="0.1.0",
                    address="10.0.0.11",
                    slots=128,
                    leads=True,
                    lease_seconds=6.2,
                    last_beat_at="2026-01-15T12:00:00.000Z",
                    beat_age_seconds=0.8,
                    changes_behind=0,
                    own=True,
                ),
                NodeView(
                    id="node_01JHMVZ4B7P9R1T3V5X7Z9B1D3.1",
                    name="web-2",
                    version=1,
                    program="0.1.0",
                    address="10.0.0.12",
                    slots=128,
                    leads=False,
                    lease_seconds=5.4,
                    last_beat_at="2026-01-15T11:59:59.200Z",
                    beat_age_seconds=1.6,
                    changes_behind=0,
                    own=False,
                ),
            ),
            free_slots=0,
        )
    ),
    "getMetrics": _answers(
        "# HELP webhookd_requests_in_flight Requests that wait for their answer\n"
        "# TYPE webhookd_requests_in_flight gauge\nwebhookd_requests_in_flight 3.0\n"
    ),
}

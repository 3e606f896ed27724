"""The objects of the OpenAPI document's examples, which tell one story.

A shop of the organization `acme` gets a webhook. Its first event is answered with a 503 that asks to wait, and arrives
at the second attempt; the signature is valid for the secret that the webhook was created with.
"""

from msgspec import Raw, convert, json, to_builtins
from msgspec.structs import asdict, replace

from webhookd.admin.attempts import RecentAttemptView
from webhookd.admin.audit import ActorView, AuditView
from webhookd.admin.backup import BackupView, ContentsView
from webhookd.admin.schemas import AttemptView, DeliveryView, EventTypeView, EventView, KeyView, RequestView
from webhookd.admin.webhook_schemas import HealthView, Retry, Webhook, WebhookWithSecret
from webhookd.base.models import (
    BreakerState,
    DeliveryError,
    DeliveryStatus,
    DisabledReason,
    Ordering,
    RateLimit,
    Role,
    SignatureChoice,
    Trigger,
    WhenInactive,
)
from webhookd.base.version import VERSION
from webhookd.jobs.backup import CopyStage
from webhookd.journal import Action, AuditActorKind

ORGANIZATION = "acme"
URL = "https://shop.example.com/webhooks"
WEBHOOK_ID = "wh_01KF0K8Y20783FCQTSNNCVJPWX"
EVENT_ID = "evt_01KF0K8Y20DEPXJE84JMZ8KKN0"
DELIVERY_ID = "dlv_01KF0K8Y209WD0E9WWAYSBC0HY"
KEY_ID = "key_01KF0K8Y20JBWMXRMCFG7T1JD4"
REPLAY_ID = "rpl_01KF0K8Y20F6KAWB7GZX8WQCZG"
REQUEST_ID = "req_01KF0K8Y206S382ZKEZT3G6VYG"
SECRET = "whsec_czAIcfRMFo58lJ3ix1DmDCybuP9TABfFomcjTpy0244="  # noqa: S105 - an example
NEXT_SECRET = "whsec_Y66dOYFCp9hMSbc7ovZnyNN3zreDLbabGkFhM1YupJY="  # noqa: S105 - an example
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
CREATED, SENT = "2026-01-15T10:25:00.000Z", "2026-01-15T10:30:00.000Z"
FIRST, SECOND, DONE = "2026-01-15T10:30:00.012Z", "2026-01-15T10:30:05.103Z", "2026-01-15T10:30:05.185Z"
DATA = '{"userId":"u_42","email":"ada@example.com"}'
BODY = (
    f'{{"id":"{EVENT_ID}","type":"user.created","timestamp":"{SENT}","data":{DATA},"organizationId":"{ORGANIZATION}"}}'
)

webhook = Webhook(
    id=WEBHOOK_ID,
    url=URL,
    events=("user.*", "subscription.created"),
    description="shop",
    is_active=True,
    disabled_reason=None,
    disabled_at=None,
    organization_id=ORGANIZATION,
    metadata={"team": "growth"},
    ordering=Ordering.STRICT,
    concurrency=8,
    rate_limit=RateLimit(per_second=50, burst=10),
    timeout_seconds=15,
    retry=Retry(delays=(5, 30, 120, 300, 600, 900), jitter=0.2, max_refusals=10, max_age_seconds=259_200, park_after=3),
    breaker_threshold=5,
    when_inactive=WhenInactive.HOLD,
    headers=("X-Shop-Token",),
    signature=SignatureChoice(),
    ed25519_public_key=None,
    secret_hint="whsec_…0244",  # noqa: S106 - the hint
    previous_secret_expires_at=None,
    created_at=CREATED,
    updated_at=CREATED,
    health=HealthView(
        breaker=BreakerState.CLOSED,
        sending=False,
        reason="Nothing queued",
        queued=0,
        parked=0,
        oldest_pending_at=None,
        next_attempt_at=None,
        consecutive_failures=0,
        last_success_at=None,
        last_failure_at=None,
        node=None,
    ),
)
delivered = replace(webhook, health=replace(webhook.health, last_success_at=DONE, last_failure_at=FIRST))
paused = replace(
    delivered,
    is_active=False,
    disabled_reason=DisabledReason.MANUAL,
    disabled_at="2026-01-15T11:00:00.000Z",
    updated_at="2026-01-15T11:00:00.000Z",
    health=replace(delivered.health, reason="Held: disabled by hand"),
)
rotated = WebhookWithSecret(
    **{
        **asdict(delivered),
        "secret_hint": "whsec_…upJY",
        "previous_secret_expires_at": "2026-01-16T12:00:00.000Z",
        "updated_at": "2026-01-15T12:00:00.000Z",
    },
    secret=NEXT_SECRET,
)
event = EventView(
    id=EVENT_ID,
    type="user.created",
    timestamp=SENT,
    organization_id=ORGANIZATION,
    ordering_key="u_42",
    traceparent=TRACE,
    deliveries=1,
    accepted_at=SENT,
    data=Raw(DATA),
)
delivery = DeliveryView(
    id=DELIVERY_ID,
    webhook_id=WEBHOOK_ID,
    event_id=EVENT_ID,
    event="user.created",
    sequence=1,
    status=DeliveryStatus.SUCCEEDED,
    in_flight=False,
    attempts=2,
    refusals=0,
    next_attempt_at=None,
    expires_at="2026-01-18T10:30:00.000Z",
    response_status=200,
    error=None,
    created_at=SENT,
    completed_at=DONE,
    duration_ms=82,
)
retried = replace(
    delivery,
    status=DeliveryStatus.PENDING,
    next_attempt_at="2026-01-15T11:30:00.000Z",
    expires_at="2026-01-18T11:30:00.000Z",
    completed_at=None,
)
throttled = AttemptView(
    id="att_01KF0K8Y207MRNFMZDF855MD8M",
    number=1,
    trigger=Trigger.AUTO,
    started_at=FIRST,
    duration_ms=41,
    remote_address="93.184.215.14:443",
    response_status=503,
    response_headers={"content-type": "text/plain", "retry-after": "5"},
    response_body="deploying",
    truncated=False,
    error=DeliveryError.THROTTLED,
    detail="",
    retry_after_seconds=5,
)
taken = replace(
    throttled,
    id="att_01KF0K92YZ4Q1ZC2B4Y5W6G7H8",
    number=2,
    started_at=SECOND,
    duration_ms=82,
    response_status=200,
    response_headers={"content-length": "2"},
    response_body="ok",
    error=None,
    retry_after_seconds=None,
)
request = RequestView(
    url=URL,
    headers={
        "content-type": "application/json",
        "user-agent": f"webhookd/{VERSION}",
        "webhook-id": EVENT_ID,
        "webhook-timestamp": "1768473005",
        "webhook-signature": "v1,oCL9hgu6h21c1N+/VmJiXWa4HO4jhngnJprs/v8FXTo=",
        "x-webhook-signature": "t=1768473005,v1=33873a94d9edeae573c122559fd718f9d4f167d3da3c7539c140c441c048db86",
        "x-webhook-event": "user.created",
        "x-webhook-delivery": DELIVERY_ID,
        "x-webhook-attempt": "2",
        "x-webhook-sequence": "1",
        "traceparent": TRACE,
        "X-Shop-Token": "[hidden]",
    },
    body=BODY,
)
recent = convert(
    {
        **to_builtins(delivery),
        **to_builtins(taken),
        "organizationId": ORGANIZATION,
        "deliveryId": DELIVERY_ID,
        "traceparent": TRACE,
        "waitedMs": 5103,
        "reused": True,
        "breaker": BreakerState.CLOSED,
    },
    RecentAttemptView,
)
key = KeyView(
    id=KEY_ID,
    role=Role.VIEWER,
    name="support desk",
    organization_id=ORGANIZATION,
    expires_at="2027-01-15T00:00:00.000Z",
    last_used_at=None,
    created_at=CREATED,
)
SCHEMA = b'{"type":"object","required":["invoiceId"],"properties":{"invoiceId":{"type":"string"}}}'
event_type = EventTypeView(
    name="invoice.paid",
    description="An invoice has been paid in full",
    schema=Raw(SCHEMA),
    example=Raw(b'{"invoiceId":"inv_7"}'),
    deprecated=False,
)
entry = AuditView(
    sequence=12,
    at=CREATED,
    actor=ActorView(kind=AuditActorKind.TOKEN, id="ada@acme.example", role=Role.ADMIN),
    action=Action.WEBHOOK_CREATE,
    object=WEBHOOK_ID,
    organization_id=ORGANIZATION,
    request_id=REQUEST_ID,
    fields=("url", "events", "description", "metadata", "rateLimit", "headers"),
    hash="b81f37a043a6f767e7c94d105f4bd31282f3ecc20680bb9d09bd93461cf4c863",
)
copying = BackupView(
    stage=CopyStage.COPYING,
    file="/backup/webhookd.db",
    copied_pages=0,
    pages=51_200,
    contents=None,
    problem=None,
    is_damaged=False,
)
copied = replace(
    copying,
    stage=CopyStage.DONE,
    copied_pages=51_200,
    contents=ContentsView(
        version=3,
        bytes=209_715_200,
        events=120_000,
        deliveries=240_000,
        pending=3,
        last_event_at=SENT,
        key_id="1f6e0c5b9a2d4c38",
    ),
)
NEW_WEBHOOK = {
    "url": URL,
    "events": ["user.*", "subscription.created"],
    "description": "shop",
    "organizationId": ORGANIZATION,
    "metadata": {"team": "growth"},
    "rateLimit": {"perSecond": 50, "burst": 10},
    "headers": {"X-Shop-Token": "s3cr3t"},
}
NEW_EVENT = {
    "type": "user.created",
    "data": {"userId": "u_42", "email": "ada@example.com"},
    "organizationId": ORGANIZATION,
    "orderingKey": "u_42",
    "traceparent": TRACE,
}
NEW_EVENT_TYPE = {
    "description": event_type.description,
    "schema": json.decode(SCHEMA),
    "example": {"invoiceId": "inv_7"},
}
NEW_KEY = {
    "role": key.role,
    "name": key.name,
    "organizationId": key.organization_id,
    "expiresAt": "2027-01-15T00:00:00Z",
}
PAUSE = {"isActive": False}
RANGE = {"since": "2026-01-15T00:00:00.000Z", "until": "2026-01-15T12:00:00.000Z", "events": ["user.*"]}
MERGE_PATCH = "application/merge-patch+json"

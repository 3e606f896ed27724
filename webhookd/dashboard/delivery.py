"""The page of a delivery: its status, its attempts with request and response, and how to verify its signature."""

import hashlib
import shlex
from collections.abc import Mapping
from http import HTTPStatus

from msgspec import Struct
from quart import Response

from webhookd.admin.auth import Permission
from webhookd.admin.deliveries import delivery_view, receiver_of, request_headers, retry_delivery
from webhookd.admin.schemas import AttemptsQuery, DeliveryView, Force, NoQuery
from webhookd.base.errors import ErrorCode, Rejected
from webhookd.base.models import DeliveryStatus, Endpoint, SignatureForm
from webhookd.dashboard.error_hints import REASONS
from webhookd.dashboard.live import live
from webhookd.dashboard.pages import Visit, page
from webhookd.dashboard.payloads import indented, shown
from webhookd.delivery.request import Receiver
from webhookd.journal import Action, AttemptRow, DeliveryDetail

MOST_ATTEMPTS = 20
# A longer body is a file for curl, since the length of a command is limited.
INLINE_BYTES = 16_384


class Attempt(Struct, frozen=True, kw_only=True):
    """An attempt with its request, signed with the current secret."""

    row: AttemptRow
    sent: Mapping[str, str]
    reason: str
    body: str
    is_open: bool

    @property
    def tone(self) -> str:
        """The tone of its status."""
        if self.row.error is None:
            return "good"
        return "idle" if self.row.error.value == "interrupted" else "bad"

    @property
    def word(self) -> str:
        """The response's status, or the error."""
        if self.row.response_status is not None:
            return f"{self.row.response_status} {_phrase(self.row.response_status)}".strip()
        return self.row.error.value if self.row.error is not None else "no response"


class Signed(Struct, frozen=True, kw_only=True):
    """The signature of an attempt: its headers, its time, and what was signed."""

    headers: Mapping[str, str]
    number: int
    at: float
    content: str
    timestamped: str | None
    body_bytes: int
    body_sha256: str
    tokens: tuple[str, ...]
    rotated_at: float | None


async def delivery(visit: Visit) -> Response:
    """Show a delivery."""
    query = visit.query(AttemptsQuery)
    detail = await _detail(visit, query.before)
    values = await _values(visit, detail, query.before)
    body = detail.message.body
    text, is_cut = shown(indented(body))
    curl = None if values["receiver"] is None else _curl(detail, await _curl_headers(visit, detail, values))
    return await visit.render(
        "delivery.html", {**values, "payload": text, "payload_is_cut": is_cut, "curl": curl, "body_bytes": len(body)}
    )


async def delivery_parts(visit: Visit) -> Mapping[str, str]:
    """Render the live parts."""
    before = visit.query(AttemptsQuery).before
    values = await _values(visit, await _detail(visit, before), before)
    return {name: visit.part(f"delivery/{name}.html", values) for name in ("facts", "attempts")}


async def retry(visit: Visit) -> Response:
    """Retry a delivery; a refusal is shown on its page."""
    delivery_id = visit.path["deliveryId"]
    force = visit.form.text("force") == "yes"
    try:
        await retry_delivery(visit.call(NoQuery(), Force(force=force), deliveryId=delivery_id))
    except Rejected as refused:
        if refused.code is not ErrorCode.CONFLICT:
            raise
        return await visit.go(f"/deliveries/{delivery_id}", f"Not retried: {refused.detail}.")
    return await visit.go(f"/deliveries/{delivery_id}", "The delivery is queued for a retry.")


async def _detail(visit: Visit, before: int | None) -> DeliveryDetail:
    return await visit.services.store.deliveries.get(
        visit.path["deliveryId"],
        visit.caller.organization_id,
        before=before,
        limit=MOST_ATTEMPTS + 1,  # one more shows whether there are earlier ones
    )


async def _values(visit: Visit, detail: DeliveryDetail, before: int | None) -> dict[str, object]:
    listed, earlier = detail.attempts[-MOST_ATTEMPTS:], detail.attempts[:-MOST_ATTEMPTS]
    receiver = await receiver_of(visit.services, detail, listed[0].started_at if listed else detail.row.created_at)
    view = delivery_view(visit.services, detail.row)
    newest = listed[-1].number if listed and before is None else None
    attempts = [_attempt(detail, receiver, row, is_open=row.number == newest) for row in reversed(listed)]
    return {
        "delivery": view,
        "endpoint": detail.endpoint,
        "is_deleted": detail.endpoint_is_deleted,
        "organization_id": detail.message.organization_id,
        "attempts": attempts,
        "earlier": earlier[-1].number + 1 if earlier else None,
        "is_first_page": before is None,
        "receiver": receiver,
        "signed": await _signed(visit, detail, receiver, listed),
        "retries": _retries(visit, detail, view),
        "reason": REASONS.get(view.error) if view.error is not None else None,
        "forms": _FORMS,
    }


def _attempt(detail: DeliveryDetail, receiver: Receiver | None, row: AttemptRow, *, is_open: bool) -> Attempt:
    return Attempt(
        row=row,
        sent=request_headers(detail, receiver, number=row.number, at=row.started_at),
        reason=REASONS[row.error] if row.error is not None else "The receiver accepted the delivery.",
        body=row.response_body.decode(errors="replace"),
        is_open=is_open,
    )


def _retries(visit: Visit, detail: DeliveryDetail, view: DeliveryView) -> str | None:
    """Return how the caller can retry it: `plain`, with `force`, or not at all (None)."""
    has_sequence = view.sequence > 0  # a test has none
    if not visit.may(Permission.OPERATE) or detail.endpoint_is_deleted or not has_sequence:
        return None
    return "force" if view.status is DeliveryStatus.SUCCEEDED else "plain"


async def _signed(
    visit: Visit, detail: DeliveryDetail, receiver: Receiver | None, listed: list[AttemptRow]
) -> Signed | None:
    if receiver is None:
        return None
    # Without an attempt it is the time of its creation: a live part must not change by itself.
    number, at = (listed[-1].number, listed[-1].started_at) if listed else (1, detail.row.created_at)
    headers = request_headers(detail, receiver, number=number, at=at)
    body = detail.message.body
    start = body[:80].decode(errors="ignore") + ("…" if len(body) > 80 else "")
    is_timestamped = detail.endpoint.signature.form is SignatureForm.TIMESTAMPED
    return Signed(
        headers=headers,
        number=number,
        at=at,
        content=f"{headers['webhook-id']}.{headers['webhook-timestamp']}.{start}",
        timestamped=f"{headers['webhook-timestamp']}.{start}" if is_timestamped else None,
        body_bytes=len(body),
        body_sha256=hashlib.sha256(body).hexdigest(),
        tokens=tuple(token.partition(",")[0] for token in headers["webhook-signature"].split(" ")),
        rotated_at=await _rotated_after(visit, detail.endpoint, at) if listed else None,
    )


async def _rotated_after(visit: Visit, endpoint: Endpoint, at: float) -> float | None:
    """Return when the secret was last rotated after `at`; the page shows signatures of the current secret."""
    found = await visit.services.store.audit.page(
        None,
        actor=None,
        action=Action.WEBHOOK_ROTATE_SECRET,
        what=endpoint.id,
        since=at,
        until=None,
        limit=1,
        cursor=None,
    )
    return found.items[0].at if found.items else None


async def _curl_headers(visit: Visit, detail: DeliveryDetail, values: Mapping[str, object]) -> Mapping[str, str]:
    """Return headers to test a receiver: signed now if the caller may send tests, else those of the last attempt."""
    signed = values["signed"]
    assert isinstance(signed, Signed)  # noqa: S101 - there is a receiver
    if not visit.may(Permission.OPERATE):
        return signed.headers
    receiver = await receiver_of(visit.services, detail, visit.now)
    return request_headers(detail, receiver, number=signed.number, at=visit.now)


def _curl(detail: DeliveryDetail, headers: Mapping[str, str]) -> str:
    body = detail.message.body
    inline = len(body) <= INLINE_BYTES
    data = body.decode() if inline else f"@{detail.message.event_id}.json"
    lines = [f"curl -i {shlex.quote(detail.endpoint.url)}"]
    lines += [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in headers.items()]
    lines.append(f"--data-binary {shlex.quote(data)}")
    return " \\\n  ".join(lines)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


_FORMS = {
    SignatureForm.TIMESTAMPED: "t=<timestamp>,v1=<hex>, as Stripe's libraries verify it",
    SignatureForm.HEX: "the hex HMAC of the body alone",
    SignatureForm.SHA256_HEX: "sha256= and the hex HMAC of the body alone, as GitHub's receivers verify it",
    SignatureForm.OFF: "off for this webhook",
}

PAGES = (
    page("delivery", "GET /deliveries/{deliveryId}", Permission.READ, delivery),
    live("delivery_live", "GET /deliveries/{deliveryId}/live", Permission.READ, delivery_parts),
    page("retry_delivery", "POST /deliveries/{deliveryId}/retry", Permission.OPERATE, retry),
)

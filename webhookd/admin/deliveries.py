"""Deliveries: the list of a webhook, one with all there is to know of it, and a retry by hand."""

from functools import partial
from http import HTTPStatus

from webhookd.admin.auth import Permission
from webhookd.admin.operations import Answer, Call, NoBody, given, operation
from webhookd.admin.schemas import (
    AttemptsQuery,
    DeliveryDetailView,
    DeliveryQuery,
    DeliveryView,
    Force,
    ListQuery,
    NoQuery,
    Page,
)
from webhookd.admin.services import Services
from webhookd.admin.views import delivery, detailed, hidden_headers, page
from webhookd.base.clock import TimeError, parse_iso
from webhookd.base.errors import ErrorCode
from webhookd.base.event_format import invalid
from webhookd.delivery.request import Receiver, compose
from webhookd.journal import Action, DeliveryDetail, DeliveryRow


async def list_deliveries(call: Call[DeliveryQuery, NoBody]) -> Answer:
    """Answer with a page of the webhook's deliveries."""
    services, query = call.services, call.query
    endpoint = await call.find_webhook()
    found = await services.store.deliveries.page(
        endpoint.pk,
        status=query.status,
        event=query.event,
        event_id=query.event_id,
        since=query_time("since", query.since),
        until=query_time("until", query.until),
        limit=query.rows,
        cursor=query.cursor,
    )
    return Answer(value=page(found, partial(delivery_view, services)))


async def list_event_deliveries(call: Call[ListQuery, NoBody]) -> Answer:
    """Answer with a page of where an event went."""
    services, query, organization_id = call.services, call.query, call.caller.organization_id
    event = await services.store.events.get(call.path["eventId"], organization_id)
    found = await services.store.deliveries.of_event(event.pk, organization_id, limit=query.rows, cursor=query.cursor)
    return Answer(value=page(found, partial(delivery_view, services)))


async def get_delivery(call: Call[AttemptsQuery, NoBody]) -> Answer:
    """Answer with one delivery, its request and its last attempts."""
    services = call.services
    detail = await services.store.deliveries.get(
        call.path["deliveryId"], call.caller.organization_id, before=call.query.before
    )
    # Of the last attempt in the answer: as long as the secret is the same, these headers are those that were sent.
    last = detail.attempts[-1] if detail.attempts else None
    number, at = (1, services.clock.now()) if last is None else (last.number, last.started_at)
    receiver = await receiver_of(services, detail, at)
    headers = request_headers(detail, receiver, number=number, at=at)
    return Answer(value=detailed(delivery_view(services, detail.row), detail, headers))


async def retry_delivery(call: Call[NoQuery, Force]) -> Answer:
    """Send a delivery again."""
    entry = call.audit_entry(Action.DELIVERY_RETRY, given(call.body))
    row = await call.services.router.retry(
        call.path["deliveryId"], call.caller.organization_id, entry, force=call.body.force
    )
    return Answer(value=delivery_view(call.services, row))


async def receiver_of(services: Services, detail: DeliveryDetail, at: float) -> Receiver | None:
    """Return what signs a delivery's requests from `at` on; None once its webhook has been deleted."""
    if detail.endpoint_is_deleted:
        return None
    credentials = await services.store.webhooks.credentials(services.vault, detail.endpoint.pk, at)
    return None if credentials is None else Receiver(detail.endpoint, credentials)


def request_headers(detail: DeliveryDetail, receiver: Receiver | None, *, number: int, at: float) -> dict[str, str]:
    """Return the headers of attempt `number` of a delivery, as of `at`, with the values of custom ones hidden."""
    headers: dict[str, str] = {}
    if receiver is not None:
        headers = dict(
            compose(
                receiver=receiver,
                message=detail.message,
                delivery_id=detail.row.id,
                number=number,
                sequence=detail.row.sequence,
                at=at,
            )
        )
    headers.update(hidden_headers(detail.endpoint))
    return headers


def delivery_view(services: Services, row: DeliveryRow) -> DeliveryView:
    """Return a delivery as the API shows it."""
    return delivery(row, in_flight=row.pk in services.router.registry.being_sent(row.endpoint_pk))


def query_time(name: str, text: str | None) -> float | None:
    """Read a time of a query, which may be missing; Rejected as by `parse_time`.

    A `+` that nobody encoded has become a space: in a time it can only have been the zone's.
    """
    return None if text is None else parse_time(name, text.replace(" ", "+"))


def parse_time(name: str, text: str) -> float:
    """Read the time in the field or parameter `name`; Rejected VALIDATION_ERROR with its pointer."""
    try:
        return parse_iso(text)
    except TimeError as error:
        raise invalid(((f"/{name}", f"takes {error}"),)) from error


OPERATIONS = (
    operation(
        "listDeliveries",
        "GET /api/webhooks/{webhookId}/deliveries",
        Permission.READ,
        "List the deliveries of a webhook, newest first",
        list_deliveries,
        answers={HTTPStatus.OK: Page[DeliveryView]},
        refuses=(ErrorCode.NOT_FOUND, ErrorCode.INVALID_CURSOR),
    ),
    operation(
        "listEventDeliveries",
        "GET /api/events/{eventId}/deliveries",
        Permission.READ,
        "List where an event went, oldest delivery first",
        list_event_deliveries,
        answers={HTTPStatus.OK: Page[DeliveryView]},
        refuses=(ErrorCode.NOT_FOUND, ErrorCode.INVALID_CURSOR),
    ),
    operation(
        "getDelivery",
        "GET /api/webhooks/deliveries/{deliveryId}",
        Permission.READ,
        "Read a delivery with its request and its last 100 attempts; `before` a number, those that came earlier",
        get_delivery,
        answers={HTTPStatus.OK: DeliveryDetailView},
        refuses=(ErrorCode.NOT_FOUND,),
    ),
    operation(
        "retryDelivery",
        "POST /api/webhooks/deliveries/{deliveryId}/retry",
        Permission.OPERATE,
        "Send a delivery again; one that has succeeded needs force",
        retry_delivery,
        optional_body=True,
        answers={HTTPStatus.OK: DeliveryView},
        refuses=(ErrorCode.NOT_FOUND, ErrorCode.CONFLICT),
    ),
)

"""Deliveries: the lists of a webhook and of an event, one delivery in detail, and retries by hand."""

from functools import partial

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


async def list_deliveries(call: Call[DeliveryQuery, NoBody]) -> Answer[Page[DeliveryView]]:
    """List the deliveries of a webhook, newest first."""
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


async def list_event_deliveries(call: Call[ListQuery, NoBody]) -> Answer[Page[DeliveryView]]:
    """List the deliveries of an event, oldest first."""
    services, query, organization_id = call.services, call.query, call.caller.organization_id
    event = await services.store.events.get(call.path["eventId"], organization_id)
    found = await services.store.deliveries.of_event(event.pk, organization_id, limit=query.rows, cursor=query.cursor)
    return Answer(value=page(found, partial(delivery_view, services)))


async def get_delivery(call: Call[AttemptsQuery, NoBody]) -> Answer[DeliveryDetailView]:
    """Read a delivery with its request and its last 100 attempts, or the 100 before attempt `before`."""
    services = call.services
    detail = await services.store.deliveries.get(
        call.path["deliveryId"], call.caller.organization_id, before=call.query.before
    )
    # The headers are those of the last attempt in the answer, if the secret hasn't changed since.
    last = detail.attempts[-1] if detail.attempts else None
    number, at = (1, services.clock.now()) if last is None else (last.number, last.started_at)
    receiver = await receiver_of(services, detail, at)
    headers = request_headers(detail, receiver, number=number, at=at)
    return Answer(value=detailed(delivery_view(services, detail.row), detail, headers))


async def retry_delivery(call: Call[NoQuery, Force]) -> Answer[DeliveryView]:
    """Retry a delivery; one that has succeeded needs force."""
    entry = call.audit_entry(Action.DELIVERY_RETRY, given(call.body))
    row = await call.services.router.retry(
        call.path["deliveryId"], call.caller.organization_id, entry, force=call.body.force
    )
    return Answer(value=delivery_view(call.services, row))


async def receiver_of(services: Services, detail: DeliveryDetail, at: float) -> Receiver | None:
    """Return the endpoint of a delivery with its credentials at the time `at`; None once its webhook is deleted."""
    if detail.endpoint_is_deleted:
        return None
    credentials = await services.store.webhooks.credentials(services.vault, detail.endpoint.pk, at)
    return None if credentials is None else Receiver(detail.endpoint, credentials)


def request_headers(detail: DeliveryDetail, receiver: Receiver | None, *, number: int, at: float) -> dict[str, str]:
    """Return the headers of attempt `number` at the time `at`, with the values of custom headers hidden."""
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
    lane = services.router.registry.lane(row.endpoint_pk)
    return delivery(row, in_flight=lane is not None and row.pk in lane.in_flight)


def query_time(name: str, text: str | None) -> float | None:
    """Parse an optional time of a query; Rejected as by `parse_time`.

    A `+` that the client didn't encode was decoded as a space; in a time it can only be the zone's sign.
    """
    return None if text is None else parse_time(name, text.replace(" ", "+"))


def parse_time(name: str, text: str) -> float:
    """Parse the time of the field or parameter `name`; Rejected VALIDATION_ERROR with its pointer."""
    try:
        return parse_iso(text)
    except TimeError as error:
        raise invalid(((f"/{name}", f"takes {error}"),)) from error


OPERATIONS = (
    operation(list_deliveries, "GET /api/webhooks/{webhookId}/deliveries", Permission.READ),
    operation(list_event_deliveries, "GET /api/events/{eventId}/deliveries", Permission.READ),
    operation(get_delivery, "GET /api/webhooks/deliveries/{deliveryId}", Permission.READ),
    operation(
        retry_delivery,
        "POST /api/webhooks/deliveries/{deliveryId}/retry",
        Permission.OPERATE,
        optional_body=True,
        refuses=(ErrorCode.CONFLICT,),
    ),
)
